//! One snapshot's trouble is not another's: how many threads are busy for one snapshot at a time is limited. What comes
//! beyond that waits for that snapshot's others only.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::types::SnapshotId;

const SHARDS: usize = 16;

/// Counts what is under way for each snapshot, and keeps what must wait.
///
/// ```text
///   begin ──▶ under way ──end──▶ (the next that waited is under way)
///     └─ limit reached ──▶ waiting ──────────┘
/// ```
#[derive(Debug)]
pub struct Crowd<T> {
    limit: usize,
    shards: [Mutex<HashMap<SnapshotId, Load<T>>>; SHARDS],
}

#[derive(Debug)]
struct Load<T> {
    busy: usize,
    waiting: VecDeque<T>,
}

impl<T> Crowd<T> {
    /// `limit`: how many of one snapshot's may be under way.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Whether something for this snapshot may begin; then [`Crowd::end`] is due. Otherwise `later` is kept, and comes
    /// out of the `end` of another. What is for no snapshot may always begin.
    pub fn begin(&self, snapshot: Option<SnapshotId>, later: impl FnOnce() -> T) -> bool {
        let Some(snapshot) = snapshot else { return true };
        let mut shard = self.shard(snapshot).lock();
        let load =
            shard.entry(snapshot).or_insert_with(|| Load { busy: 0, waiting: VecDeque::new() });
        if load.busy < self.limit {
            load.busy += 1;
            return true;
        }
        load.waiting.push_back(later());
        false
    }

    /// Something for this snapshot has ended. What has waited longest is to begin in its place.
    #[must_use]
    pub fn end(&self, snapshot: Option<SnapshotId>) -> Option<T> {
        let snapshot = snapshot?;
        let mut shard = self.shard(snapshot).lock();
        let load = shard.get_mut(&snapshot)?;
        let next = load.waiting.pop_front();
        if next.is_none() {
            load.busy -= 1;
            if load.busy == 0 {
                shard.remove(&snapshot);
            }
        }
        next
    }

    fn shard(&self, snapshot: SnapshotId) -> &Mutex<HashMap<SnapshotId, Load<T>>> {
        &self.shards[snapshot.0 as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_waits_for_its_own_snapshot_only() {
        let crowd = Crowd::new(2);
        let [one, other] = [1, 2].map(|id| Some(SnapshotId(id)));
        assert!(crowd.begin(one, || "first") && crowd.begin(one, || "second"));
        assert!(!crowd.begin(one, || "third") && !crowd.begin(one, || "fourth"));
        assert!(crowd.begin(other, || "another's"));
        assert!((0..9).all(|_| crowd.begin(None, || "nobody's")));
        assert_eq!(crowd.end(None), None);
        assert_eq!(crowd.end(other), None);
        assert_eq!([(); 4].map(|()| crowd.end(one)), [Some("third"), Some("fourth"), None, None]);
        assert!(crowd.shards.iter().all(|shard| shard.lock().is_empty()), "nothing is left of it");
    }
}
