//! The few resources that a sweep removes at once.

use std::collections::VecDeque;

use super::source::Resource;

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// To be removed, or removed once the source has returned.
    Goes,
    /// Something has come to need it since the mark, or it is busy.
    Stays(String),
    /// It couldn't be removed.
    Failed(String),
}

/// Resources of one kind that a [`Source`](super::Source) is to remove: whoever refers stands before
/// what it refers to. Keeping one keeps also what it refers to among them, and the whole of a
/// cycle.
#[derive(Debug)]
pub struct Doomed<'a> {
    items: Vec<(&'a Resource, u64)>,
    /// For each, the positions of what it refers to.
    targets: Vec<Vec<usize>>,
    fates: Vec<Fate>,
}

impl<'a> Doomed<'a> {
    pub(super) fn new(items: Vec<(&'a Resource, u64)>, targets: Vec<Vec<usize>>) -> Self {
        debug_assert_eq!(items.len(), targets.len());
        let fates = vec![Fate::Goes; items.len()];
        Self { items, targets, fates }
    }

    /// How many there are, kept ones included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The id of one.
    pub fn id(&self, at: usize) -> &'a str {
        &self.items[at].0.id
    }

    /// What its scan said it was: [`Found::version`](super::Found::version).
    pub fn version(&self, at: usize) -> u64 {
        self.items[at].1
    }

    /// Positions of those that are still to be removed.
    pub fn left(&self) -> Vec<usize> {
        (0..self.len()).filter(|at| self.goes(*at)).collect()
    }

    /// Whether this one is still to be removed.
    pub fn goes(&self, at: usize) -> bool {
        self.fates[at] == Fate::Goes
    }

    /// This one is needed after all, or busy; a later run looks at it again.
    pub fn keep(&mut self, at: usize, why: impl Into<String>) {
        self.spread(at, Fate::Stays(why.into()));
    }

    /// This one couldn't be removed; the run is repeated.
    pub fn fail(&mut self, at: usize, why: impl Into<String>) {
        self.spread(at, Fate::Failed(why.into()));
    }

    fn spread(&mut self, at: usize, fate: Fate) {
        let why = match &fate {
            Fate::Goes => return,
            Fate::Stays(_) | Fate::Failed(_) => {
                format!("{} stays and refers to it", self.items[at].0)
            }
        };
        if !self.goes(at) {
            return;
        }
        self.fates[at] = fate;
        let mut reached: VecDeque<usize> = self.targets[at].iter().copied().collect();
        while let Some(next) = reached.pop_front() {
            if self.goes(next) {
                self.fates[next] = Fate::Stays(why.clone());
                reached.extend(&self.targets[next]);
            }
        }
    }

    pub(super) fn into_fates(self) -> Vec<Fate> {
        self.fates
    }
}
