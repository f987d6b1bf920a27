//! The activated volumes, as the layers above see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::activation::{Counts, Shared};
use super::backend::{Access, Backend, Mounted};
use super::id_set::IdSet;
use super::idle::Idle;
use super::pin::Pin;
use super::seal::Seal;
use super::slots::{Slot, Slots};
use super::worker;
use super::{Changed, Error, Result};
use crate::types::{Usage, Volume, VolumeId};

/// One line of `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Which volume.
    pub id: VolumeId,
    /// What it is activated for.
    pub access: Access,
    /// Pins, those of writers included.
    pub pins: usize,
    /// Running writes and handles open for writing.
    pub writers: usize,
}

/// How often volumes were activated and deactivated since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Activations that succeeded.
    pub activations: u64,
    /// Activations that failed: their callers got the error, the next one tried again.
    pub failures: u64,
    /// Deactivations, evictions among them.
    pub deactivations: u64,
}

/// Something that holds descriptors inside activated volumes as a cache and can drop them on
/// request (the descriptor cache of `fs`).
pub trait Cache: Send + Sync {
    /// Closes every cached descriptor below this volume's root; descriptors of open handles hold a
    /// Pin and are not concerned. Called when no pin exists and none can be had until it returns;
    /// so whoever adds a descriptor to the cache must hold a pin while doing so, and this must not
    /// call [`Volumes`].
    fn drop_volume(&self, id: VolumeId);
}

