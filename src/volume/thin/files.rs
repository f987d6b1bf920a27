//! The two sparse files of a pool that we make by ourselves, and the loop devices on them.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{self, Refusal, refused};
use crate::crashpoint::{Step, around};
use crate::sys::loopdev::{IoMode, LoopDevice};
use crate::sys::mount::block_device;
use crate::thin::dm::DevNum;
use crate::volume::{Error, Result};

/// Sizes are whole MiB.
const MIB: u64 = 1 << 20;
/// Less is not worth a pool.
const MIN_DATA: u64 = 64 * MIB;
/// What metadata gets at least, and at most (the kernel uses no more than 15.9 GiB).
const METADATA_RANGE: (u64, u64) = (32 * MIB, METADATA_MOST);
/// The most that metadata grows to.
pub(super) const METADATA_MOST: u64 = 15 << 30;
/// The part of the metadata's file that has its blocks from the start: a 256th of the data, as a rule.
const TAKEN_PART: u64 = 72;
/// How long a detaching loop device may be open elsewhere (udev looks at new devices).
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// The paths of the pool's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolFiles {
    pub(super) data: PathBuf,
    pub(super) metadata: PathBuf,
}

impl PoolFiles {
    /// Makes what is missing in `dir`. Where the store `knows` a pool, nothing may be missing.
    pub(super) fn prepare(dir: &Path, size: Option<u64>, known: bool) -> Result<Self> {
        let files = Self { data: dir.join("data.img"), metadata: dir.join("metadata.img") };
        for path in [&files.data, &files.metadata] {
            if known && !path.exists() {
                return refused(Refusal::FileGone(path.clone()));
            }
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| error::io(format!("making {}", dir.display()), e))?;
        let present = fs::metadata(&files.data).map(|m| m.len()).unwrap_or(0);
        let data = match size {
            Some(size) => size.max(present) / MIB * MIB,
            None if present > 0 => present,
            None => default_size(dir)?,
        };
        if data < MIN_DATA {
            return Err(Error::NoSpace(format!(
                "{} has room for a pool of {} MiB; the least is {} MiB",
                dir.display(),
                data / MIB,
                MIN_DATA / MIB
            )));
        }
        if size.is_some_and(|size| size < present) {
            tracing::warn!(file = %files.data.display(), "the pool's data file is larger than asked for, and stays so");
        }
        at_least(&files.data, data, Room::Sparse)?;
        at_least(&files.metadata, metadata_size(data), Room::Taken)?;
        sync_directory(dir)?;
        Ok(files)
    }
}

/// Four fifths of what is free: the rest is for the metadata store, and for whatever else lives there.
fn default_size(dir: &Path) -> Result<u64> {
    let fs = rustix::fs::statvfs(dir)
        .map_err(|e| error::io(format!("looking at {}", dir.display()), e.into()))?;
    Ok(fs.f_bavail * fs.f_frsize / 5 * 4 / MIB * MIB)
}

/// Enough for the pool to have nearly all of its data from the start, whatever is written (`room`): each time that it
/// gets more, writers wait a moment. A mapping takes 16 to 32 bytes as a rule, a two-thousandth of its data, so that
/// most of the file stays a hole.
fn metadata_size(data: u64) -> u64 {
    (data / 32 * 9 / MIB * MIB).clamp(METADATA_RANGE.0, METADATA_RANGE.1)
}

/// Whether a file's blocks are there before they are written. The first of the metadata's are: a pool that finds no
/// room for them does nothing at all any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Taken when written.
    Sparse,
    /// The first ones taken at once, where the filesystem can.
    Taken,
}

/// Makes the file, or grows it. It holds everybody's data: nobody but root may read it.
fn at_least(path: &Path, bytes: u64, room: Room) -> Result<()> {
    let attempt = || {
        let file =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let grows = file.metadata()?.len() < bytes;
        if grows {
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        match (room, take_room(&file, room)) {
            // It worked without so far, and what is removed now may make the room.
            (Room::Taken, Err(error)) if !grows => {
                tracing::warn!(file = %path.display(), %error, "no room for all of the pool's metadata");
                Ok(())
            }
            (_, taken) => taken,
        }
    };
    around(Step::PoolFile, attempt)
        .map_err(|e| error::io(format!("making the pool's file {}", path.display()), e))
}

fn take_room(file: &File, room: Room) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if room == Room::Sparse {
        return Ok(());
    }
    let length = file.metadata()?.len();
    let sure = (length / TAKEN_PART).max(METADATA_RANGE.0).min(length);
    match fallocate(file, FallocateFlags::empty(), 0, sure) {
        Ok(()) => Ok(file.sync_all()?),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| error::io(format!("syncing {}", dir.display()), e))
}

