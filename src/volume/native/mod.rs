//! Volumes as plain directory trees, for machines without device-mapper.
//!
//! ```text
//! <dir>/                 0700: nobody but root gets past it
//!   volumes/<id>/fs/     the root of a volume's tree
//!   tmp/<id>/fs/         being made; moved to volumes/ when it is complete
//!   tmp/trash-<id>/      being removed
//! ```
//! A volume with an origin starts as a copy of the origin's whole tree: with shared blocks where
//! the filesystem has reflinks, else byte by byte. What a volume holds of its own is therefore all
//! that its tree holds.
//!
//! Crashes: everything in `tmp/`, and every volume that the store doesn't name, is garbage that
//! [`Backend::reconcile`] removes. Assumed of the filesystem: a rename is atomic, and what `fsync`
//! and `syncfs` have returned for is on stable storage.

mod layout;
mod probe;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{fstatvfs, syncfs};

use self::layout::Layout;
use super::backend::{Access, Backend, Capacity, Mounted, Reconciled};
use super::{Error, Result};
use crate::crashpoint::{Step, around};
use crate::tree;
use crate::types::{Backing, Usage, Volume, VolumeId, VolumeState};

/// Where the trees are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeConfig {
    /// The backend's own directory, as in `<root>/native`; made if absent, with the parents there.
    pub dir: PathBuf,
}

/// The backend on plain directories.
#[derive(Debug)]
pub struct NativeBackend {
    layout: Layout,
    filesystem: &'static str,
    reflink: bool,
    /// Ends running copies and removals.
    stopping: AtomicBool,
}

impl NativeBackend {
    /// Opens or makes the directory, and finds out what its filesystem can do. Refuses one without
    /// file handles: files below the FUSE root are found again by them.
    pub fn start(config: NativeConfig) -> Result<Self> {
        let layout = Layout::open(&config.dir)?;
        probe::require_file_handles(layout.volumes(), &config.dir)?;
        let filesystem = probe::filesystem(layout.volumes());
        let reflink = probe::has_reflink(&layout)?;
        let backend = Self { layout, filesystem, reflink, stopping: AtomicBool::new(false) };
        if !reflink {
            tracing::info!(
                dir = %config.dir.display(),
                "{filesystem} has no reflink: each snapshot will be a full copy of its parent \
                 (xfs and btrfs share the blocks instead)"
            );
        }
        Ok(backend)
    }

    /// Fills `tmp/<id>`; durable together with its new name once `create` has synced.
    fn make(&self, id: VolumeId, origin: Option<&Volume>) -> Result<()> {
        let root = around(Step::NativeMake, || self.layout.make(id))?;
        let Some(origin) = origin else {
            return layout::finish_empty(&root).map_err(io(|| format!("making volume {id}")));
        };
        let from = self.open(origin.id)?;
        let control = tree::Control { cancel: &self.stopping, progress: &|_| {} };
        let copy = || tree::copy(from.as_fd(), root.as_fd(), control);
        let copied = around(Step::NativeCopy, copy)
            .map_err(|error| of_tree(error, || format!("copying volume {} to {id}", origin.id)))?;
        tracing::debug!(volume = %id, origin = %origin.id, ?copied, "copied a tree");
        Ok(())
    }

    /// Makes a volume that is in place durable.
    fn sync(&self, id: VolumeId, origin: Option<&Volume>) -> Result<()> {
        around(Step::NativeSync, || match origin {
            // The tree and its name together.
            Some(_) => syncfs(self.layout.volumes()),
            None => self.layout.sync_empty(id),
        })
        .map_err(io(|| format!("flushing volume {id}")))
    }

    fn open(&self, id: VolumeId) -> Result<OwnedFd> {
        let root = self.layout.open_root(id).map_err(io(|| format!("opening volume {id}")))?;
        root.ok_or(Error::Missing(id))
    }

    fn destroy_tree(&self, id: VolumeId) -> Result<()> {
        // What an earlier attempt left must make room for the name.
        self.remove_tmp(&layout::trash(id))?;
        let trash = || self.layout.trash(id);
        if around(Step::NativeTrash, trash).map_err(io(|| format!("removing volume {id}")))? {
            self.remove_tmp(&layout::trash(id))?;
        }
        Ok(())
    }

    fn remove_tmp(&self, name: &str) -> Result<()> {
        around(Step::NativeRemove, || self.layout.remove_tmp(name, &self.stopping))
            .map_err(|error| of_tree(error, || format!("removing tmp/{name}")))
    }
}

