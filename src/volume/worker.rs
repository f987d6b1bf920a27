//! Deactivation off the callers' path: it costs milliseconds, most of them waiting in the kernel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::activation::Shared;
use super::backend::Watcher;
use super::slots::Slot;

/// Deactivations at a time.
const WORKERS: usize = 4;

/// Slots whose last reference went.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    slots: VecDeque<Arc<Slot>>,
    /// The volumes used last are of no use as they are.
    stopped: bool,
    closed: bool,
}

/// What a worker does.
enum Work {
    Deactivate(Arc<Slot>),
    ForgetIdle,
}

impl Queue {
    /// Err: there are no workers any more.
    fn push(&self, slot: Arc<Slot>) -> Result<(), Arc<Slot>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(slot);
        }
        state.slots.push_back(slot);
        self.changed.notify_one();
        Ok(())
    }

    /// `None` once the queue is closed and empty.
    fn pop(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if std::mem::take(&mut state.stopped) {
                return Some(Work::ForgetIdle);
            }
            if let Some(slot) = state.slots.pop_front() {
                return Some(Work::Deactivate(slot));
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Workers finish what is queued, then end.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

/// By a worker, for the teller may be a thread that the backend waits for when it is dropped.
impl Watcher for Queue {
    fn volumes_stopped(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }
}

/// Starts the workers. Where a thread can't be had its work is done by the others, and with no
/// thread at all by whoever drops the last pin.
pub(super) fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let shared = shared.clone();
        let worker = thread::Builder::new().name(format!("deactivate-{number}"));
        match worker.spawn(move || {
            while let Some(work) = shared.queue.pop() {
                match work {
                    Work::Deactivate(slot) => shared.deactivate_unused(&slot),
                    Work::ForgetIdle => drop(shared.idle.clear()),
                }
            }
        }) {
            Ok(worker) => workers.push(worker),
            Err(error) => tracing::warn!(%error, "no thread for deactivating volumes"),
        }
    }
    if workers.is_empty() {
        shared.queue.close();
    }
    workers
}

/// Has a volume deactivated when dropped: part of what the last pin drops.
#[derive(Debug)]
pub(super) struct Released {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

impl Released {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        slot.opened();
        Self { shared, slot }
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.slot.closed();
        // Told after the count: whoever finds the slot open and leaves it is followed by this.
        if let Err(slot) = self.shared.queue.push(self.slot.clone()) {
            self.shared.deactivate_unused(&slot);
        }
    }
}