/// Activated volumes, least recently used first out, and who uses them.
#[derive(Debug)]
pub struct Volumes {
    pub(super) shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Volumes {
    /// `limit`: how many volumes may be activated at once when they aren't pinned (soft: pins may
    /// exceed it).
    pub fn new(backend: Arc<dyn Backend>, limit: usize) -> Arc<Self> {
        let shared = Arc::new(Shared {
            backend,
            slots: Slots::default(),
            idle: Idle::new(limit),
            sealed: RwLock::new(IdSet::default()),
            closed: RwLock::new(IdSet::default()),
            failed: Mutex::default(),
            caches: RwLock::default(),
            queue: Arc::default(),
            stopping: AtomicBool::new(false),
            counts: Counts::default(),
        });
        let workers = Mutex::new(worker::start(&shared));
        shared.backend.watched_by(shared.queue.clone());
        Arc::new(Self { shared, workers })
    }

    /// What makes, activates and destroys the volumes.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// From now on `cache` is asked to let go of volumes about to be deactivated.
    pub fn register_cache(&self, cache: Arc<dyn Cache>) {
        self.shared.caches.write().push(cache);
    }

    /// Pins if activated already; the fast path of every file operation (well under a
    /// microsecond).
    pub fn pinned(&self, id: VolumeId) -> Option<Pin> {
        let active = self.shared.slots.live(id)?;
        active.mark_used();
        Some(Pin::new(active))
    }

    /// Activates if need be, and pins. Many callers for one volume cause one activation. A failed
    /// activation is the error of its callers only; the next call tries again. A volume activated
    /// read-write serves readers too; one activated read-only is activated anew for a writer, or
    /// Busy while somebody reads it.
    pub fn pin(&self, volume: &Volume, access: Access) -> Result<Pin> {
        self.shared.pin(volume, access.into()).map(Pin::new)
    }

    /// Commit: lets new writers wait, waits up to `patience` for the present ones (FUSE releases
    /// are asynchronous), then flushes and turns the volume read-only and, if nobody reads it,
    /// deactivates it once the seal is kept. Busy when writers remain: then writing goes on as
    /// before. The guard un-seals when dropped without `keep()` (the batch failed).
    pub fn seal(&self, volume: &Volume, patience: Duration) -> Result<Seal> {
        Seal::new(&self.shared, volume, patience)
    }

    /// Has it deactivated now if nobody has pinned it, else at the last unpin. For committed
    /// volumes. A worker does it.
    pub fn retire(&self, id: VolumeId) {
        drop(self.shared.idle.forget(id));
    }

    /// Removed: no new pin is given from now on; existing pins go on. Returns false while pins
    /// remain. Once it is true the volume is deactivated and the reaper destroys it. A deactivation
    /// that failed, also earlier and off everybody's path, is this call's error, once.
    pub fn try_close(&self, volume: &Volume) -> Result<bool> {
        let (shared, id) = (&self.shared, volume.id);
        // 1. Whoever takes the slot's lock after this finds it closed.
        shared.closed.write().insert(id);
        shared.slots.close(id);
        let Some(slot) = shared.slots.get(id) else {
            return shared.tell_failure(id).map(|()| true);
        };
        // 2. Nobody refers to it but pins.
        let mut op = shared.lock_forgotten(&slot);
        if op.dead {
            // A worker came first.
            return shared.tell_failure(id).map(|()| true);
        }
        if slot.is_open() {
            // The slot may have been made after step 1.
            shared.slots.close(id);
            return Ok(false);
        }
        // 3. Nobody at all: no need to wait for a worker.
        let deactivated = shared.deactivate(&slot, &mut op);
        shared.slots.discard(id, &mut op);
        deactivated.map(|()| true)
    }

    /// What the volume holds of its own. Takes no lock that an activation or mkfs holds, and
    /// neither activates a volume nor counts as a use of it.
    pub fn usage(
        &self,
        volume: &Volume,
        origin: Option<&Volume>,
        cancel: &AtomicBool,
    ) -> Result<Usage> {
        // Keeps it activated meanwhile.
        let active = self.shared.slots.live_or_closing(volume.id);
        let mounted = active.as_ref().map(|active| mounted(active)).transpose()?;
        self.shared.backend.usage(volume, origin, mounted.as_ref(), cancel)
    }

    /// Which inodes of `new` differ from those of `old`, when one started as a copy of the other. Both are pinned.
    /// `None`: nothing but a walk over the files can tell.
    pub fn changed(
        &self,
        old: &Volume,
        new: (&Volume, &Pin),
        cancel: &AtomicBool,
    ) -> Result<Option<Changed>> {
        let (new, pin) = new;
        self.shared.backend.changed(old, new, &mounted(pin.active())?, cancel)
    }

    /// Makes a volume as large as its record says now, also while it is in use.
    pub fn resize(&self, volume: &Volume) -> Result<()> {
        let Some(slot) = self.shared.slots.get(volume.id) else {
            return self.shared.backend.resize(volume, None);
        };
        let mut op = slot.op.lock();
        if let Some((kept, _)) = &mut op.mounted {
            *kept = volume.clone();
        }
        let mounted = op.mounted.as_ref().map(|(_, mounted)| mounted);
        self.shared.backend.resize(volume, mounted)
    }

    /// Hands the free space inside a volume back, activating it for writing if need be. How many bytes came back.
    pub fn trim(&self, volume: &Volume) -> Result<u64> {
        let pin = self.pin(volume, Access::ReadWrite)?;
        // Counts as a writer, so that no commit comes between.
        let writer = pin.writer()?;
        let mounted = mounted(writer.pin().active())?;
        self.shared.backend.trim(volume, &mounted)
    }

    /// The activated volumes, by id.
    pub fn status(&self) -> Vec<VolumeStatus> {
        let ids = self.shared.slots.all().into_iter().map(|slot| slot.id);
        let mut status: Vec<_> = ids.filter_map(|id| self.status_of(id)).collect();
        status.sort_unstable_by_key(|line| line.id);
        status
    }

    /// How often the backend activated and deactivated volumes so far.
    pub fn activity(&self) -> Activity {
        let Counts { activations, failures, deactivations } = &self.shared.counts;
        Activity {
            activations: activations.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
            deactivations: deactivations.load(Ordering::Relaxed),
        }
    }

    /// Whether somebody has it pinned: files of it are open, or are worked on.
    pub fn is_in_use(&self, id: VolumeId) -> bool {
        self.status_of(id).is_some_and(|status| status.pins > 0)
    }

    fn status_of(&self, id: VolumeId) -> Option<VolumeStatus> {
        let active = self.shared.slots.live_or_closing(id)?;
        let others = 1 + usize::from(self.shared.idle.contains(id));
        Some(VolumeStatus {
            id,
            access: access(&active),
            pins: Arc::strong_count(&active).saturating_sub(others),
            writers: active.gate.writers() as usize,
        })
    }

    /// Clean stop: flushes and deactivates everything, then stops the backend. A volume on which programs
    /// hold files open in passthrough may stay active. Pins must be gone: volumes that are still pinned
    /// are flushed and reported as Busy, the backend isn't stopped, and `stop` can be called again. So it is
    /// with a deactivation that failed. Twice is fine.
    pub fn stop(&self) -> Result<()> {
        self.shared.stopping.store(true, Ordering::Release);
        self.end_workers();
        let stopped: Vec<_> =
            self.shared.slots.all().iter().map(|slot| self.stop_one(slot)).collect();
        stopped.into_iter().collect::<Result<()>>()?;
        // What a worker couldn't deactivate is still active.
        while let Some((_, error)) = self.shared.failed.lock().pop_first() {
            tolerate_held(Err(error))?;
        }
        self.shared.backend.stop()
    }

    /// From here on whoever drops a last reference deactivates the volume itself.
    fn end_workers(&self) {
        drop(self.shared.idle.clear());
        self.shared.queue.close();
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a thread that deactivates volumes had panicked");
            }
        }
    }

    fn stop_one(&self, slot: &Arc<Slot>) -> Result<()> {
        let mut op = self.shared.lock_forgotten(slot);
        if op.dead {
            return Ok(());
        }
        if slot.is_open() {
            if let Some((volume, mounted)) = &op.mounted {
                self.shared.backend.flush(volume, mounted)?;
            }
            return Err(Error::Busy(slot.id, "it is still pinned".into()));
        }
        let deactivated = self.shared.deactivate(slot, &mut op);
        self.shared.slots.discard(slot.id, &mut op);
        tolerate_held(deactivated)
    }
}

/// A stop waits for no program that has files open in passthrough: the backend leaves what is below them.
fn tolerate_held(deactivated: Result<()>) -> Result<()> {
    match deactivated {
        Err(Error::Busy(volume, why)) => {
            tracing::warn!(%volume, why, "a volume stays active until the next start");
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
impl Volumes {
    /// How many slots are remembered.
    pub(super) fn slots_for_test(&self) -> usize {
        self.shared.slots.all().len()
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.end_workers();
    }
}

fn access(active: &super::pin::Active) -> Access {
    if active.gate.is_read_only() { Access::ReadOnly } else { Access::ReadWrite }
}

fn mounted(active: &super::pin::Active) -> Result<Mounted> {
    let root = active.root().try_clone_to_owned().map_err(|source| Error::Io {
        context: format!("duplicating the root of volume {}", active.id()),
        source,
    })?;
    Ok(Mounted { root, access: access(active) })
}
