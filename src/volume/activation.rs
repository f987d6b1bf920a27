//! Activating and deactivating one volume: everything that happens under its slot's lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::backend::{Access, Backend};
use super::id_set::IdSet;
use super::idle::Idle;
use super::pin::Active;
use super::slots::{Op, Slot, Slots};
use super::volumes::Cache;
use super::worker::{Queue, Released};
use super::{Error, Result};
use crate::types::{Volume, VolumeId};

/// What pins, workers and [`super::Volumes`] share.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) slots: Slots,
    pub(super) idle: Idle,
    /// Committed in this run. The store knows those of earlier runs; this guards against a caller
    /// who read its record just before the commit.
    pub(super) sealed: RwLock<IdSet>,
    /// Removed in this run: never pinned again.
    pub(super) closed: RwLock<IdSet>,
    /// Deactivations that failed in a worker, where no caller was there to hear of it. Told once, to
    /// whoever closes the volume or stops; forgotten when the volume is activated anew.
    pub(super) failed: Mutex<BTreeMap<VolumeId, Error>>,
    pub(super) caches: RwLock<Vec<Arc<dyn Cache>>>,
    pub(super) queue: Arc<Queue>,
    pub(super) stopping: AtomicBool,
    pub(super) counts: Counts,
}

/// What the backend was asked for since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) activations: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) deactivations: AtomicU64,
}

impl Counts {
    fn activated<T>(&self, outcome: &Result<T>) {
        let counter = if outcome.is_ok() { &self.activations } else { &self.failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// What a pin is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Reading; a volume activated for writing will do.
    Read,
    /// Writing.
    Write,
    /// Sealing: whatever is activated, else for writing.
    Seal,
}

impl Want {
    fn allows(self, read_only: bool) -> bool {
        self != Want::Write || !read_only
    }

    fn access(self) -> Access {
        match self {
            Want::Read => Access::ReadOnly,
            Want::Write | Want::Seal => Access::ReadWrite,
        }
    }
}

impl From<Access> for Want {
    fn from(access: Access) -> Self {
        match access {
            Access::ReadWrite => Want::Write,
            Access::ReadOnly => Want::Read,
        }
    }
}

/// How an attempt to activate ended.
enum Attempt {
    /// With the evicted volumes, to be dropped without the lock.
    Pinned(Arc<Active>, Vec<Arc<Active>>),
    /// It is activated read-only, and writing was asked for.
    ReadOnly(Arc<Active>),
}

impl Shared {
    /// Pins, activating if need be.
    pub(super) fn pin(self: &Arc<Self>, volume: &Volume, want: Want) -> Result<Arc<Active>> {
        loop {
            if let Some(active) = self.slots.live(volume.id)
                && want.allows(active.gate.is_read_only())
            {
                active.mark_used();
                return Ok(active);
            }
            let slot = self.slots.get_or_insert(volume.id);
            let mut op = slot.op.lock();
            if op.dead {
                continue;
            }
            let attempt = self.activate(&slot, &mut op, volume, want);
            if op.mounted.is_none() {
                self.slots.discard(slot.id, &mut op);
            }
            drop(op);
            match attempt? {
                Attempt::Pinned(active, evicted) => {
                    drop(evicted);
                    return Ok(active);
                }
                Attempt::ReadOnly(active) => self.give_up(active)?,
            }
        }
    }

    /// Drops what keeps a read-only activation alive apart from pins; Busy if there are pins.
    fn give_up(&self, active: Arc<Active>) -> Result<()> {
        let id = active.id();
        drop(active);
        drop(self.idle.forget(id));
        match self.slots.live(id) {
            None => Ok(()),
            Some(_) => Err(Error::Busy(id, "it is being read, and activated read-only".into())),
        }
    }

    fn activate(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        op: &mut Op,
        volume: &Volume,
        want: Want,
    ) -> Result<Attempt> {
        self.admit(volume.id, want)?;
        if let Some(active) = self.slots.live(volume.id) {
            return Ok(if want.allows(active.gate.is_read_only()) {
                Attempt::Pinned(active, Vec::new())
            } else {
                Attempt::ReadOnly(active)
            });
        }
        // 1. What still waits for a worker is used again, unless it was for reading only, or stopped.
        if let Some((activated, mounted)) = &op.mounted
            && (!want.allows(mounted.access == Access::ReadOnly)
                || self.backend.is_stopped(activated))
        {
            self.deactivate(slot, op)?;
        }
        // 2. Else the backend activates it.
        let mounted = match op.mounted.take() {
            Some((_, mounted)) => mounted,
            None => {
                let activated = self.backend.activate(volume, want.access());
                self.counts.activated(&activated);
                activated?
            }
        };
        let (_, mounted) = op.mounted.insert((volume.clone(), mounted));
        // 3. Pins get a duplicate, so that the backend can have its own while they read.
        let root = match mounted.root.try_clone() {
            Ok(root) => root,
            Err(source) => {
                let context = format!("duplicating the root of volume {}", volume.id);
                self.deactivate(slot, op)?;
                return Err(Error::Io { context, source });
            }
        };
        let writable = mounted.access == Access::ReadWrite;
        let released = Released::new(self.clone(), slot.clone());
        let active = Arc::new(Active::new(volume.id, root, writable, released));
        self.failed.lock().remove(&volume.id);
        self.slots.publish(&active);
        let evicted = self.idle.keep(active.clone());
        Ok(Attempt::Pinned(active, evicted))
    }

    pub(super) fn admit(&self, id: VolumeId, want: Want) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Cancelled("thinfs is stopping".into()));
        }
        if self.closed.read().contains(id) {
            return Err(Error::Missing(id));
        }
        if want != Want::Read && self.sealed.read().contains(id) {
            return Err(Error::ReadOnly(id));
        }
        Ok(())
    }

    /// Takes the slot's lock, with the list of volumes used last not referring to the volume.
    pub(super) fn lock_forgotten<'a>(&self, slot: &'a Slot) -> MutexGuard<'a, Op> {
        loop {
            // Dropped without the slot's lock: it may be the last reference.
            drop(self.idle.forget(slot.id));
            let op = slot.op.lock();
            // Else an activation has just finished.
            if !self.idle.contains(slot.id) {
                return op;
            }
        }
    }

    /// Deactivates a volume that nobody refers to any more; by now somebody may again.
    pub(super) fn deactivate_unused(&self, slot: &Slot) {
        let mut op = slot.op.lock();
        if op.dead || slot.is_open() {
            return;
        }
        if let Err(error) = self.deactivate(slot, &mut op) {
            tracing::warn!(volume = %slot.id, error = &error as &dyn std::error::Error, "deactivating a volume");
            self.failed.lock().insert(slot.id, error);
        }
        self.slots.discard(slot.id, &mut op);
    }

    /// The failure that a worker met with this volume, if it hasn't been told yet.
    pub(super) fn tell_failure(&self, id: VolumeId) -> Result<()> {
        self.failed.lock().remove(&id).map_or(Ok(()), Err)
    }

    /// Deactivates a volume without references. With the slot's lock, so that none appears.
    pub(super) fn deactivate(&self, slot: &Slot, op: &mut Op) -> Result<()> {
        let Some((volume, mounted)) = op.mounted.take() else { return Ok(()) };
        // The last reference may be gone, and its descriptor about to be closed by another thread.
        while slot.is_open() {
            std::thread::yield_now();
        }
        for cache in self.caches.read().iter() {
            cache.drop_volume(slot.id);
        }
        self.counts.deactivations.fetch_add(1, Ordering::Relaxed);
        self.backend.deactivate(&volume, mounted)
    }
}
