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

/// A volume's life.
///
/// ```text
///          prepare's batch            remove's batch             reaper
/// (nothing) ────────────▶ Live ─────────────────▶ Tombstone ─────────▶ (nothing)
///                          │  start: backend has no such volume
///                          └────────────▶ Lost ── remove ──▶ Tombstone
/// ```
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
    /// Thin ids that failed in a way that makes them unusable; never used again.
    pub faulty: Vec<u32>,
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
