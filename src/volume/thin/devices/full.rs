//! What a full pool means for the volumes that are mounted: they stop growing, and, at the very last, writing.
//!
//! A write into the page cache finds out only when it is written back, as a failed fsync that few programs
//! look at. So the filesystem is told to hold all of its free blocks back: ext4 then answers ENOSPC to the `write`
//! that needs a new block, whoever calls, by whatever way, also on files that are open. Overwriting, reading, removing
//! and truncating go on. xfs has no such switch: there ENOSPC comes with fsync.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Active, Devices};
use crate::sys::filesystem;
use crate::thin::ThinId;
use crate::thin::dm::DevNum;
use crate::volume::Access;

/// Bytes in a block of the filesystems that we make.
const FILESYSTEM_BLOCK: u64 = 4096;

/// What ext4 holds back by itself: a part of its blocks, but no more than so many (`ext4_set_resv_clusters`).
const HELD_BACK_PART: u64 = 50;
const MOST_HELD_BACK: u64 = 4096;

/// What was done to a mounted filesystem because the pool is full.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Blocks that ext4 held back before it was told to hold back all.
    held_back: Option<u64>,
    /// Shared with who stops it, without the map's lock.
    stopped: Arc<AtomicBool>,
    /// That it could not be stopped has been told.
    told: bool,
}

impl Marks {
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Devices {
    /// Lets volumes grow, or not.
    pub(in crate::volume::thin) fn tighten(&self, tight: bool) {
        if self.tight.swap(tight, Ordering::AcqRel) == tight {
            return;
        }
        for (thin, active) in self.active.lock().iter_mut() {
            follow(tight, *thin, active);
        }
    }

    /// Puts a volume among the others, as they are by now: whoever changed them meanwhile has not met it.
    pub(in crate::volume::thin) fn keep(&self, thin: ThinId, mut active: Active) {
        let mut others = self.active.lock();
        follow(self.tight.load(Ordering::Acquire), thin, &mut active);
        others.insert(thin, active);
    }

    /// The same for a volume that has just been mounted.
    pub(super) fn tighten_new(&self, active: &mut Active, mount: &OwnedFd) {
        active.full = Marks::default();
        // The filesystem may have been mounted all the time, below files that somebody has open, and hold back what an
        // earlier run, or an earlier mount, told it to.
        if !active.fresh
            && let Ok(true) = forget_held_back(active.number, mount)
        {
            tracing::debug!(device = %active.number, "mounted again; it held all of its blocks back");
        }
        if self.tight.load(Ordering::Acquire) {
            let held = hold_back(active.number, mount, &mut active.full);
            tracing::debug!(device = %active.number, ?held, "mounted while the pool is full");
        }
    }

    /// Bytes that lie in the page cache and have no place on the pool yet.
    pub(in crate::volume::thin) fn promised(&self) -> u64 {
        let writable = |active: &&Active| active.filesystem == Access::ReadWrite;
        let numbers: Vec<_> =
            self.active.lock().values().filter(writable).map(|a| a.number).collect();
        let delayed = |number: DevNum| read(&attribute(number, "delayed_allocation_blocks"));
        numbers.into_iter().filter_map(|n| delayed(n).ok()).sum::<u64>() * FILESYSTEM_BLOCK
    }

    /// Whether its filesystem was stopped since it was mounted.
    pub(in crate::volume::thin) fn is_stopped(&self, thin: ThinId) -> bool {
        self.active.lock().get(&thin).is_some_and(|active| active.full.is_stopped())
    }

    /// Stops every filesystem that can be written, as a power cut would: what was synced is safe, all else of the
    /// last seconds is lost, and files that are open are I/O errors until they are closed. The last resort against
    /// full metadata, which would stop all of the pool, removals included.
    pub(in crate::volume::thin) fn stop_writers(&self) {
        let mut active = self.active.lock();
        let running = active.iter_mut().filter(|(_, active)| {
            active.filesystem == Access::ReadWrite && !active.full.is_stopped()
        });
        let found: Vec<_> = running
            .filter_map(|(thin, active)| {
                let mount = active.mount.as_ref()?.try_clone();
                let told = std::mem::replace(&mut active.full.told, true);
                Some((*thin, mount, active.full.stopped.clone(), told))
            })
            .collect();
        drop(active);
        let mut any = false;
        for (thin, mount, mark, told) in found {
            let stopped =
                mount.and_then(crate::sys::mount::root_directory).and_then(filesystem::shut_down);
            match stopped {
                Ok(()) => {
                    mark.store(true, Ordering::Release);
                    any = true;
                    tracing::error!(%thin, "stopped this volume's filesystem: the pool's metadata is all but full")
                }
                // It is tried again at each look.
                Err(error) if told => {
                    tracing::debug!(%thin, %error, "this volume's filesystem still can't be stopped")
                }
                Err(error) => {
                    tracing::error!(%thin, %error, "this volume's filesystem could not be stopped")
                }
            }
        }
        if any && let Some(watcher) = self.watcher.get() {
            watcher.volumes_stopped();
        }
    }
}

fn follow(tight: bool, thin: ThinId, active: &mut Active) {
    let changed = match (tight, &active.mount) {
        (true, Some(mount)) => hold_back(active.number, mount, &mut active.full),
        (true, None) => Ok(()),
        (false, _) => let_go(active.number, &mut active.full),
    };
    if let Err(error) = changed {
        tracing::debug!(%thin, %error, "this volume's filesystem can't be kept from growing");
    }
}

/// Has ext4 hold back what it does by itself, if it holds back so much that we must have told it to. Whether it did.
fn forget_held_back(device: DevNum, mount: &OwnedFd) -> std::io::Result<bool> {
    let path = attribute(device, "reserved_clusters");
    let (held, all) = (read(&path)?, rustix::fs::fstatvfs(mount)?.f_blocks);
    // All may have been fewer: a filesystem grows.
    if held <= MOST_HELD_BACK && held < all {
        return Ok(false);
    }
    fs::write(&path, (all / HELD_BACK_PART).min(MOST_HELD_BACK).to_string())?;
    Ok(true)
}

fn hold_back(device: DevNum, mount: &OwnedFd, marks: &mut Marks) -> std::io::Result<()> {
    if marks.held_back.is_some() {
        return Ok(());
    }
    let path = attribute(device, "reserved_clusters");
    let before = read(&path)?;
    // The kernel takes no number above that of all blocks; this one is without the filesystem's own.
    let all = rustix::fs::fstatvfs(mount)?.f_blocks;
    fs::write(&path, all.to_string())?;
    marks.held_back = Some(before);
    Ok(())
}

fn let_go(device: DevNum, marks: &mut Marks) -> std::io::Result<()> {
    match marks.held_back.take() {
        Some(before) => fs::write(attribute(device, "reserved_clusters"), before.to_string()),
        None => Ok(()),
    }
}

/// ext4's own directory of a mounted device.
fn attribute(device: DevNum, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/ext4/dm-{}/{name}", device.minor))
}

fn read(path: &PathBuf) -> std::io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(std::io::Error::other)
}
