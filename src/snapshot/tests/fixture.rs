//! A store, a backend and the rules on top, in a temporary directory; and short words for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Dir, Mode, OFlags, openat};
use tempfile::TempDir;

use crate::meta::Store;
use crate::snapshot::{Error, Info, LabelUpdate, Recovery, Result, Snapshots};
use crate::types::{Counts, Kind, Labels, Namespace, SnapshotKey, Usage};
use crate::volume::{self, Backend, NativeBackend, NativeConfig, Pin, Volumes};

type MakeBackend = Box<dyn Fn(&Arc<Store>) -> Arc<dyn Backend>>;

/// Everything below the front doors; can be stopped and started again on the same data.
pub(crate) struct Fixture {
    snapshots: Option<Arc<Snapshots>>,
    make_backend: MakeBackend,
    dir: TempDir,
}

impl Fixture {
    /// `make_backend` is called at each start, with the store just opened.
    pub(crate) fn new(
        dir: TempDir,
        make_backend: impl Fn(&Arc<Store>) -> Arc<dyn Backend> + 'static,
    ) -> Self {
        let mut fixture = Self { snapshots: None, make_backend: Box::new(make_backend), dir };
        fixture.start();
        fixture
    }

    /// On plain directories.
    pub(crate) fn native() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let trees = dir.path().join("native");
        Self::new(dir, move |_| native_backend(&trees))
    }

    pub(crate) fn snapshots(&self) -> &Arc<Snapshots> {
        self.snapshots.as_ref().expect("started")
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.snapshots().store()
    }

    /// Where all of it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A clean stop and a start.
    pub(crate) fn restart(&mut self) -> Recovery {
        self.restart_after(|| {})
    }

    /// A clean stop, something done meanwhile, and a start.
    pub(crate) fn restart_after(&mut self, meanwhile: impl FnOnce()) -> Recovery {
        let snapshots = self.stop();
        snapshots.volumes().stop().unwrap();
        drop(snapshots);
        meanwhile();
        self.start()
    }

    /// Stops without flushing or deactivating anything, as far as a process can do that to itself,
    /// and starts.
    pub(crate) fn crash(&mut self) -> Recovery {
        drop(self.stop());
        self.start()
    }

    fn stop(&mut self) -> Arc<Snapshots> {
        let snapshots = self.snapshots.take().expect("started");
        snapshots.close().unwrap();
        snapshots
    }

    fn start(&mut self) -> Recovery {
        let store = Arc::new(Store::open(&self.dir.path().join("store")).unwrap());
        let volumes = Volumes::new((self.make_backend)(&store), 64);
        let (snapshots, recovery) = Snapshots::start(store, volumes).unwrap();
        self.snapshots = Some(snapshots);
        recovery
    }

    /// A namespace of its own, to work in.
    pub(crate) fn scene(&self, namespace: &str) -> Scene<'_> {
        Scene { snapshots: self.snapshots(), ns: Namespace::new(namespace).unwrap() }
    }

    /// Reclaims what is removed, then checks every invariant.
    pub(crate) fn assert_sound(&self) {
        let reaped = self.snapshots().cleanup().unwrap();
        assert_eq!((reaped.failed, reaped.waiting), (vec![], 0));
        assert_eq!(self.snapshots().pending().unwrap(), 0);
        assert_eq!(self.snapshots().check().unwrap(), Vec::<String>::new());
        let mut counts: BTreeMap<Namespace, Counts> = BTreeMap::new();
        for ns in self.store().namespaces().unwrap() {
            let counted = self.store().for_each_snapshot(&ns, &mut |_, snapshot| {
                *counts.entry(ns.clone()).or_default().of(snapshot.kind) += 1;
                ControlFlow::Continue(())
            });
            counted.unwrap();
        }
        assert_eq!(self.store().counts(), counts, "what `status` shows is what there is");
    }
}

impl Drop for Fixture {
    /// Takes down what a backend has outside of the directory: devices, attached files.
    fn drop(&mut self) {
        if let Some(snapshots) = self.snapshots.take() {
            let _ = snapshots.close();
            let _ = snapshots.volumes().stop();
        }
    }
}

pub(crate) fn native_backend(trees: &std::path::Path) -> Arc<dyn Backend> {
    Arc::new(NativeBackend::start(NativeConfig { dir: trees.to_owned() }).unwrap())
}

/// The error classes that CONTRACTS tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Unavailable,
}

pub(crate) fn code(error: &Error) -> Code {
    match error {
        Error::InvalidName(_) | Error::InvalidArgument(_) | Error::ParentNotCommitted { .. } => {
            Code::InvalidArgument
        }
        Error::NotFound(_) | Error::ParentNotFound(_) | Error::NoSuch { .. } => Code::NotFound,
        Error::AlreadyExists(_) | Error::Exists { .. } => Code::AlreadyExists,
        Error::WrongKind { .. }
        | Error::HasChildren(_)
        | Error::FailedPrecondition(_)
        | Error::Volume(volume::Error::Busy(..)) => Code::FailedPrecondition,
        Error::Stopping | Error::Store(_) | Error::Volume(_) | Error::Rollback { .. } => {
            Code::Unavailable
        }
    }
}

