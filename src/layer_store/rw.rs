//! Read-write layers: create, get, size, what changed.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{AtFlags, statat};

use super::error::{Error, Result};
use super::pair::Pair;
use super::{IMPORT, LayerStore, RW, keys};
use crate::crashpoint::Step;
use crate::layer::{self, Limits, Options, Written};
use crate::meta::Batch;
use crate::snapshot::locks::{Held, Mode};
use crate::snapshot::{Info, MAX_SIZE_LABEL};
use crate::tree::{self, ChangeKind};
use crate::types::{ChainId, GivenName, Holder, Labels, RwLayer, SnapshotKey, Usage};

/// The storage option that says how large the layer's filesystem is, in bytes.
const SIZE: &str = "size";

/// Puts files below a directory.
pub type Fill<'a> = dyn FnMut(BorrowedFd<'_>) -> Result<()> + 'a;

/// What a read-write layer is to be.
#[derive(Default)]
pub struct CreateRw<'a> {
    /// The layer that it stands on; `None`: it starts empty.
    pub parent: Option<ChainId>,
    /// Puts files below the given directory, into a layer of their own between parent and
    /// read-write layer: they don't count as changes of it.
    pub init: Option<&'a mut Fill<'a>>,
    /// The security label that its user mounts it with; kept for him.
    pub mount_label: String,
    /// `size`: most that its filesystem can hold, in decimal bytes (thin backend).
    pub storage: BTreeMap<String, String>,
}

/// A read-write layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RwInfo {
    /// Its name.
    pub name: GivenName,
    /// Its record.
    pub layer: RwLayer,
    /// The key of its active snapshot in the layers' namespace: what moby calls its mount id.
    pub key: SnapshotKey,
}

impl LayerStore {
    /// Makes a read-write layer, with one reference. Any number can be made at once, on one parent
    /// too: none waits for another. Its init layer is made before the name is taken: of two that
    /// are made under one name, the first that is complete gets it.
    ///
    /// After a crash, either all of it is there, or nothing: an init layer without its read-write
    /// layer goes at the next start.
    pub fn create_rw(&self, name: &GivenName, create: CreateRw<'_>) -> Result<RwInfo> {
        let CreateRw { parent, init, mount_label, storage } = create;
        let labels = labels(&storage)?;
        let layer = RwLayer {
            parent,
            snapshot: crate::types::SnapshotId(0),
            init: None,
            mount_label,
            storage,
            references: 1,
            created: SystemTime::now(),
        };
        let Some(init) = init else {
            let _held = self.hold_rw(name, parent.as_ref())?;
            let below = parent.as_ref().map(keys::layer);
            return self.put_rw(name, below.as_ref(), labels, layer);
        };
        let key = keys::import(self.imports.fetch_add(1, Ordering::Relaxed));
        let working = self.work_on(IMPORT, &key);
        let import = self.begin_init(name, &key, parent, &labels)?;
        let made = self
            .fill_init(&import, init)
            .and_then(|()| self.put_rw_on_init(name, &import, labels, layer));
        if made.is_err()
            && let Err(error) = self.abandon_init(&import, parent)
        {
            tracing::warn!(%error, key = %import.key, "an init layer is left to the collector");
            drop(working);
            self.leave();
        }
        made
    }

