//! Space of removed volumes and of removed files, back to the machine.
//!
//! Deleting a thin device frees its blocks for other thin devices, but what lies below, a sparse file or a disk
//! that is thin itself, learns nothing of it. So the device is discarded first: the pool passes the discards of
//! blocks that nobody else has down. A volume that was made by this process and never activated for writing
//! has none of its own, and is spared the activation.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ThinBackend;
use super::error::{DeviceError, volume_error};
use super::reconcile::thin_id;
use crate::crashpoint::{Step, around};
use crate::sys::discard::discard_all;
use crate::sys::filesystem::trim;
use crate::thin::status::Discards;
use crate::thin::{Sectors, ThinId};
use crate::types::Volume;
use crate::volume::{Mounted, Result};

/// Thin devices without a block of their own.
#[derive(Debug, Default)]
pub(super) struct Untouched(Mutex<HashSet<ThinId>>);

impl Untouched {
    pub(super) fn made(&self, thin: ThinId) {
        self.0.lock().insert(thin);
    }

    pub(super) fn written(&self, thin: ThinId) {
        self.0.lock().remove(&thin);
    }

    pub(super) fn contains(&self, thin: ThinId) -> bool {
        self.0.lock().contains(&thin)
    }

    fn take(&self, thin: ThinId) -> bool {
        self.0.lock().remove(&thin)
    }
}

/// What thin devices that are written map beyond what their filesystems use, in bytes, when this process first had
/// them mounted: journal, inode tables, the rest of each pool block. No trim gives that back.
#[derive(Debug, Default)]
pub(super) struct Overhead(Mutex<HashMap<ThinId, u64>>);

impl Overhead {
    /// Unless it is known already.
    pub(super) fn note(&self, thin: ThinId, measure: impl FnOnce() -> Option<u64>) {
        if self.0.lock().contains_key(&thin) {
            return;
        }
        if let Some(overhead) = measure() {
            self.0.lock().insert(thin, overhead);
        }
    }

    /// Bytes that a trim could give back of so much that is mapped and not used; 0 where they aren't worth one.
    pub(super) fn excess(&self, thin: ThinId, overhead: u64, used: u64) -> u64 {
        let known = self.0.lock().get(&thin).copied().unwrap_or(0);
        let excess = overhead.saturating_sub(known);
        if excess >= WORTH.max(used / 16) { excess } else { 0 }
    }

    pub(super) fn forget(&self, thin: ThinId) {
        self.0.lock().remove(&thin);
    }
}

/// A trim at commit is worth its while when the thin device maps so much more than it did, beyond what the filesystem
/// uses: a sixteenth of that, and this many bytes at least.
const WORTH: u64 = 1 << 20;

/// An xfs says that it has trimmed before its discards are done: how long to wait for the first of them.
const DISCARDING: Duration = Duration::from_millis(100);
/// xfs, as statfs names it.
const XFS_MAGIC: u64 = 0x5846_5342;

impl ThinBackend {
    /// Discards what is free in a mounted volume. How many bytes the thin device maps less.
    pub(super) fn trim_volume(&self, volume: &Volume, mounted: &Mounted) -> Result<u64> {
        let thin = thin_id(volume)?;
        let failed = |e| volume_error(volume.id, "trimming", e);
        let io = |source| DeviceError::Io { context: "discarding free space".to_owned(), source };
        // What was removed must be on disk before its blocks count as free. Asking an xfs for its free space makes it
        // take up what it puts off.
        for _ in 0..2 {
            rustix::fs::fstatvfs(&mounted.root).map_err(|e| failed(io(e.into())))?;
            self.devices.flush(thin, &mounted.root).map_err(|e| failed(io(e)))?;
        }
        let before = self.devices.mapped(thin).map_err(failed)?;
        trim(&mounted.root, self.pool.table().block.bytes()).map_err(|e| failed(io(e)))?;
        self.meter.outdate(thin);
        let mapped = |sectors: Option<Sectors>| sectors.map_or(0, Sectors::bytes);
        let kind = rustix::fs::fstatfs(&mounted.root).map_err(|e| failed(io(e.into())))?.f_type;
        let patience = if kind as u64 == XFS_MAGIC { DISCARDING } else { Duration::ZERO };
        let (before, deadline) = (mapped(before), Instant::now() + patience);
        loop {
            let after = mapped(self.devices.mapped(thin).map_err(failed)?);
            if after < before || Instant::now() >= deadline {
                return Ok(before.saturating_sub(after));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same before a commit, if there is something to gain. Best effort: a commit doesn't fail for it.
    pub(super) fn trim_if_worth_it(&self, volume: &Volume, mounted: &Mounted) {
        let trimmed = self.excess(volume, mounted).and_then(|excess| match excess {
            0 => Ok(0),
            _ => self.trim_volume(volume, mounted),
        });
        match trimmed {
            Ok(0) => {}
            Ok(bytes) => {
                tracing::debug!(volume = %volume.id, bytes, "gave back what was removed in the volume")
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(volume = %volume.id, error, "free space of a volume could not be discarded");
            }
        }
    }

    /// Bytes that a trim could give back; 0 where they aren't worth one. Costs two system calls.
    pub(super) fn excess(&self, volume: &Volume, mounted: &Mounted) -> Result<u64> {
        let (overhead, used) = self.overhead(volume, mounted)?;
        Ok(self.overhead.excess(thin_id(volume)?, overhead, used))
    }

    /// Remembers what a volume has that no trim gives back, when it is mounted for writing for the first time.
    pub(super) fn note_overhead(&self, volume: &Volume, mounted: &Mounted) {
        let Ok(thin) = thin_id(volume) else { return };
        self.overhead.note(thin, || Some(self.overhead(volume, mounted).ok()?.0));
    }

    /// Bytes that the thin device maps and the filesystem doesn't use; and those that it uses.
    fn overhead(&self, volume: &Volume, mounted: &Mounted) -> Result<(u64, u64)> {
        let thin = thin_id(volume)?;
        let mapped =
            self.devices.mapped(thin).map_err(|e| volume_error(volume.id, "looking at", e))?;
        let mapped = mapped.map_or(0, Sectors::bytes);
        let fs = rustix::fs::fstatvfs(&mounted.root)
            .map_err(|e| super::io(format!("looking at volume {}", volume.id), e.into()))?;
        let used = (fs.f_blocks - fs.f_bfree) * fs.f_frsize;
        Ok((mapped.saturating_sub(used), used))
    }

    /// Gives back what only this volume has. Best effort: what fails costs space below the pool, never in it.
    pub(super) fn discard(&self, volume: &Volume, thin: ThinId) {
        if self.untouched.take(thin) || !self.passes_down() {
            return;
        }
        let size = Sectors::in_bytes(volume.size);
        let discarded = self
            .devices
            .with_device(thin, size, |path| around(Step::Discard, || discard_all(path)));
        let failed: Box<dyn std::error::Error> = match discarded {
            Ok(Ok(())) | Err(DeviceError::Missing(_)) => return,
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        tracing::warn!(volume = %volume.id, error = failed, "a removed volume's blocks could not be discarded");
    }

    fn passes_down(&self) -> bool {
        self.pool.status().is_ok_and(|status| status.discards == Discards::PassedDown)
    }
}