/// The rules in one namespace, in short words.
#[derive(Clone)]
pub(crate) struct Scene<'a> {
    pub(crate) snapshots: &'a Arc<Snapshots>,
    pub(crate) ns: Namespace,
}

pub(crate) fn key(key: &str) -> SnapshotKey {
    SnapshotKey::new(key).unwrap()
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Scene<'_> {
    pub(crate) fn prepare(&self, name: &str, parent: &str) -> Result<Info> {
        self.prepare_labelled(name, parent, &[])
    }

    pub(crate) fn prepare_labelled(
        &self,
        name: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<Info> {
        self.snapshots.prepare(&self.ns, &key(name), parent_key(parent).as_ref(), labels(with))
    }

    pub(crate) fn view(&self, name: &str, parent: &str) -> Result<Info> {
        self.view_labelled(name, parent, &[])
    }

    pub(crate) fn view_labelled(
        &self,
        name: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<Info> {
        self.snapshots.view(&self.ns, &key(name), parent_key(parent).as_ref(), labels(with))
    }

    pub(crate) fn commit(&self, name: &str, from: &str) -> Result<Info> {
        self.commit_labelled(name, from, &[])
    }

    pub(crate) fn commit_labelled(
        &self,
        name: &str,
        from: &str,
        with: &[(&str, &str)],
    ) -> Result<Info> {
        self.snapshots.commit(&self.ns, &key(name), &key(from), labels(with), None)
    }

    pub(crate) fn rebase(&self, name: &str, from: &str, parent: &str) -> Result<Info> {
        self.snapshots.commit(&self.ns, &key(name), &key(from), Labels::new(), Some(&key(parent)))
    }

    /// Prepares, writes one file and commits.
    pub(crate) fn layer(&self, name: &str, parent: &str, file: &str) -> Info {
        let preparing = format!("{name}-preparing");
        let info = self.prepare(&preparing, parent).unwrap();
        write(&self.open(&info), file, file).unwrap();
        self.commit(name, &preparing).unwrap()
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.snapshots.remove(&self.ns, &key(name))
    }

    pub(crate) fn stat(&self, name: &str) -> Result<Info> {
        self.snapshots.stat(&self.ns, &key(name))
    }

    pub(crate) fn mounts(&self, name: &str) -> Result<Info> {
        self.snapshots.mounts(&self.ns, &key(name))
    }

    pub(crate) fn replace_labels(&self, name: &str, with: &[(&str, &str)]) -> Result<Info> {
        self.snapshots.update(&self.ns, &key(name), LabelUpdate::Replace(labels(with)))
    }

    pub(crate) fn merge_labels(&self, name: &str, with: &[(&str, &str)]) -> Result<Info> {
        self.snapshots.update(&self.ns, &key(name), LabelUpdate::Merge(labels(with)))
    }

    pub(crate) fn usage(&self, name: &str) -> Result<Usage> {
        self.snapshots.usage(&self.ns, &key(name), &AtomicBool::new(false))
    }

    /// Keys of what the filters let through, in order.
    pub(crate) fn walk(&self, filters: &[&str]) -> Result<Vec<String>> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let mut keys = Vec::new();
        self.snapshots.walk(&self.ns, &filters, &mut |info| {
            keys.push(info.key.to_string());
            ControlFlow::Continue(())
        })?;
        keys.sort();
        Ok(keys)
    }

    pub(crate) fn page(&self, kind: Kind) -> Vec<String> {
        let page = self.snapshots.page(&self.ns, kind, None, 1000).unwrap();
        page.into_iter().map(|(key, _)| key.to_string()).collect()
    }

    pub(crate) fn open(&self, info: &Info) -> Pin {
        self.snapshots.open(info.snapshot.id).unwrap().pin
    }

    /// Names of the files in a snapshot.
    pub(crate) fn files(&self, name: &str) -> BTreeSet<String> {
        files(&self.open(&self.stat(name).unwrap()))
    }
}

fn parent_key(parent: &str) -> Option<SnapshotKey> {
    (!parent.is_empty()).then(|| key(parent))
}

/// Writes a file as the file layer does: counted as a writer.
pub(crate) fn write(pin: &Pin, name: &str, content: &str) -> volume::Result<()> {
    let writer = pin.writer()?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file: OwnedFd = openat(writer.pin(), name, flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, content.as_bytes()).unwrap();
    Ok(())
}

pub(crate) fn files(pin: &Pin) -> BTreeSet<String> {
    let entries = Dir::read_from(pin.as_fd()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    names.filter(|name| name != "." && name != "..").collect()
}
