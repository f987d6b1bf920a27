//! The layer store on real volumes and a real store; moby's own cases are in [`moby`].

mod collecting;
mod crashes;
mod images;
mod layers;
mod moby;
mod rw;
mod thin;

use std::io::{Cursor, Write};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags, fchmod, mkdirat, openat};
use tempfile::TempDir;

use super::{LayerStore, Progress, Register, Registered, Restored, Result};
use crate::layer::tar::{Entry, Kind, Time, write};
use crate::snapshot::tests::fixture::Fixture;
use crate::types::{ChainId, GivenName, Holder};

static NEVER: AtomicBool = AtomicBool::new(false);

/// A layer store on a store and a backend, which can be stopped and started again.
struct Rig {
    layers: Option<Arc<LayerStore>>,
    fixture: Fixture,
    records: TempDir,
}

impl Rig {
    fn native() -> Self {
        Self::on(Fixture::native())
    }

    fn on(fixture: Fixture) -> Self {
        let records = tempfile::tempdir().unwrap();
        let mut rig = Self { layers: None, fixture, records };
        assert_eq!(rig.start(), Restored::default());
        rig
    }

    fn start(&mut self) -> Restored {
        let snapshots = Arc::clone(self.fixture.snapshots());
        let (layers, restored) = LayerStore::start(snapshots, self.records.path()).unwrap();
        self.layers = Some(layers);
        restored
    }

    fn restart(&mut self) -> Restored {
        self.layers = None;
        self.fixture.restart();
        self.start()
    }

    fn crash(&mut self) -> Restored {
        self.layers = None;
        self.fixture.crash();
        self.start()
    }

    fn layers(&self) -> &Arc<LayerStore> {
        self.layers.as_ref().unwrap()
    }

    fn try_register(&self, tar: &[u8], parent: Option<ChainId>) -> Result<Registered> {
        register(self.layers(), tar, parent)
    }

    fn register(&self, tar: &[u8], parent: Option<ChainId>) -> ChainId {
        self.try_register(tar, parent).unwrap().chain
    }

    fn try_tar_of(&self, chain: &ChainId) -> Result<Vec<u8>> {
        let mut tar = Vec::new();
        self.layers().tar_stream(chain, &mut tar, &NEVER)?;
        Ok(tar)
    }

    #[track_caller]
    fn assert_tar(&self, chain: &ChainId, tar: &[u8]) {
        assert!(self.try_tar_of(chain).unwrap() == tar, "another tar came back");
    }

    fn chains(&self) -> Vec<ChainId> {
        self.layers().layers().unwrap().into_iter().map(|info| info.chain).collect()
    }

    /// Chain ids of what a release removed, in order.
    fn release(&self, chain: &ChainId) -> Vec<ChainId> {
        self.layers().release(chain).unwrap().into_iter().map(|removed| removed.chain).collect()
    }

    /// The store and the backend agree, no import is left, and there is a record file a layer.
    #[track_caller]
    fn assert_sound(&self) {
        self.fixture.assert_sound();
        let files = std::fs::read_dir(self.records.path()).unwrap();
        let records = files.filter(|file| {
            file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "split")
        });
        assert_eq!(records.count(), self.chains().len(), "record files");
        let ns = self.layers().namespace();
        self.fixture
            .snapshots()
            .walk(ns, &[], &mut |info| {
                assert!(!info.key.as_str().starts_with("import:"), "{} is left", info.key);
                ControlFlow::Continue(())
            })
            .unwrap();
    }

    fn read(&self, id: crate::types::SnapshotId, path: &str) -> Option<Vec<u8>> {
        let opened = self.fixture.snapshots().open(id).unwrap();
        read(opened.pin.root(), path)
    }
}

/// For threads, which can't share a rig.
fn register(
    layers: &LayerStore,
    tar: impl std::io::Read + Send,
    parent: Option<ChainId>,
) -> Result<Registered> {
    let progress = &Progress::default();
    layers.register(tar, Register { parent, expected: None, holder: Holder::User, progress })
}

fn name(name: &str) -> GivenName {
    GivenName::new(name).unwrap()
}

fn read(root: BorrowedFd<'_>, path: &str) -> Option<Vec<u8>> {
    let fd = openat(root, path, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes).unwrap();
    Some(bytes)
}

fn put(root: BorrowedFd<'_>, path: &str, content: &[u8], mode: u32) {
    if let Some((dir, _)) = path.rsplit_once('/') {
        let _ = mkdirat(root, dir, Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let fd = openat(root, path, flags, Mode::from_raw_mode(mode)).unwrap();
    fchmod(&fd, Mode::from_raw_mode(mode)).unwrap();
    std::fs::File::from(fd).write_all(content).unwrap();
}

fn entry(kind: Kind, path: &str, content: &[u8]) -> Entry {
    Entry {
        kind,
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        device: (0, 0),
        mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        atime: None,
        size: content.len() as u64,
        extents: None,
        xattrs: Vec::new(),
    }
}

/// A tar of files, with their directories.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        if let Some((dir, _)) = path.rsplit_once('/') {
            tar.extend(write::header(&entry(Kind::Directory, &format!("{dir}/"), b"")));
        }
        tar.extend(write::header(&entry(Kind::File, path, content)));
        tar.extend_from_slice(content);
        tar.extend_from_slice(write::padding(content.len() as u64));
    }
    tar.extend_from_slice(&write::END);
    tar
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(Cursor::new(bytes), 1).unwrap()
}
