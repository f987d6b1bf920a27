//! The order of a sweep: whoever refers goes before what it refers to. Pure.

use super::mark::Edges;

/// Groups the garbage so that no group refers to an earlier one. Resources of one cycle, which only
/// go together, are one group; all others stand alone. (Tarjan's strongly connected components,
/// without recursion: a chain may be long.)
pub(super) fn order(edges: &Edges, garbage: &[bool]) -> Vec<Vec<usize>> {
    let mut search = Search {
        edges,
        garbage,
        seen: vec![0; edges.len()],
        low: vec![0; edges.len()],
        on_stack: vec![false; edges.len()],
        stack: Vec::new(),
        count: 0,
        groups: Vec::new(),
    };
    (0..edges.len()).filter(|node| garbage[*node]).for_each(|node| search.from(node));
    search.groups.reverse();
    search.groups
}

struct Search<'a> {
    edges: &'a Edges,
    garbage: &'a [bool],
    /// When each was come by, counted from 1; 0: not yet.
    seen: Vec<usize>,
    /// The earliest on the stack that each is known to reach.
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    count: usize,
    /// What is referred to first.
    groups: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn from(&mut self, start: usize) {
        if self.seen[start] != 0 {
            return;
        }
        self.enter(start);
        let mut path = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            match self.edges[node].get(*next) {
                Some((_, to)) => {
                    *next += 1;
                    if self.look(node, *to) {
                        path.push((*to, 0));
                    }
                }
                None => {
                    path.pop();
                    self.leave(node, path.last().map(|(parent, _)| *parent));
                }
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.count += 1;
        self.seen[node] = self.count;
        self.low[node] = self.count;
        self.on_stack[node] = true;
        self.stack.push(node);
    }

    /// Whether the search is to go on at `to`.
    fn look(&mut self, node: usize, to: usize) -> bool {
        if !self.garbage[to] {
            return false;
        }
        if self.seen[to] == 0 {
            self.enter(to);
            return true;
        }
        if self.on_stack[to] {
            self.low[node] = self.low[node].min(self.seen[to]);
        }
        false
    }

    fn leave(&mut self, node: usize, parent: Option<usize>) {
        if self.low[node] == self.seen[node] {
            let from = self.stack.iter().rposition(|n| *n == node).expect("it was entered");
            let group = self.stack.split_off(from);
            group.iter().for_each(|member| self.on_stack[*member] = false);
            self.groups.push(group);
        }
        if let Some(parent) = parent {
            self.low[parent] = self.low[parent].min(self.low[node]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::source::Tie;
    use super::*;

    fn edges(nodes: usize, list: &[(usize, usize)]) -> Edges {
        let mut edges = vec![Vec::new(); nodes];
        list.iter().for_each(|(from, to)| edges[*from].push((Tie::Part, *to)));
        edges
    }

    proptest! {
        #![proptest_config(crate::testing::random(256, 1_000))]
        #[test]
        fn each_goes_once_after_all_that_refer_to_it(
            list in prop::collection::vec((0_usize..30, 0_usize..30), 0..60),
            garbage in prop::collection::vec(any::<bool>(), 30),
        ) {
            let groups = order(&edges(30, &list), &garbage);
            let mut position = vec![None; 30];
            for (at, group) in groups.iter().enumerate() {
                for node in group {
                    prop_assert!(garbage[*node]);
                    prop_assert_eq!(position[*node].replace(at), None);
                }
            }
            prop_assert_eq!(position.iter().flatten().count(), garbage.iter().filter(|g| **g).count());
            for (from, to) in list {
                if let (Some(from), Some(to)) = (position[from], position[to]) {
                    prop_assert!(from <= to, "{from} refers to {to}");
                }
            }
        }
    }

    #[test]
    fn a_cycle_is_one_group_and_a_long_chain_goes_from_its_end() {
        let groups = order(&edges(4, &[(0, 1), (1, 2), (2, 0), (2, 3)]), &[true; 4]);
        assert_eq!(groups.len(), 2);
        assert_eq!((groups[0].len(), groups[1].clone()), (3, vec![3]));
        let chain: Vec<_> = (1..100_000).map(|n| (n, n - 1)).collect();
        let groups = order(&edges(100_000, &chain), &vec![true; 100_000]);
        assert_eq!(groups.first(), Some(&vec![99_999]));
        assert_eq!(groups.len(), 100_000);
    }
}
