//! The part of a namespace around what may have become garbage: as much of the graph as it takes to judge that.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use super::graph::{Gathering, Graph};
use super::mark::Depth;
use super::search::{Search, Web};
use super::source::{Found, Link, Resource, Source, Tie};
use super::{Collector, labels};
use crate::snapshot::Result;
use crate::types::{LeaseId, Leased, Namespace};

/// A graph that holds, of all that the search found lost, everything that refers to it; and the roots in it.
pub(super) struct Part {
    pub(super) graph: Graph,
    pub(super) roots: Vec<(usize, Depth)>,
}

/// What has been looked at so far, by number.
struct Trace<'a> {
    collector: &'a Collector,
    ns: &'a Namespace,
    sources: &'a [Arc<dyn Source>],
    /// When the run began.
    now: SystemTime,
    numbers: HashMap<Resource, usize>,
    nodes: Vec<Node>,
    /// How far each lease reaches; `None`: it has ended.
    leases: HashMap<LeaseId, Option<Depth>>,
}

struct Node {
    resource: Resource,
    /// `None`: not looked at yet.
    looked: Option<Looked>,
    referrers: Vec<(Tie, usize)>,
    /// Which source and link to ask next for more of them, and after which id.
    next: (usize, Option<String>),
}

struct Looked {
    /// `None`: there is no such resource.
    found: Option<Found>,
    root: Option<Depth>,
}

/// Ways to refer to something.
const LINKS: [(Link, Tie); 2] = [(Link::Part, Tie::Part), (Link::Label, Tie::Label)];

impl Collector {
    /// Searches for what reaches these; what turns out to be garbage makes a suspect of whatever it refers to.
    pub(super) fn trace(
        &self,
        ns: &Namespace,
        sources: &[Arc<dyn Source>],
        suspects: &BTreeSet<Resource>,
        now: SystemTime,
    ) -> Result<Part> {
        let (numbers, nodes, leases) = Default::default();
        let mut trace = Trace { collector: self, ns, sources, now, numbers, nodes, leases };
        let mut search = Search::default();
        let mut asked = BTreeSet::new();
        let mut queue: VecDeque<usize> =
            suspects.iter().map(|suspect| trace.number(suspect.clone())).collect();
        while let Some(suspect) = queue.pop_front() {
            if !asked.insert(suspect) {
                continue;
            }
            if !search.is_reached(&mut trace, suspect)? {
                queue.extend(trace.kept_by(suspect)?);
            }
            // Whoever refers to garbage without being reached is garbage, too.
            queue.extend(search.take_lost());
        }
        Ok(trace.into_part())
    }
}

impl Trace<'_> {
    fn number(&mut self, resource: Resource) -> usize {
        if let Some(number) = self.numbers.get(&resource) {
            return *number;
        }
        let number = self.nodes.len();
        self.numbers.insert(resource.clone(), number);
        let (looked, referrers, next) = (None, Vec::new(), (0, None));
        self.nodes.push(Node { resource, looked, referrers, next });
        number
    }

    fn look(&mut self, node: usize) -> Result<&Looked> {
        if self.nodes[node].looked.is_none() {
            let resource = self.nodes[node].resource.clone();
            let found = match self.source_of(&resource) {
                Some(source) => source.look(self.ns, &resource.id)?,
                None => None,
            };
            let root = match &found {
                Some(found) if found.root.is_some() => Some(Depth::Full),
                Some(_) => self.leased(&resource)?,
                None => None,
            };
            let back = found.iter().flat_map(|found| found.back.clone()).collect::<Vec<_>>();
            for keeper in back {
                let keeper = self.number(keeper);
                self.nodes[node].referrers.push((Tie::Label, keeper));
            }
            self.nodes[node].looked = Some(Looked { found, root });
        }
        Ok(self.nodes[node].looked.as_ref().expect("looked at above"))
    }

    fn source_of(&self, resource: &Resource) -> Option<&Arc<dyn Source>> {
        self.sources.iter().find(|source| source.kind() == resource.kind)
    }

    /// How far the leases reach that hold it.
    fn leased(&mut self, resource: &Resource) -> Result<Option<Depth>> {
        let (kind, id) = (resource.kind.to_owned(), resource.id.clone());
        let store = self.collector.store();
        let mut best = None;
        for lease in store.holders(self.ns, &Leased { kind, id })? {
            let depth = match self.leases.get(&lease) {
                Some(depth) => *depth,
                None => {
                    let found = store.lease(self.ns, &lease)?;
                    let depth = found.and_then(|found| labels::reach(&found, self.now));
                    self.leases.insert(lease, depth);
                    depth
                }
            };
            best = [best, depth].into_iter().flatten().min();
        }
        Ok(best)
    }

    /// Reads one more page of what refers to the node; false: there is none.
    fn read_more(&mut self, node: usize) -> Result<bool> {
        let (at, after) = self.nodes[node].next.clone();
        let Some(source) = self.sources.get(at / LINKS.len()) else { return Ok(false) };
        let (link, tie) = LINKS[at % LINKS.len()];
        let page = source.naming(self.ns, &self.nodes[node].resource, link, after.as_deref())?;
        self.nodes[node].next = match page.last() {
            Some(last) => (at, Some(last.clone())),
            None => (at + 1, None),
        };
        for id in page {
            let referrer = self.number(Resource::new(source.kind(), id));
            self.nodes[node].referrers.push((tie, referrer));
        }
        Ok(true)
    }

    /// What stays as long as the node does, as far as it is concerned.
    fn kept_by(&mut self, node: usize) -> Result<Vec<usize>> {
        let resource = self.nodes[node].resource.clone();
        let mut kept: Vec<Resource> = Vec::new();
        if let Some(found) = &self.look(node)?.found {
            kept.extend(found.edges.iter().map(|(_, to)| to.clone()));
        }
        for source in self.sources {
            let mut after = None;
            loop {
                let page = source.naming(self.ns, &resource, Link::Back, after.as_deref())?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                kept.extend(page.into_iter().map(|id| Resource::new(source.kind(), id)));
            }
        }
        Ok(kept.into_iter().map(|resource| self.number(resource)).collect())
    }

    fn into_part(self) -> Part {
        let mut gathering = Gathering::default();
        let mut roots = Vec::new();
        for node in self.nodes {
            let Some(Looked { found: Some(found), root }) = node.looked else { continue };
            let number = gathering.add(node.resource.kind, found);
            roots.extend(root.map(|depth| (number, depth)));
        }
        Part { graph: gathering.finish(), roots }
    }
}

impl Web for Trace<'_> {
    type Error = crate::snapshot::Error;

    fn root(&mut self, node: usize) -> Result<Option<Depth>> {
        Ok(self.look(node)?.root)
    }

    fn referrer(&mut self, node: usize, nth: usize) -> Result<Option<(Tie, usize)>> {
        if self.look(node)?.found.is_none() {
            return Ok(None); // what isn't there is kept by nothing, and keeps nothing
        }
        while self.nodes[node].referrers.len() <= nth {
            if !self.read_more(node)? {
                return Ok(None);
            }
        }
        Ok(self.nodes[node].referrers.get(nth).copied())
    }
}
