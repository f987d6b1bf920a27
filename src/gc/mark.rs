//! Mark: what can be reached from the roots. Pure; a resource is a number here.

use super::source::Tie;

/// What each resource refers to.
pub(super) type Edges = Vec<Vec<(Tie, usize)>>;

/// How far a root reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Along every edge.
    Full,
    /// Along parts only, not along labels: a flat lease's.
    Flat,
}

/// Whether each resource can be reached.
///
/// Tricolour: white is what no one has come by, grey what waits in the worklist, black what was
/// looked at. A root that reaches along every edge goes first; then one that follows parts alone
/// has nothing to add to what is black already, so each resource is grey at most once.
pub(super) fn mark(edges: &Edges, roots: &[(usize, Depth)]) -> Vec<bool> {
    let mut black = vec![false; edges.len()];
    for depth in [Depth::Full, Depth::Flat] {
        let mut grey: Vec<usize> =
            roots.iter().filter(|root| root.1 == depth).map(|root| root.0).collect();
        while let Some(node) = grey.pop() {
            if std::mem::replace(&mut black[node], true) {
                continue;
            }
            let follow = |tie: Tie| depth == Depth::Full || tie == Tie::Part;
            let next = edges[node].iter().filter(|(tie, to)| follow(*tie) && !black[*to]);
            grey.extend(next.map(|(_, to)| to));
        }
    }
    black
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition of reachable, with no care for speed: what a root is, and what something
    /// reachable refers to, again and again.
    fn reachable(edges: &Edges, roots: &[(usize, Depth)]) -> Vec<bool> {
        let mut full = vec![false; edges.len()];
        let mut flat = vec![false; edges.len()];
        for (root, depth) in roots {
            match depth {
                Depth::Full => full[*root] = true,
                Depth::Flat => flat[*root] = true,
            }
        }
        for _ in 0..edges.len() {
            for from in 0..edges.len() {
                for (tie, to) in &edges[from] {
                    full[*to] |= full[from];
                    flat[*to] |= flat[from] && *tie == Tie::Part;
                }
            }
        }
        full.into_iter().zip(flat).map(|(full, flat)| full || flat).collect()
    }

    fn graphs() -> impl Strategy<Value = (Edges, Vec<(usize, Depth)>)> {
        (1_usize..40).prop_flat_map(|nodes| {
            let tie = prop_oneof![Just(Tie::Part), Just(Tie::Label)];
            let depth = prop_oneof![Just(Depth::Full), Just(Depth::Flat)];
            let edges = prop::collection::vec((0..nodes, tie, 0..nodes), 0..80);
            let roots = prop::collection::vec((0..nodes, depth), 0..6);
            (edges, roots).prop_map(move |(list, roots)| {
                let mut edges = vec![Vec::new(); nodes];
                list.into_iter().for_each(|(from, tie, to)| edges[from].push((tie, to)));
                (edges, roots)
            })
        })
    }

    proptest! {
        #![proptest_config(crate::testing::random(256, 1_000))]
        /// Never frees what is reachable, always frees what isn't, whatever cycles there are.
        #[test]
        fn exactly_what_can_be_reached_is_marked((edges, roots) in graphs()) {
            prop_assert_eq!(mark(&edges, &roots), reachable(&edges, &roots));
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_and_a_cycle_are_no_trouble() {
        let nodes = 100_000;
        let mut edges: Edges = (0..nodes).map(|n| vec![(Tie::Part, (n + 1) % nodes)]).collect();
        assert!(mark(&edges, &[(5, Depth::Full)]).into_iter().all(|marked| marked));
        assert!(mark(&edges, &[]).into_iter().all(|marked| !marked));
        edges[10] = vec![(Tie::Label, 11)];
        assert_eq!(mark(&edges, &[(9, Depth::Flat)]).into_iter().filter(|m| *m).count(), 2);
    }
}
