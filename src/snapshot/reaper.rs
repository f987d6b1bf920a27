//! The reaper: destroys removed volumes in the background.
//!
//! It alone takes tombstones away. A few threads share one queue, for deactivating a device mostly
//! waits. A volume with open files is tried again and again until they are closed; one that can't
//! be destroyed is kept with the reason and tried again, ever less often. Neither holds up the
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Snapshots;
use super::error::{Error, Result, with_causes};
use crate::crashpoint::Step;
use crate::meta::{Batch, Store};
use crate::types::{Volume, VolumeId};
use crate::volume::{self, Volumes};

const THREADS: usize = 4;
/// Between two looks at a volume whose files are open: at first, and at most.
const WAITING: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Between two tries to destroy a volume: at first, and at most.
const FAILED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// What a cleanup did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Volumes that are gone.
    pub destroyed: usize,
    /// One line for each volume that couldn't be destroyed; it is tried again.
    pub failed: Vec<String>,
    /// Volumes that wait for files, or block devices, to be closed.
    pub waiting: usize,
}

/// A removed volume that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Which volume.
    pub volume: VolumeId,
    /// How often it has been tried in vain.
    pub tries: u32,
    /// Why it is still there.
    pub state: PendingState,
}

/// Why a removed volume is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingState {
    /// Its turn hasn't come.
    Queued,
    /// It is being destroyed.
    Running,
    /// Files of it are open.
    FilesAreOpen,
    /// It couldn't be destroyed, for this reason; it is tried again.
    Failed(String),
}

/// The queue and its threads.
#[derive(Debug)]
pub(super) struct Reaper {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    volumes: Arc<Volumes>,
    /// Held for moments; never while a volume is worked on.
    queue: Mutex<Queue>,
    /// Something in the queue has changed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    tombstones: BTreeMap<VolumeId, Tombstone>,
    /// Those that no thread works on, by the time of the next try.
    due: BTreeSet<(Instant, VolumeId)>,
    /// How many ask that no try begins.
    pauses: usize,
    /// Rises with each cleanup asked for.
    cleanups: u64,
    stopping: bool,
}

#[derive(Debug)]
struct Tombstone {
    volume: Volume,
    due: Instant,
    running: bool,
    /// `Queue::cleanups` when the last try began.
    tried_at: Option<u64>,
    tries: u32,
    left: Option<Left>,
}

/// Why a volume is still there after a try.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    FilesAreOpen,
    Failed(String),
}

impl Reaper {
    /// Starts on these tombstones.
    pub(super) fn start(
        store: Arc<Store>,
        volumes: Arc<Volumes>,
        tombstones: Vec<Volume>,
    ) -> Result<Self> {
        let shared =
            Arc::new(Shared { store, volumes, queue: Mutex::default(), changed: Condvar::new() });
        tombstones.into_iter().for_each(|volume| shared.queue.lock().push(volume));
        let reaper = Self { shared, threads: Mutex::default() };
        for number in 0..THREADS {
            let shared = reaper.shared.clone();
            let thread =
                std::thread::Builder::new().name(format!("reaper-{number}")).spawn(move || {
                    crate::sys::thread::step_back();
                    shared.work();
                });
            match thread {
                Ok(thread) => reaper.threads.lock().push(thread),
                Err(error) => {
                    reaper.stop();
                    return Err(Error::FailedPrecondition(format!(
                        "starting a reaper thread: {error}"
                    )));
                }
            }
        }
        Ok(reaper)
    }

    /// One more tombstone, to be seen to now.
    pub(super) fn push(&self, volume: Volume) {
        self.shared.queue.lock().push(volume);
        self.shared.changed.notify_all();
    }

    /// How many tombstones there are.
    pub(super) fn pending(&self) -> usize {
        self.shared.queue.lock().tombstones.len()
    }

    /// All tombstones, by volume.
    pub(super) fn queue(&self) -> Vec<Pending> {
        self.shared.queue.lock().tombstones.values().map(Tombstone::pending).collect()
    }

    /// One line for each volume that couldn't be destroyed so far.
    pub(super) fn failures(&self) -> Vec<String> {
        self.shared.queue.lock().tombstones.values().filter_map(Tombstone::failure).collect()
    }

    /// Tries each tombstone that there is now, and waits until each has been tried since.
    pub(super) fn cleanup(&self) -> Reaped {
        let mut queue = self.shared.queue.lock();
        let wanted: Vec<VolumeId> = queue.tombstones.keys().copied().collect();
        let cleanup = queue.ask_for_cleanup();
        self.shared.changed.notify_all();
        // One that was tried is not looked at again: there may be ten thousand, each of which wakes us.
        let mut untried = wanted.iter().peekable();
        while !queue.stopping {
            while untried.next_if(|id| queue.tried_since(**id, cleanup)).is_some() {}
            if untried.peek().is_none() {
                break;
            }
            self.shared.changed.wait(&mut queue);
        }
        queue.outcome(&wanted)
    }

    /// Waits for the tries that run; none begins while the guard lives.
    pub(super) fn pause(&self) -> Paused<'_> {
        let mut queue = self.shared.queue.lock();
        queue.pauses += 1;
        while queue.tombstones.values().any(|tombstone| tombstone.running) {
            self.shared.changed.wait(&mut queue);
        }
        Paused(&self.shared)
    }

    /// Waits for the tries that run, and ends the threads. Twice is fine.
    pub(super) fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reaper thread panicked");
            }
        }
    }
}

