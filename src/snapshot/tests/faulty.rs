//! A real backend that fails, waits or panics where a test says so.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::fixture::{Fixture, native_backend};
use crate::types::{Usage, Volume, VolumeId};
use crate::volume::{Access, Backend, Capacity, Error, Mounted, Reconciled, Result};

type Hook = Arc<dyn Fn(VolumeId) -> Result<()> + Send + Sync>;

/// What happens before an operation of the real backend. Outlives restarts.
#[derive(Clone, Default)]
pub(super) struct Faults {
    create: Arc<Mutex<Option<Hook>>>,
    destroy: Arc<Mutex<Option<Hook>>>,
}

impl Faults {
    pub(super) fn before_create(
        &self,
        hook: impl Fn(VolumeId) -> Result<()> + Send + Sync + 'static,
    ) {
        *self.create.lock() = Some(Arc::new(hook));
    }

    pub(super) fn before_destroy(
        &self,
        hook: impl Fn(VolumeId) -> Result<()> + Send + Sync + 'static,
    ) {
        *self.destroy.lock() = Some(Arc::new(hook));
    }

    pub(super) fn clear(&self) {
        *self.create.lock() = None;
        *self.destroy.lock() = None;
    }

    /// The native backend with these faults.
    pub(super) fn fixture(&self) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        self.fixture_in(dir)
    }

    pub(super) fn fixture_in(&self, dir: tempfile::TempDir) -> Fixture {
        let (faults, trees) = (self.clone(), dir.path().join("native"));
        Fixture::new(dir, move |_| {
            Arc::new(Faulty { faults: faults.clone(), inner: native_backend(&trees) })
        })
    }
}

pub(super) fn broken() -> Error {
    Error::Io {
        context: "the device is broken".into(),
        source: std::io::Error::from_raw_os_error(libc::EIO),
    }
}

struct Faulty {
    faults: Faults,
    inner: Arc<dyn Backend>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn call(hook: &Mutex<Option<Hook>>, id: VolumeId) -> Result<()> {
    let hook = hook.lock().clone();
    hook.map_or(Ok(()), |hook| hook(id))
}

impl Backend for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn create(&self, id: VolumeId, origin: Option<&Volume>, size: Option<u64>) -> Result<Volume> {
        call(&self.faults.create, id)?;
        self.inner.create(id, origin, size)
    }

    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        self.inner.activate(volume, access)
    }

    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.inner.seal(volume, mounted)
    }

    fn unseal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.inner.unseal(volume, mounted)
    }

    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()> {
        self.inner.flush(volume, mounted)
    }

    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()> {
        self.inner.deactivate(volume, mounted)
    }

    fn destroy(&self, volume: &Volume) -> Result<()> {
        call(&self.faults.destroy, volume.id)?;
        self.inner.destroy(volume)
    }

    fn usage(
        &self,
        volume: &Volume,
        origin: Option<&Volume>,
        mounted: Option<&Mounted>,
        cancel: &AtomicBool,
    ) -> Result<Usage> {
        self.inner.usage(volume, origin, mounted, cancel)
    }

    fn capacity(&self) -> Result<Capacity> {
        self.inner.capacity()
    }

    fn reconcile_keeping(&self, known: &[Volume]) -> Result<Reconciled> {
        self.inner.reconcile_keeping(known)
    }
    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled> {
        self.inner.reconcile(known)
    }

    fn check(&self, known: &[Volume]) -> Result<Vec<String>> {
        self.inner.check(known)
    }

    fn describe(&self) -> Vec<(String, String)> {
        self.inner.describe()
    }

    fn stop(&self) -> Result<()> {
        self.inner.stop()
    }
}
