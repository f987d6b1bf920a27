//! All resources of one namespace and what they refer to, gathered from the sources.

use std::collections::HashMap;
use std::time::SystemTime;

use super::mark::{Depth, Edges};
use super::source::{Found, Resource, Tie};

/// A resource as its scan found it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) resource: Resource,
    pub(super) version: u64,
    /// Why it stays whatever refers to it.
    pub(super) root: Option<String>,
}

/// What was gathered so far; references may come before what they refer to.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    nodes: Vec<Node>,
    index: HashMap<Resource, usize>,
    references: Vec<(Resource, Tie, Resource)>,
    ends: Vec<(SystemTime, Resource)>,
}

/// A namespace's resources, by number.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Edges,
    index: HashMap<Resource, usize>,
    /// When some of them cease to be roots by themselves.
    pub(super) ends: Vec<(SystemTime, Resource)>,
}

impl Gathering {
    /// Gives its number.
    pub(super) fn add(&mut self, kind: super::Kind, found: Found) -> usize {
        let Found { id, version, root, until, edges, back } = found;
        let resource = Resource::new(kind, id);
        self.ends.extend(until.map(|end| (end, resource.clone())));
        for (tie, to) in edges {
            self.references.push((resource.clone(), tie, to));
        }
        for from in back {
            self.references.push((from, Tie::Label, resource.clone()));
        }
        let number = self.nodes.len();
        self.index.insert(resource.clone(), number);
        self.nodes.push(Node { resource, version, root });
        number
    }

    /// References from or to what doesn't exist are dropped.
    pub(super) fn finish(self) -> Graph {
        let Self { nodes, index, references, ends } = self;
        let mut edges: Edges = vec![Vec::new(); nodes.len()];
        for (from, tie, to) in references {
            if let (Some(from), Some(to)) = (index.get(&from), index.get(&to)) {
                edges[*from].push((tie, *to));
            }
        }
        Graph { nodes, edges, index, ends }
    }
}

impl Graph {
    /// The number of a resource, if it exists.
    pub(super) fn find(&self, resource: &Resource) -> Option<usize> {
        self.index.get(resource).copied()
    }

    /// Everything that is a root by itself.
    pub(super) fn roots(&self) -> Vec<(usize, Depth)> {
        let held = |(at, node): (usize, &Node)| node.root.as_ref().map(|_| (at, Depth::Full));
        self.nodes.iter().enumerate().filter_map(held).collect()
    }

    /// For each resource, one that refers to it and goes as well.
    pub(super) fn referrers(&self, garbage: &[bool]) -> HashMap<usize, usize> {
        let mut referrers = HashMap::new();
        for (from, edges) in self.edges.iter().enumerate().filter(|(from, _)| garbage[*from]) {
            referrers
                .extend(edges.iter().filter(|(_, to)| garbage[*to]).map(|(_, to)| (*to, from)));
        }
        referrers
    }
}
