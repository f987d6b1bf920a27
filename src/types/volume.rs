//! A volume and the pool, as the layers above the store and the devices see them.

use super::VolumeId;

/// All that is known of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// For ever the same.
    pub id: VolumeId,
    /// Whether it is in use, to be destroyed, or missing.
    pub state: VolumeState,
    /// The volume whose content this one started from; `None`: started empty.
    pub origin: Option<VolumeId>,
    /// Size of the device in bytes; 0 where there is no device (native).
    pub size: u64,
    /// Where its blocks are.
    pub backing: Backing,
}

/// A volume's life, with the step that moves each edge. A crash before a step leaves the state above
/// it, one after it the state below; `fuse-tests/crash/points.rs` kills a daemon on both sides of each.
///
/// ```text
///   (nothing)
///      │ thin: [template.mkfs, template.empty_root, ledger.change once a size]
///      │       ledger.move → pool.set_transaction_id → ledger.settle, once in 1,024 ids
///      │       pool.create_snap (pool.create_thin for a template)
///      │ native: native.make → native.copy → native.publish → native.sync
///      ▼
///   Unnamed   in the backend, in no record ──────── start: pool.delete / native.trash ──▶ (nothing)
///      │ prepare: store.prepare                     (after a forced adoption: ledger.change ──▶ set aside)
///      ▼
///    Live ◀────────────────────────────┐
///      │  activate: dm.create → dm.load → dm.resume → volume.mount → [volume.grow]
///      │  deactivate: volume.unmount → dm.remove     (neither changes the state)
///      │  commit: volume.seal_flush → volume.seal_read_only → store.commit   (native.flush → store.commit)
///      │  commit of a block device that somebody has open: dm.suspend → pool.create_snap → dm.resume → store.commit; the
///      │          volume has the new thin id, the device's becomes a tombstone of its own in the same batch
///      │                               │
///      │ start, the backend lacks it:  │ start, it is back:
///      │ store.lost                    │ store.lost
///      ├──────────────────▶ Lost ──────┘
///      │ remove: store.remove │ remove: store.remove
///      ▼                      ▼
///   Tombstone ◀───────────────┘
///      │ reaper: volume.unmount → dm.remove → [volume.discard] → pool.delete
///      │         (native.trash → native.remove); what is gone already is done
///      ▼
///   Destroyed   a tombstone whose volume is gone
///      │ store.forget
///      ▼
///   (nothing)
/// ```
/// `Unnamed` and `Destroyed` have no value here: they are what a crash leaves between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// A snapshot refers to it.
    Live,
    /// No snapshot refers to it; the reaper destroys it, then drops the record.
    Tombstone,
    /// The backend doesn't have it; reported, never silently made anew.
    Lost,
}

/// Where a volume's blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A directory named after the volume id.
    Native,
    /// A thin device of the pool.
    Thin {
        /// Its 24-bit id in the pool.
        thin_id: u32,
    },
}

/// What the store knows of the thin-pool that belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// The pool's transaction id as of this record: the witness that store and pool belong
    /// together.
    pub transaction_id: u64,
    /// Every thin id below it may exist in the pool; one that no volume names is garbage.
    pub reserved_end: u32,
    /// Formatted bases of empty snapshots.
    pub templates: Vec<Template>,
    /// Thin ids that are neither used nor deleted until an operator says so.
    pub faulty: Vec<FaultyId>,
    /// The pool is known to have arrived at `transaction_id`. Otherwise it may be one behind.
    pub settled: bool,
    /// The pool was adopted by force: what no volume names is to be set aside, not deleted.
    pub adopting: bool,
    /// Thin ids whose blocks are there to be freed when the pool has none left and must be moved on.
    pub ballast: Vec<u32>,
    /// What the pool's data device is known by; `None` before the first volume is made.
    pub witness: Option<Witness>,
}

/// What stands on the data device of a pool, in a thin device of its own: nothing else tells that device from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The thin device.
    pub thin_id: u32,
    /// Random, one for each pool.
    pub token: String,
    /// Rises with each start; a copy of the device has a lower one than the device that was used since.
    pub run: u64,
}

/// A thin id that is set aside: what the pool has under it is not what the records would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyId {
    /// The id in the pool.
    pub thin_id: u32,
    /// How it came to this, for people.
    pub why: String,
}

/// A thin device that mkfs touched once and that every empty snapshot starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id in the pool.
    pub thin_id: u32,
    /// Size of the device in bytes.
    pub size: u64,
    /// The filesystem and options that it was made with.
    pub fingerprint: String,
}
