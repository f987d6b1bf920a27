//! On a real thin-pool (but for `histories`): these run inside the guest (`scripts/guest -- TEST_BINARY in_guest
//! --test-threads=1`) and fail outside of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::crashpoint::Step;
use crate::sys::loopdev::LoopDevice;
use crate::types;

const MIB: u64 = 1 << 20;

/// The ledger as a metadata store would keep it: what was saved last, and what was told.
#[derive(Default, Clone)]
struct Saved(Arc<Mutex<Option<types::Pool>>>, Arc<Mutex<Vec<types::Event>>>);

impl PoolLedger for Saved {
    fn load(&self) -> std::result::Result<Option<types::Pool>, LedgerError> {
        Ok(self.0.lock().clone())
    }
    fn save(&self, pool: &types::Pool, _: Step) -> std::result::Result<(), LedgerError> {
        *self.0.lock() = Some(pool.clone());
        Ok(())
    }
    fn tell(&self, event: types::Event) {
        self.1.lock().push(event);
    }
}

impl Saved {
    /// Topics of what was told.
    fn topics(&self) -> Vec<String> {
        self.1.lock().iter().map(|event| event.topic.to_string()).collect()
    }
}

/// A root on the guest's scratch disk. Whatever a failing test leaves is taken down.
struct Rig {
    dir: tempfile::TempDir,
    ledger: Saved,
}

impl Rig {
    fn new() -> Self {
        if let Err(why) = available() {
            panic!("needs device-mapper: run through scripts/guest ({why})");
        }
        let dir = tempfile::tempdir_in("/mnt/scratch")
            .expect("needs the guest's scratch disk: run through scripts/guest");
        Self { dir, ledger: Saved::default() }
    }

    fn config(&self) -> ThinConfig {
        let root = self.dir.path().to_owned();
        let dir = root.join("thin");
        ThinConfig {
            source: PoolSource::Auto { dir, size: Some(512 * MIB), most: None },
            patience: Duration::from_millis(500),
            volume_size: 256 * MIB,
            ..ThinConfig::new(root)
        }
    }

    fn start(&self) -> ThinBackend {
        self.try_start().unwrap()
    }

    fn try_start(&self) -> Result<ThinBackend> {
        ThinBackend::start(self.config(), Arc::new(self.ledger.clone()))
    }

    fn identity(&self) -> Identity {
        let private = self.config().private();
        std::fs::create_dir_all(&private).unwrap();
        Identity::of(&private).unwrap()
    }

    /// Our devices and attached files that are still there.
    fn left_over(&self) -> Vec<String> {
        let dm = Dm::open().unwrap();
        let prefix = self.identity().prefix();
        let mut left: Vec<_> =
            dm.devices().unwrap().into_iter().filter(|name| name.starts_with(&prefix)).collect();
        for file in ["data.img", "metadata.img"] {
            let path = self.dir.path().join("thin").join(file);
            if path.exists() {
                left.extend(
                    LoopDevice::find(&path)
                        .unwrap()
                        .iter()
                        .map(|found| found.path().display().to_string()),
                );
            }
        }
        left
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let dm = Dm::open().unwrap();
        let Ok(identity) = Identity::of(&self.dir.path().join("thin")) else { return };
        let ours = |name: &String| name.starts_with(&identity.prefix());
        let mut names: Vec<_> = dm.devices().unwrap().into_iter().filter(ours).collect();
        names.sort_by_key(|name| identity.thin_of(name).is_none());
        for name in names {
            let _ = devices::remove_when_closed(&dm, &name, Duration::from_secs(2));
        }
        for file in ["data.img", "metadata.img"] {
            for found in
                LoopDevice::find(&self.dir.path().join("thin").join(file)).unwrap_or_default()
            {
                let _ = found.detach(Duration::from_secs(2));
            }
        }
    }
}

/// What the cause says, too.
fn text(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

/// A path below the detached mount, for this process.
fn below(mounted: &Mounted, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(mounted.root.as_raw_fd().to_string()).join(name)
}

fn write(mounted: &Mounted, name: &str, bytes: &[u8]) {
    let mut file = File::create(below(mounted, name)).unwrap();
    file.write_all(bytes).unwrap();
}

fn read(mounted: &Mounted, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(below(mounted, name)).ok()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

fn names(mounted: &Mounted) -> Vec<String> {
    let entries = std::fs::read_dir(below(mounted, ".")).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A committed volume with one file.
fn committed(
    backend: &ThinBackend,
    id: u32,
    origin: Option<&Volume>,
    name: &str,
    bytes: &[u8],
) -> Volume {
    let volume = backend.create(VolumeId(id), origin, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, name, bytes);
    backend.seal(&volume, &mut mounted).unwrap();
    backend.deactivate(&volume, mounted).unwrap();
    volume
}

/// Thin devices in the pool that are the backend's own: ballast, and the data device's witness.
fn own(backend: &ThinBackend) -> Vec<u32> {
    let record = backend.book.record();
    record.ballast.into_iter().chain(record.witness.map(|witness| witness.thin_id)).collect()
}

/// All others.
fn devices_in(backend: &ThinBackend) -> usize {
    backend.existing().unwrap().len() - own(backend).len()
}

fn usage(backend: &ThinBackend, volume: &Volume, origin: Option<&Volume>) -> Usage {
    backend.usage(volume, origin, None, &AtomicBool::new(false)).unwrap()
}

fn thin(volume: &Volume) -> ThinId {
    thin_id(volume).unwrap()
}

/// Runs a program that must succeed; what it wrote.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} did not run: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

mod changes;
mod growth;
mod histories;
mod lifecycle;
mod measures;
mod pools;
mod recovery;
mod space;
