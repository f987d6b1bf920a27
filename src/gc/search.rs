//! Search: whether a root reaches something, found backwards from it. Pure; a resource is a number here.
//!
//! Where mark starts from all roots, a search starts from the few resources that may have become garbage, and asks who
//! refers to them, who refers to those, and so on until it meets a root. It asks for referrers one by one, and no more
//! once it knows: a parent with a thousand children is known to stay after the first child that does.
//!
//! What is searched for is a *state*: a resource, and what kind of root it takes. A flat lease's reach ends at the
//! first label, so behind a label only a root that reaches along every edge will do:
//!
//! ```text
//! (to, any root)  ◀─ part ──  (from, any root)            (to, full root)  ◀─ any tie ──  (from, full root)
//!                 ◀─ label ─  (from, full root)
//! ```
//!
//! Depth first over states, with Tarjan's numbering for cycles. Two facts make each state's fate final, so that no
//! state is looked at twice:
//!
//! - When a root is met, every open state leads to it: a state stays open only while it leads to one on the path, and
//!   the path leads to the root.
//! - When a group of states that lead to each other is left without a root, all that they lead to has been seen:
//!   nothing reaches them.

use super::mark::Depth;
use super::source::Tie;

/// Where a search asks.
pub(super) trait Web {
    /// Why it couldn't answer.
    type Error;

    /// How far the node reaches as a root; `None`: it isn't one.
    fn root(&mut self, node: usize) -> Result<Option<Depth>, Self::Error>;

    /// One of those that refer to the node, counted from 0; `None`: there are no more.
    fn referrer(&mut self, node: usize, nth: usize) -> Result<Option<(Tie, usize)>, Self::Error>;
}

/// A node, and the least root that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    node: usize,
    takes: Depth,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Unknown,
    /// Entered as the so-manieth, and not decided yet.
    Open(usize),
    Reached,
    Lost,
}

/// What all searches of a run have found out.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// For each node, by what kind of root it takes.
    fates: Vec<[Fate; 2]>,
    /// States in the order in which they were entered, but for decided ones.
    open: Vec<State>,
    entered: usize,
    /// Nodes that were found lost in one way or another and that nobody was told of yet.
    lost: Vec<usize>,
}

/// A state on the path from the start.
struct Step {
    state: State,
    entered: usize,
    /// The earliest open state that it is known to lead to.
    low: usize,
    next: usize,
}