/// An attached file that may grow.
#[derive(Debug)]
pub(super) struct GrowingFile {
    path: PathBuf,
    attached: AttachedFile,
    room: Room,
}

impl GrowingFile {
    pub(super) fn new(path: PathBuf, attached: AttachedFile, room: Room) -> Self {
        Self { path, attached, room }
    }

    /// Bytes that the file has.
    pub(super) fn len(&self) -> Result<u64> {
        let context = || format!("looking at {}", self.path.display());
        fs::metadata(&self.path).map(|m| m.len()).map_err(|e| error::io(context(), e))
    }

    /// Makes the file larger, if the filesystem has the room, and the loop device with it.
    pub(super) fn grow_to(&self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.len()?);
        let fs = rustix::fs::statvfs(&self.path)
            .map_err(|e| error::io(format!("looking at {}", self.path.display()), e.into()))?;
        if fs.f_bavail * fs.f_frsize < more {
            return Err(Error::NoSpace(format!(
                "{} cannot grow by {} MiB: its filesystem is full",
                self.path.display(),
                more / MIB
            )));
        }
        at_least(&self.path, bytes, self.room)?;
        self.attached.refresh()
    }
}

/// A file attached to a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttachedFile {
    device: LoopDevice,
    pub(super) number: DevNum,
    pub(super) io: IoMode,
}

impl AttachedFile {
    /// Finds the loop device that `file` is attached to (the one called `wanted`, if it is attached
    /// to several), else attaches it.
    pub(super) fn find_or_attach(file: &Path, wanted: Option<DevNum>) -> Result<Self> {
        let found = LoopDevice::find(file).map_err(|e| {
            error::io(format!("looking for the loop device of {}", file.display()), e)
        })?;
        let mut attached = found.into_iter().map(Self::look).collect::<Result<Vec<_>>>()?;
        attached.sort_by_key(|a| Some(a.number) != wanted);
        if let Some(&found) = attached.first() {
            return Ok(found);
        }
        let device = around(Step::LoopAttach, || LoopDevice::attach(file))
            .map_err(|e| error::io(format!("attaching {} to a loop device", file.display()), e))?;
        let attached = Self::look(device)?;
        if attached.io == IoMode::Buffered {
            tracing::warn!(file = %file.display(), "no direct I/O to this filesystem: the pool's blocks are cached twice");
        }
        Ok(attached)
    }

    fn look(device: LoopDevice) -> Result<Self> {
        let context = || format!("looking at {}", device.path().display());
        let io = device.status().map_err(|e| error::io(context(), e))?.io;
        match block_device(&device.path()).map_err(|e| error::io(context(), e))? {
            Some(number) => Ok(Self { device, number: number.into(), io }),
            None => refused(Refusal::NotADevice(device.path())),
        }
    }

    /// The device's path.
    pub(super) fn path(&self) -> PathBuf {
        self.device.path()
    }

    /// Takes over a file that has grown.
    pub(super) fn refresh(&self) -> Result<()> {
        let context = || format!("refreshing the size of {}", self.path().display());
        around(Step::LoopResize, || self.device.refresh_capacity())
            .map_err(|e| error::io(context(), e))
    }

    /// Lets go of the file.
    pub(super) fn detach(&self) -> Result<()> {
        let context = || format!("detaching {}", self.path().display());
        around(Step::LoopDetach, || self.device.detach(DETACH_PATIENCE))
            .map_err(|e| error::io(context(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_made_once_and_only_ever_grow() {
        let dir = tempfile::tempdir().unwrap();
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        let files = PoolFiles::prepare(dir.path(), Some(100 * MIB), false).unwrap();
        assert_eq!((len(&files.data), len(&files.metadata)), (100 * MIB, 32 * MIB));
        assert_eq!(fs::metadata(&files.data).unwrap().permissions().mode() & 0o777, 0o600);
        for (asked, expected) in [(None, 100), (Some(80), 100), (Some(200), 200), (None, 200)] {
            PoolFiles::prepare(dir.path(), asked.map(|mib| mib * MIB), true).unwrap();
            assert_eq!(len(&files.data), expected * MIB, "{asked:?}");
        }
    }

    #[test]
    fn a_known_pool_whose_file_is_gone_is_refused_and_nothing_is_made() {
        for gone in ["data.img", "metadata.img"] {
            let dir = tempfile::tempdir().unwrap();
            PoolFiles::prepare(dir.path(), Some(100 * MIB), false).unwrap();
            fs::remove_file(dir.path().join(gone)).unwrap();
            let error = PoolFiles::prepare(dir.path(), None, true).unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(gone) && cause.contains("gone"), "{cause}");
            assert!(!dir.path().join(gone).exists());
        }
    }

    #[test]
    fn a_directory_without_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = PoolFiles::prepare(dir.path(), Some(MIB), false).unwrap_err();
        assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    }
}
