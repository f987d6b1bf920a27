//! A backend that keeps books, and what must hold whoever the backend is.

mod closing;
mod pins;
mod seals;
mod stress;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::types::{Backing, Usage, Volume, VolumeId, VolumeState};

const NO_PATIENCE: Duration = Duration::from_millis(20);

/// Keeps books of activations, and panics where the contract is broken.
#[derive(Debug, Default)]
struct Counting {
    active: Mutex<HashMap<VolumeId, Access>>,
    activations: AtomicUsize,
    deactivations: AtomicUsize,
    seals: AtomicUsize,
    /// How long activating and deactivating take.
    pause: Duration,
    /// Activations and deactivations under way wait for whoever holds it.
    hold: Mutex<()>,
    deactivating: AtomicUsize,
    fail_next_activation: AtomicBool,
    fail_seal: AtomicBool,
    fail_deactivation: AtomicBool,
    can_unseal: bool,
    stopped: AtomicBool,
    /// Pins that the test holds, by volume: a deactivation with any is an error.
    pinned: Mutex<HashMap<VolumeId, usize>>,
    broken: Mutex<Vec<String>>,
}

impl Counting {
    fn blame(&self, what: String) {
        self.broken.lock().push(what);
    }

    fn assert_sound(&self) {
        assert_eq!(*self.broken.lock(), [""; 0]);
    }

    fn error(&self) -> Error {
        Error::NoSpace("as the test wants it".into())
    }
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }
    fn create(&self, id: VolumeId, _: Option<&Volume>, _: Option<u64>) -> Result<Volume> {
        Ok(volume(id.0))
    }
    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        if self.fail_next_activation.swap(false, Ordering::SeqCst) {
            return Err(self.error());
        }
        if self.active.lock().insert(volume.id, access).is_some() {
            self.blame(format!("{} activated twice", volume.id));
        }
        drop(self.hold.lock());
        thread::sleep(self.pause);
        self.activations.fetch_add(1, Ordering::SeqCst);
        Ok(Mounted { root: std::fs::File::open("/").unwrap().into(), access })
    }
    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.seals.fetch_add(1, Ordering::SeqCst);
        if self.fail_seal.load(Ordering::SeqCst) {
            return Err(self.error());
        }
        self.active.lock().insert(volume.id, Access::ReadOnly);
        mounted.access = Access::ReadOnly;
        Ok(())
    }
    fn unseal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        if !self.can_unseal {
            return Err(Error::ReadOnly(volume.id));
        }
        self.active.lock().insert(volume.id, Access::ReadWrite);
        mounted.access = Access::ReadWrite;
        Ok(())
    }
    fn flush(&self, _: &Volume, _: &Mounted) -> Result<()> {
        Ok(())
    }
    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()> {
        if self.pinned.lock().get(&volume.id).is_some_and(|&pins| pins > 0) {
            self.blame(format!("{} deactivated while pinned", volume.id));
        }
        self.deactivating.fetch_add(1, Ordering::SeqCst);
        drop(self.hold.lock());
        thread::sleep(self.pause);
        drop(mounted);
        if self.active.lock().remove(&volume.id).is_none() {
            self.blame(format!("{} deactivated but not active", volume.id));
        }
        self.deactivations.fetch_add(1, Ordering::SeqCst);
        if self.fail_deactivation.swap(false, Ordering::SeqCst) {
            Err(self.error())
        } else {
            Ok(())
        }
    }
    fn destroy(&self, _: &Volume) -> Result<()> {
        Ok(())
    }
    fn usage(
        &self,
        _: &Volume,
        _: Option<&Volume>,
        mounted: Option<&Mounted>,
        _: &AtomicBool,
    ) -> Result<Usage> {
        Ok(Usage { size: 0, inodes: u64::from(mounted.is_some()) })
    }
    fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity::default())
    }
    fn reconcile(&self, _: &[Volume]) -> Result<Reconciled> {
        Ok(Reconciled::default())
    }
    fn check(&self, _: &[Volume]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn describe(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn stop(&self) -> Result<()> {
        if !self.active.lock().is_empty() {
            self.blame("stopped with active volumes".into());
        }
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn volume(id: u32) -> Volume {
    let id = VolumeId(id);
    Volume { id, state: VolumeState::Live, origin: None, size: 0, backing: Backing::Native }
}

fn volumes(limit: usize) -> (Arc<Counting>, Arc<Volumes>) {
    with_backend(limit, Counting::default())
}

fn with_backend(limit: usize, backend: Counting) -> (Arc<Counting>, Arc<Volumes>) {
    let backend = Arc::new(backend);
    (backend.clone(), Volumes::new(backend, limit))
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn active(backend: &Counting) -> Vec<u32> {
    let mut ids: Vec<_> = backend.active.lock().keys().map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}