impl Search {
    /// Whether anything reaches the node. After an error the search is of no use any more.
    pub(super) fn is_reached<W: Web>(
        &mut self,
        web: &mut W,
        node: usize,
    ) -> Result<bool, W::Error> {
        let start = State { node, takes: Depth::Flat };
        match self.fate(start) {
            Fate::Reached => return Ok(true),
            Fate::Lost => return Ok(false),
            Fate::Unknown | Fate::Open(_) => {}
        }
        let mut path = Vec::new();
        if self.enter(web, start, &mut path)? {
            return Ok(true);
        }
        while let Some(step) = path.last_mut() {
            let Some((tie, from)) = web.referrer(step.state.node, step.next)? else {
                self.leave(&mut path);
                continue;
            };
            step.next += 1;
            let takes = if tie == Tie::Label { Depth::Full } else { step.state.takes };
            let from = State { node: from, takes };
            let met = match self.fate(from) {
                Fate::Reached => true,
                Fate::Lost => false,
                Fate::Open(entered) => {
                    step.low = step.low.min(entered);
                    false
                }
                Fate::Unknown => self.enter(web, from, &mut path)?,
            };
            if met {
                self.decide(0, Fate::Reached);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Nodes that have turned out, since this was asked before, to be reached by no root, or by no full one.
    pub(super) fn take_lost(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.lost)
    }

    /// Whether the state is a root itself; if not, it is the path's new end.
    fn enter<W: Web>(
        &mut self,
        web: &mut W,
        state: State,
        path: &mut Vec<Step>,
    ) -> Result<bool, W::Error> {
        if web.root(state.node)?.is_some_and(|root| root <= state.takes) {
            self.set(state, Fate::Reached);
            self.decide(0, Fate::Reached);
            return Ok(true);
        }
        self.entered += 1;
        let entered = self.entered;
        self.set(state, Fate::Open(entered));
        self.open.push(state);
        path.push(Step { state, entered, low: entered, next: 0 });
        Ok(false)
    }

    fn leave(&mut self, path: &mut Vec<Step>) {
        let Some(step) = path.pop() else { return };
        if step.low == step.entered {
            let from = self.open.iter().rposition(|open| *open == step.state);
            self.decide(from.expect("what is on the path is open"), Fate::Lost);
        }
        if let Some(before) = path.last_mut() {
            before.low = before.low.min(step.low);
        }
    }

    /// Decides the open states from this one on.
    fn decide(&mut self, from: usize, fate: Fate) {
        for state in self.open.split_off(from) {
            self.set(state, fate);
            if fate == Fate::Lost {
                self.lost.push(state.node);
            }
        }
    }

    fn fate(&self, state: State) -> Fate {
        let of = |takes| self.fates.get(state.node).map_or(Fate::Unknown, |f| f[column(takes)]);
        match of(Depth::Full) {
            // A full root does for whoever takes any.
            Fate::Reached => Fate::Reached,
            Fate::Unknown | Fate::Open(_) | Fate::Lost => of(state.takes),
        }
    }

    fn set(&mut self, state: State, fate: Fate) {
        if self.fates.len() <= state.node {
            self.fates.resize(state.node + 1, [Fate::Unknown; 2]);
        }
        self.fates[state.node][column(state.takes)] = fate;
    }
}

fn column(takes: Depth) -> usize {
    match takes {
        Depth::Full => 0,
        Depth::Flat => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::mark::{Edges, mark};
    use super::*;

    /// A whole graph, that counts what it is asked.
    struct Whole {
        referrers: Vec<Vec<(Tie, usize)>>,
        roots: HashMap<usize, Depth>,
        asked: usize,
    }

    impl Whole {
        fn new(edges: &Edges, roots: &[(usize, Depth)]) -> Self {
            let mut referrers = vec![Vec::new(); edges.len()];
            for (from, edges) in edges.iter().enumerate() {
                edges.iter().for_each(|(tie, to)| referrers[*to].push((*tie, from)));
            }
            let mut least = HashMap::new();
            for (root, depth) in roots {
                let held = least.entry(*root).or_insert(*depth);
                *held = (*held).min(*depth);
            }
            Self { referrers, roots: least, asked: 0 }
        }
    }

    impl Web for Whole {
        type Error = Infallible;

        fn root(&mut self, node: usize) -> Result<Option<Depth>, Infallible> {
            Ok(self.roots.get(&node).copied())
        }

        fn referrer(
            &mut self,
            node: usize,
            nth: usize,
        ) -> Result<Option<(Tie, usize)>, Infallible> {
            self.asked += 1;
            Ok(self.referrers[node].get(nth).copied())
        }
    }

    fn asked(web: &mut Whole, search: &mut Search, node: usize) -> bool {
        search.is_reached(web, node).unwrap_or_else(|never| match never {})
    }

    fn graphs() -> impl Strategy<Value = (Edges, Vec<(usize, Depth)>, Vec<usize>)> {
        (1_usize..24).prop_flat_map(|nodes| {
            let tie = prop_oneof![Just(Tie::Part), Just(Tie::Label)];
            let depth = prop_oneof![Just(Depth::Full), Just(Depth::Flat)];
            let edges = prop::collection::vec((0..nodes, tie, 0..nodes), 0..60);
            let roots = prop::collection::vec((0..nodes, depth), 0..4);
            let questions = Just((0..nodes).collect::<Vec<_>>()).prop_shuffle();
            (edges, roots, questions).prop_map(move |(list, roots, questions)| {
                let mut edges = vec![Vec::new(); nodes];
                list.into_iter().for_each(|(from, tie, to)| edges[from].push((tie, to)));
                (edges, roots, questions)
            })
        })
    }

    proptest! {
        #![proptest_config(crate::testing::random(2_000, 10_000))]

        /// In whatever order it is asked, one search after the other, whatever cycles there are; and no edge is
        /// followed more often than there are states at its end.
        #[test]
        fn a_search_says_what_mark_says((edges, roots, questions) in graphs()) {
            let reached = mark(&edges, &roots);
            let (mut web, mut search) = (Whole::new(&edges, &roots), Search::default());
            for node in questions {
                prop_assert_eq!(asked(&mut web, &mut search, node), reached[node], "node {}", node);
            }
            let all: usize = edges.iter().map(Vec::len).sum();
            prop_assert!(web.asked <= 2 * (all + edges.len()), "{} questions", web.asked);
        }
    }

    #[test]
    fn a_parent_of_many_is_known_after_one_child_that_stays_and_a_long_chain_is_no_trouble() {
        let many = 100_000;
        let mut edges: Edges = (0..many).map(|_| vec![(Tie::Part, 0)]).collect();
        let (mut web, mut search) =
            (Whole::new(&edges, &[(many / 2, Depth::Full)]), Search::default());
        web.referrers[0].rotate_left(many / 2);
        assert!(asked(&mut web, &mut search, 0));
        assert_eq!(web.asked, 1);

        edges = (0..many).map(|n| vec![(Tie::Part, (n + 1) % many)]).collect();
        let (mut web, mut search) = (Whole::new(&edges, &[]), Search::default());
        assert!(!asked(&mut web, &mut search, 7));
        assert!(!asked(&mut web, &mut search, 8), "known by now");
        assert_eq!(web.asked, 2 * many);
    }
}