    /// Holds the name of a read-write layer that is to be made, and its parent.
    fn hold_rw(&self, name: &GivenName, parent: Option<&ChainId>) -> Result<Held<'_>> {
        let (key, parent_key) = (keys::rw(name), parent.map(keys::layer));
        let mut wanted = vec![(&key, Mode::Exclusive)];
        wanted.extend(parent_key.iter().map(|key| (key, Mode::Shared)));
        let held = self.locks.hold(&self.ns, &wanted);
        if self.store().rw_layer(name)?.is_some() {
            return Err(Error::RwExists(name.to_string()));
        }
        if let Some(parent) = parent {
            self.existing(parent)?;
        }
        Ok(held)
    }

    fn put_rw(
        &self,
        name: &GivenName,
        below: Option<&SnapshotKey>,
        labels: Labels,
        mut layer: RwLayer,
    ) -> Result<RwInfo> {
        let key = keys::rw(name);
        self.snapshots.prepare_with(&self.ns, &key, below, labels, &mut |info, batch| {
            layer.snapshot = info.snapshot.id;
            batch.put_rw_layer(name, &layer);
            if let (Some(parent), Some(init)) = (&layer.parent, layer.init) {
                batch.put_layer_ref(parent, &Holder::Import(init), 0);
            }
        })?;
        tracing::info!(%name, parent = ?layer.parent, "read-write layer made");
        Ok(RwInfo { name: name.clone(), layer, key })
    }

    /// An active snapshot on the parent, with a reference that keeps the parent while nobody holds it.
    fn begin_init(
        &self,
        name: &GivenName,
        key: &SnapshotKey,
        parent: Option<ChainId>,
        labels: &Labels,
    ) -> Result<Info> {
        let _held = self.hold_rw(name, parent.as_ref())?;
        let below = parent.as_ref().map(keys::layer);
        let also = &mut |info: &Info, batch: &mut Batch| {
            if let Some(parent) = &parent {
                batch.put_layer_ref(parent, &Holder::Import(info.snapshot.id), 1);
            }
        };
        Ok(self.snapshots.prepare_with(&self.ns, key, below.as_ref(), labels.clone(), also)?)
    }

    fn fill_init(&self, import: &Info, init: &mut Fill<'_>) -> Result<()> {
        let opened = self.snapshots.open(import.snapshot.id)?;
        let _writer = opened.pin.writer().map_err(crate::snapshot::Error::from)?;
        init(opened.pin.root())
    }

    /// 1. the filled snapshot becomes the init layer;
    /// 2. one batch makes the read-write layer on it, whose hold on the parent replaces the import's.
    fn put_rw_on_init(
        &self,
        name: &GivenName,
        import: &Info,
        labels: Labels,
        mut layer: RwLayer,
    ) -> Result<RwInfo> {
        let _held = self.hold_rw(name, layer.parent.as_ref())?;
        let key = keys::init(name);
        let nothing = &mut |_: &Info, _: &mut Batch| {};
        self.snapshots.commit_with(&self.ns, &key, &import.key, Labels::new(), None, nothing)?;
        layer.init = Some(import.snapshot.id);
        let made = self.put_rw(name, Some(&key), labels, layer);
        // While the name is held: the next one of this name has an init layer of this key.
        if made.is_err()
            && let Err(error) = self.snapshots.remove_with(&self.ns, &key, &mut |_, _| {})
        {
            tracing::warn!(%error, %key, "an init layer is left to the collector");
            self.leave();
        }
        made
    }

    /// Removes what was made for an init layer. The parent may have lost its last other reference meanwhile.
    fn abandon_init(&self, import: &Info, parent: Option<ChainId>) -> Result<()> {
        let forget = |batch: &mut Batch| {
            if let Some(parent) = &parent {
                batch.put_layer_ref(parent, &Holder::Import(import.snapshot.id), 0);
            }
        };
        let removed =
            self.snapshots.remove_with(&self.ns, &import.key, &mut |_, batch| forget(batch));
        match removed {
            // It had become an init layer, and is gone.
            Err(crate::snapshot::Error::NotFound(_)) => {
                let mut batch = Batch::of(Step::StoreLayer);
                forget(&mut batch);
                self.store().write(batch)?;
            }
            removed => drop(removed?),
        }
        self.collect(parent, &mut Vec::new())
    }

    /// The read-write layer with this name, with one reference more.
    pub fn get_rw(&self, name: &GivenName) -> Result<RwInfo> {
        let _held = self.locks.hold(&self.ns, &[(&keys::rw(name), Mode::Exclusive)]);
        let mut info = self.rw(name)?;
        info.layer.references = info.layer.references.saturating_add(1);
        let mut batch = Batch::of(Step::StoreLayer);
        batch.put_rw_layer(name, &info.layer);
        self.store().write(batch)?;
        Ok(info)
    }

    /// The read-write layer with this name.
    pub fn rw(&self, name: &GivenName) -> Result<RwInfo> {
        let layer =
            self.store().rw_layer(name)?.ok_or_else(|| Error::RwNotFound(name.to_string()))?;
        Ok(RwInfo { name: name.clone(), layer, key: keys::rw(name) })
    }

    /// All read-write layers, in the order of their names.
    pub fn rw_layers(&self) -> Result<Vec<RwInfo>> {
        let all = self.store().rw_layers()?.into_iter();
        Ok(all.map(|(name, layer)| RwInfo { key: keys::rw(&name), name, layer }).collect())
    }

    /// What it holds of its own, without parent and init layer. Where a snapshot starts as a copy of
    /// files, that is the files that differ.
    pub fn rw_size(&self, name: &GivenName, cancel: &AtomicBool) -> Result<Usage> {
        let RwLayer { snapshot, .. } = self.rw(name)?.layer;
        if self.copies_blocks() {
            return Ok(self.snapshots.usage(&self.ns, &keys::rw(name), cancel)?);
        }
        let new = self.snapshots.open(snapshot)?;
        let (mut usage, mut seen) = (Usage::default(), HashSet::new());
        self.rw_changes(name, cancel, &mut |change| {
            let found = match change.kind {
                ChangeKind::Deleted => None,
                // It may have gone again.
                ChangeKind::Added | ChangeKind::Modified => {
                    statat(new.pin.root(), change.path, AtFlags::SYMLINK_NOFOLLOW).ok()
                }
            };
            if let Some(stat) = found.filter(|stat| seen.insert(stat.st_ino)) {
                usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                usage.inodes += 1;
            }
            ControlFlow::Continue(())
        })?;
        Ok(usage)
    }

    /// Calls `visit` with each difference from what is below the read-write layer, in path order,
    /// until it breaks.
    pub fn rw_changes(
        &self,
        name: &GivenName,
        cancel: &AtomicBool,
        visit: &mut dyn FnMut(tree::Change<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let pair = self.rw_pair(name, cancel)?;
        Ok(tree::diff(pair.old_root(), pair.new_root(), pair.options(), cancel, visit)?)
    }

    /// Writes what the read-write layer changed as the tar of a layer, to be registered on its
    /// parent.
    pub fn rw_tar_stream(
        &self,
        name: &GivenName,
        out: impl Write + Send,
        cancel: &AtomicBool,
    ) -> Result<Written> {
        let _working = self.work_on(RW, name);
        let pair = self.rw_pair(name, cancel)?;
        Ok(layer::diff_tar(pair.old_root(), pair.new_root(), pair.options(), out, cancel)?)
    }

    /// What is below the read-write layer, and the layer.
    fn rw_pair(&self, name: &GivenName, cancel: &AtomicBool) -> Result<Pair> {
        let RwLayer { parent, init, snapshot, .. } = self.rw(name)?.layer;
        let below = match (init, parent) {
            (Some(init), _) => Some(init),
            (None, Some(parent)) => Some(self.existing(&parent)?.snapshot),
            (None, None) => None,
        };
        let below = below.map(|id| self.snapshots.open(id)).transpose()?;
        self.pair(below, self.snapshots.open(snapshot)?, cancel)
    }

    /// Unpacks a tar below `root`: for an init layer that is given as one.
    pub fn unpack_into(
        &self,
        root: BorrowedFd<'_>,
        tar: impl Read + Send,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let done = AtomicU64::new(0);
        let options = Options { limits: Limits::default(), cancel, done: &done };
        layer::apply(root, tar, &mut (), options)?;
        Ok(())
    }
}

fn labels(storage: &BTreeMap<String, String>) -> Result<Labels> {
    let mut labels = Labels::new();
    for (option, value) in storage {
        match option.as_str() {
            SIZE => labels.insert(MAX_SIZE_LABEL.to_owned(), value.clone()),
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "storage option {option:?} is unknown: there is only {SIZE:?}"
                )));
            }
        };
    }
    Ok(labels)
}