/// The reaper pauses while this lives.
#[derive(Debug)]
pub(super) struct Paused<'a>(&'a Shared);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().pauses -= 1;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.queue.lock();
        while !queue.stopping {
            if queue.pauses > 0 {
                self.changed.wait(&mut queue);
                continue;
            }
            match queue.due.first().copied() {
                Some((due, id)) if due <= Instant::now() => {
                    let volume = queue.begin(id);
                    let left = MutexGuard::unlocked(&mut queue, || self.reap(&volume));
                    queue.end(id, left);
                    self.changed.notify_all();
                }
                Some((due, _)) => {
                    self.changed.wait_until(&mut queue, due);
                }
                None => self.changed.wait(&mut queue),
            }
        }
    }

    /// Destroys a volume, unless files of it are open. `None`: it is gone.
    fn reap(&self, volume: &Volume) -> Option<Left> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_reap(volume)));
        match outcome {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => Some(Left::FilesAreOpen),
            Ok(Err(error)) => Some(Left::Failed(with_causes(&error))),
            Err(_) => Some(Left::Failed("destroying it panicked".to_owned())),
        }
    }

    /// After a crash anywhere here the tombstone is still there, and destroying what is gone is
    /// done.
    ///
    /// 1. no new file is opened, and none is open;
    /// 2. destroy;
    /// 3. forget, in a batch that nobody waits for: ten thousand of them must not keep others from
    ///    the disk.
    fn try_reap(&self, volume: &Volume) -> Result<bool> {
        if !self.volumes.try_close(volume)? {
            return Ok(false);
        }
        match self.volumes.backend().destroy(volume) {
            // Somebody has its block device open.
            Err(volume::Error::Busy(..)) => return Ok(false),
            destroyed => destroyed?,
        }
        let mut batch = Batch::of(Step::StoreForget);
        batch.delete_volume(volume.id);
        self.store.write_lazily(batch)?;
        Ok(true)
    }
}

impl Queue {
    fn push(&mut self, volume: Volume) {
        let (id, due) = (volume.id, Instant::now());
        self.due.insert((due, id));
        let new = Tombstone { volume, due, running: false, tried_at: None, tries: 0, left: None };
        self.tombstones.insert(id, new);
    }

    fn begin(&mut self, id: VolumeId) -> Volume {
        let tombstone = self.tombstones.get_mut(&id).expect("what is due has a tombstone");
        self.due.remove(&(tombstone.due, id));
        tombstone.running = true;
        tombstone.tried_at = Some(self.cleanups);
        tombstone.volume.clone()
    }

    fn end(&mut self, id: VolumeId, left: Option<Left>) {
        let Some(left) = left else {
            self.tombstones.remove(&id);
            tracing::debug!(volume = %id, "volume destroyed");
            return;
        };
        let tombstone =
            self.tombstones.get_mut(&id).expect("only a successful try takes a tombstone away");
        tombstone.running = false;
        tombstone.put_off(left);
        if tombstone.tried_at != Some(self.cleanups) {
            tombstone.due = Instant::now(); // a cleanup was asked for meanwhile
        }
        self.due.insert((tombstone.due, id));
    }

    fn ask_for_cleanup(&mut self) -> u64 {
        self.cleanups += 1;
        let now = Instant::now();
        self.due.clear();
        for (id, tombstone) in
            self.tombstones.iter_mut().filter(|(_, tombstone)| !tombstone.running)
        {
            tombstone.due = now;
            self.due.insert((now, *id));
        }
        self.cleanups
    }

    fn tried_since(&self, id: VolumeId, cleanup: u64) -> bool {
        match self.tombstones.get(&id) {
            None => true,
            Some(tombstone) => {
                !tombstone.running && tombstone.tried_at.is_some_and(|at| at >= cleanup)
            }
        }
    }

    fn outcome(&self, wanted: &[VolumeId]) -> Reaped {
        let mut reaped = Reaped::default();
        for id in wanted {
            match self.tombstones.get(id) {
                None => reaped.destroyed += 1,
                Some(tombstone) => match tombstone.failure() {
                    Some(failure) => reaped.failed.push(failure),
                    None => reaped.waiting += 1,
                },
            }
        }
        reaped
    }
}

impl Tombstone {
    fn pending(&self) -> Pending {
        let state = match &self.left {
            _ if self.running => PendingState::Running,
            None => PendingState::Queued,
            Some(Left::FilesAreOpen) => PendingState::FilesAreOpen,
            Some(Left::Failed(reason)) => PendingState::Failed(reason.clone()),
        };
        Pending { volume: self.volume.id, tries: self.tries, state }
    }

    fn failure(&self) -> Option<String> {
        match &self.left {
            Some(Left::Failed(reason)) => Some(format!("volume {}: {reason}", self.volume.id)),
            Some(Left::FilesAreOpen) | None => None,
        }
    }

    /// Sets the time of the next try, twice as far away as before. A new reason is logged, once.
    fn put_off(&mut self, left: Left) {
        if self.left.as_ref() != Some(&left) {
            self.tries = 0;
            if let Left::Failed(reason) = &left {
                let volume = self.volume.id;
                tracing::warn!(%volume, reason, "a removed volume wasn't destroyed; will try again");
            }
        }
        let (first, most) = if left == Left::FilesAreOpen { WAITING } else { FAILED };
        self.due = Instant::now() + first.saturating_mul(1 << self.tries.min(16)).min(most);
        self.tries += 1;
        self.left = Some(left);
    }
}

impl Snapshots {
    /// Runs the reaper now and waits for one full pass over what has been removed so far.
    pub fn cleanup(&self) -> Result<Reaped> {
        drop(self.running()?);
        Ok(self.reaper.cleanup())
    }

    /// What the reaper has to do yet, by volume.
    pub fn reaper_queue(&self) -> Vec<Pending> {
        self.reaper.queue()
    }

    /// How many removed volumes are yet to be destroyed.
    pub fn pending(&self) -> Result<usize> {
        Ok(self.reaper.pending())
    }
}
