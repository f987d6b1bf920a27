//! What changed in a volume since it was made of another: from the pool's mapping, without a walk over its files.
//!
//! ```text
//! the pool's two mapping trees ─▶ blocks that differ ─▶ inodes that differ in them ─▶ directories above those
//! ```
//! Whatever changes a file changes its inode, if only the change time in it. So the blocks of inode tables tell all.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::ThinBackend;
use super::error::io as io_error;
use super::inodes::Tables;
use super::reconcile::thin_id;
use super::usage;
use crate::sys::filesystem::checkpoint_ext4;
use crate::tree::{self, Changed, ChangedInode};
use crate::types::Volume;
use crate::volume::{Error, Mounted, Result};

/// Where more than this part of the inodes in use differ, a walk is as fast.
const WORTH: u64 = 4;

impl ThinBackend {
    /// Which inodes of `new` differ from `old`, of which it started as a copy, or which started as one of its copies.
    /// Both are active. `None`: a walk has to find out.
    pub(super) fn changes(
        &self,
        old: &Volume,
        new: &Volume,
        mounted: &Mounted,
        cancel: &AtomicBool,
    ) -> Result<Option<Changed>> {
        let (was, is) = (thin_id(old)?, thin_id(new)?);
        if self.devices.is_live(was) || self.devices.written_elsewhere(is).is_some() {
            return Ok(None);
        }
        let (Some(old_path), Some(new_path)) =
            (self.devices.mounted_path(was), self.devices.mounted_path(is))
        else {
            return Ok(None);
        };
        let failed = |doing| {
            let context = format!("{doing} of volumes {} and {}", old.id, new.id);
            move |source: io::Error| io_error(context, source)
        };
        // 1. What was written before this is in its place on the device, so that the mapping shows it.
        let settle = || self.devices.flush(is, &mounted.root).and_then(|()| settle(&mounted.root));
        if self.devices.is_live(is) && !settle().map_err(failed("flushing"))? {
            return Ok(None);
        }
        // 2. Blocks.
        let blocks =
            usage::read(&self.pool, &self.nodes, |view| view.changed_blocks(is, was, cancel))?;
        let Some(blocks) = blocks else { return Ok(None) };
        // 3. Inodes.
        let open =
            |path: &Path| Tables::open(path).map_err(failed("reading the group descriptors"));
        let (Some(old_tables), Some(tables)) = (open(&old_path)?, open(&new_path)?) else {
            return Ok(None);
        };
        let block = self.pool.table().block.bytes();
        let ranges = blocks.into_iter().map(|number| number * block..(number + 1) * block);
        let most = usize::try_from(tables.used() / WORTH).unwrap_or(usize::MAX);
        let changed = tables.changed_from(&old_tables, ranges, most);
        let Some(changed) = changed.map_err(failed("comparing the inodes"))? else {
            return Ok(None);
        };
        // 4. Directories.
        let located = locate(&tables, &changed, mounted, cancel);
        located.map(Some).map_err(|error| match error {
            tree::Error::Cancelled => Error::Cancelled("comparing was cancelled".to_owned()),
            error => Error::Backend {
                context: format!("looking for the changed files of volume {}", new.id),
                source: error.into(),
            },
        })
    }
}

/// Has everything that was flushed written to its final place. False: this filesystem can't.
fn settle(root: impl AsFd) -> io::Result<bool> {
    match checkpoint_ext4(&root) {
        // No ext4, or one without a journal.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::ENODEV)) => {
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

/// ext4 puts a file into the group of its directory, while there is room: those groups come first.
fn locate(
    tables: &Tables,
    changed: &[ChangedInode],
    mounted: &Mounted,
    cancel: &AtomicBool,
) -> tree::Result<Changed> {
    let files = changed.iter().filter(|inode| inode.links > 0 && !inode.is_directory);
    let likely: BTreeSet<usize> = files.map(|inode| tables.group_of(inode.number)).collect();
    let others = (0..tables.group_count()).filter(|group| !likely.contains(group));
    let mut groups = likely.iter().copied().chain(others);
    let mut more = || groups.next().map(|group| tables.directories(group)).transpose();
    Changed::locate(mounted.root.as_fd(), changed, &mut more, cancel)
}
