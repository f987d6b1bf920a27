//! What may have become garbage since it was last looked at. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Resource;
use crate::types::Namespace;

/// More than this many are not kept in mind: all are looked at instead.
const MOST: usize = 20_000;
/// So few are followed whatever there is besides.
const FEW: usize = 64;
/// How many times as much it costs to follow one as to scan one.
const COST: u64 = 12;

/// Of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Suspects {
    /// Nothing but these, and what is found to go with them. One that is no more stands for what it kept.
    These(BTreeSet<Resource>),
    /// Nobody knows.
    Anything,
}

/// Where something may have become garbage. `None`: anywhere.
pub(super) type Scope = Option<BTreeMap<Namespace, Suspects>>;

impl Default for Suspects {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Suspects {
    /// These as well.
    pub(super) fn add(&mut self, more: impl IntoIterator<Item = Resource>) {
        let Self::These(these) = self else { return };
        these.extend(more);
        if these.len() > MOST {
            *self = Self::Anything;
        }
    }

    /// Those to follow, where that is cheaper than a scan of a namespace with so many snapshots.
    pub(super) fn to_follow(&self, snapshots: u64) -> Option<&BTreeSet<Resource>> {
        match self {
            Self::These(these) if these.len() <= FEW => Some(these),
            Self::These(these) if these.len() as u64 * COST <= snapshots => Some(these),
            Self::These(_) | Self::Anything => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Suspects {
        let mut suspects = Suspects::default();
        suspects.add((0..count).map(|n| Resource::new("snapshot", format!("{n:06}"))));
        suspects
    }

    #[test]
    fn few_are_followed_always_many_where_there_is_much_more_and_too_many_are_anything() {
        assert!(some(FEW).to_follow(0).is_some());
        assert!(some(FEW + 1).to_follow(100).is_none());
        assert!(some(1000).to_follow(100_000).is_some());
        assert!(some(MOST).to_follow(u64::MAX).is_some());
        assert_eq!(some(MOST + 1), Suspects::Anything);
        assert!(Suspects::Anything.to_follow(u64::MAX).is_none());
        let mut anything = Suspects::Anything;
        anything.add([Resource::new("snapshot", "a")]);
        assert_eq!(anything, Suspects::Anything);
    }
}
