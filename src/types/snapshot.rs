//! A snapshot as the layers above the store see it.

use std::time::SystemTime;

use super::{Kind, Labels, SnapshotId, SnapshotKey, Usage, VolumeId};

/// All that the store knows of one snapshot but its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// For ever the same, over commit and restarts.
    pub id: SnapshotId,
    /// Active, view or committed.
    pub kind: Kind,
    /// Name of the committed snapshot below it; `None`: started empty.
    pub parent: Option<SnapshotKey>,
    /// The caller's labels.
    pub labels: Labels,
    /// When it was prepared, or committed (UTC).
    pub created: SystemTime,
    /// When its labels changed last; equals `created` until then.
    pub updated: SystemTime,
    /// Recorded at commit; `None` for active snapshots and views.
    pub usage: Option<Usage>,
    /// Its own volume (`VolumeId::of(id)`), or the parent's for a view of a committed snapshot.
    pub volume: VolumeId,
    /// Made under a lease: the collector removes it once nothing refers to it. One that was made
    /// without a lease stays until somebody removes it.
    pub collectable: bool,
}

/// How many snapshots of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Active ones.
    pub active: u64,
    /// Views.
    pub view: u64,
    /// Committed ones.
    pub committed: u64,
}

impl Counts {
    /// The count of one kind.
    pub fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Active => &mut self.active,
            Kind::View => &mut self.view,
            Kind::Committed => &mut self.committed,
        }
    }
}