impl Backend for NativeBackend {
    fn name(&self) -> &'static str {
        "native"
    }

    /// `size` means nothing here: a directory has no limit of its own. After a crash either nothing
    /// is left, or garbage in `tmp/` or `volumes/`.
    fn create(&self, id: VolumeId, origin: Option<&Volume>, _size: Option<u64>) -> Result<Volume> {
        // 1. Beside its final place. A failed attempt may have left something there.
        self.remove_tmp(&layout::making(id))?;
        // 2. Into place.
        let made = self.make(id, origin).and_then(|()| {
            around(Step::NativePublish, || self.layout.publish(id))
                .map_err(io(|| format!("moving volume {id} into place")))
        });
        if let Err(error) = made {
            log_cleanup(self.remove_tmp(&layout::making(id)));
            return Err(error);
        }
        // 3. Durable; a crash before leaves garbage.
        let origin_id = origin.map(|origin| origin.id);
        let volume = Volume {
            id,
            state: VolumeState::Live,
            origin: origin_id,
            size: 0,
            backing: Backing::Native,
        };
        if let Err(error) = self.sync(id, origin) {
            log_cleanup(self.destroy(&volume));
            return Err(error);
        }
        Ok(volume)
    }

    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        Ok(Mounted { root: self.open(volume.id)?, access })
    }

    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.flush(volume, mounted)?;
        mounted.access = Access::ReadOnly;
        Ok(())
    }

    fn unseal(&self, _volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        mounted.access = Access::ReadWrite;
        Ok(())
    }

    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()> {
        around(Step::NativeFlush, || syncfs(&mounted.root))
            .map_err(io(|| format!("flushing volume {}", volume.id)))
    }

    fn deactivate(&self, _volume: &Volume, mounted: Mounted) -> Result<()> {
        drop(mounted);
        Ok(())
    }

    /// After a crash the rest is in `tmp/`, or the volume is whole.
    fn destroy(&self, volume: &Volume) -> Result<()> {
        self.destroy_tree(volume.id)
    }

    /// All of the tree: on plain directories a copy is the snapshot's own, shared blocks included.
    fn usage(
        &self,
        volume: &Volume,
        _origin: Option<&Volume>,
        mounted: Option<&Mounted>,
        cancel: &AtomicBool,
    ) -> Result<Usage> {
        let context = || format!("measuring volume {}", volume.id);
        match mounted {
            Some(mounted) => tree::usage(mounted.root.as_fd(), cancel),
            None => tree::usage(self.open(volume.id)?.as_fd(), cancel),
        }
        .map_err(|error| of_tree(error, context))
    }

    fn capacity(&self) -> Result<Capacity> {
        let context = || "asking for free space".to_owned();
        let stat = fstatvfs(self.layout.volumes()).map_err(io(context))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bfree.saturating_mul(stat.f_frsize);
        let used = total.saturating_sub(free);
        Ok(Capacity { total, used, block_size: stat.f_frsize, ..Capacity::default() })
    }

    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled> {
        let mut found = Reconciled::default();
        let context = || "listing the volumes".to_owned();
        for name in self.layout.tmp_names().map_err(io(context))? {
            self.remove_tmp(&name)?;
            found.reaped += 1;
        }
        for id in self.layout.stray(known).map_err(io(context))? {
            tracing::info!(volume = %id, "no record names this tree: removing it");
            self.destroy_tree(id)?;
            found.reaped += 1;
        }
        found.lost = self.layout.lost(known).map_err(io(context))?;
        Ok(found)
    }

    fn reconcile_keeping(&self, known: &[Volume]) -> Result<Reconciled> {
        let context = || "listing the volumes".to_owned();
        let mut found = Reconciled::default();
        for name in self.layout.tmp_names().map_err(io(context))? {
            self.remove_tmp(&name)?;
            found.reaped += 1;
        }
        found.kept = self.layout.stray(known).map_err(io(context))?.len();
        found.lost = self.layout.lost(known).map_err(io(context))?;
        Ok(found)
    }

    fn check(&self, known: &[Volume]) -> Result<Vec<String>> {
        let context = || "listing the volumes".to_owned();
        let lost = self.layout.lost(known).map_err(io(context))?;
        let stray = self.layout.stray(known).map_err(io(context))?;
        let foreign = self.layout.foreign_names().map_err(io(context))?;
        let lost = lost.iter().map(|id| format!("volume {id} has a record but no tree"));
        let stray = stray.iter().map(|id| format!("volume {id} has a tree but no record"));
        let foreign = foreign.iter().map(|name| format!("volumes/{name} is not a volume"));
        Ok(lost.chain(stray).chain(foreign).collect())
    }

    fn describe(&self) -> Vec<(String, String)> {
        let copies = match self.reflink {
            true => "reflink (blocks are shared)".to_owned(),
            false => format!("full copies ({} has no reflink)", self.filesystem),
        };
        vec![
            ("directory".into(), self.layout.path().display().to_string()),
            ("filesystem".into(), self.filesystem.into()),
            ("copies".into(), copies),
        ]
    }

    fn stop(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The failure that made it necessary is the caller's; what is left is removed at the next start.
fn log_cleanup(cleaned: Result<()>) {
    if let Err(error) = cleaned {
        tracing::warn!(error = &error as &dyn std::error::Error, "cleaning up after a failure");
    }
}

/// Gives a failed call its words.
fn io<E: Into<std::io::Error>>(context: impl Fn() -> String) -> impl Fn(E) -> Error {
    move |error| of_io(error.into(), context())
}

fn of_io(source: std::io::Error, context: String) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace(format!("{context}: {source}")),
        _ => Error::Io { context, source },
    }
}

fn of_tree(error: tree::Error, context: impl Fn() -> String) -> Error {
    match error.raw_os_error() {
        _ if matches!(error, tree::Error::Cancelled) => {
            Error::Cancelled(format!("{}: cancelled", context()))
        }
        Some(libc::ENOSPC | libc::EDQUOT) => {
            Error::NoSpace(format!("{}: the filesystem is full", context()))
        }
        _ => Error::Backend { context: context(), source: Box::new(error) },
    }
}
