//! Gives entries their owner, extended attributes, mode and times.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, RawMode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, flistxattr, fremovexattr, fsetxattr, fstat, futimens, lsetxattr,
    statat, utimensat,
};
use rustix::io::Errno;

use super::place::{IMPLIED_MODE, Place};
use crate::layer::error::{Doing, Error, Result, text};
use crate::layer::tar::{Entry, Time};

/// Permissions, set-id and sticky bits.
const ALL_BITS: RawMode = 0o7777;

/// Owner and group as the kernel knows them.
type Owner = (Option<Uid>, Option<Gid>);

/// What became of an entry's extended attributes.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    /// How many were left out.
    pub ignored: u64,
    /// Names of those that were set, each with a NUL behind it. The kernel takes none that is longer
    /// than 255 bytes.
    pub set: Vec<u8>,
}

/// The entry's owner. All ones would mean "leave as it is" to the kernel.
fn owner(entry: &Entry) -> Result<(Uid, Gid)> {
    let id = |id: i64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => {
            Err(Error::Refused { path: text(&entry.path), what: "owner or group is out of range" })
        }
    }
}

fn some((uid, gid): (Uid, Gid)) -> Owner {
    (Some(uid), Some(gid))
}

/// Access and modification time. Times before 1970 or that don't fit nanoseconds in 64 bits (year
/// 2262) become 1970, and no access time is before the modification time, as containerd has it.
pub(super) fn times(entry: &Entry) -> (Time, Time) {
    let latest =
        Time { seconds: i64::MAX / 1_000_000_000, nanoseconds: (i64::MAX % 1_000_000_000) as u32 };
    let bound =
        |time: Time| if (Time::EPOCH..=latest).contains(&time) { time } else { Time::EPOCH };
    (bound(entry.atime.map_or(entry.mtime, |atime| atime.max(entry.mtime))), bound(entry.mtime))
}

fn timestamps((atime, mtime): (Time, Time)) -> Timestamps {
    let timespec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}

/// The mode to make a file or directory with. Nobody but us may look into it before it has its
/// owner and mode; most are root's, and have both from the start.
pub(super) fn first_mode(entry: &Entry, place: &Place, unfinished: RawMode) -> Mode {
    let is_roots = (entry.uid, entry.gid) == (0, 0) && place.dir.for_root;
    Mode::from_raw_mode(if is_roots { entry.mode & 0o777 } else { unfinished })
}

/// Sets everything but the times of an open file or directory, in this order: a change of owner
/// clears capabilities and set-id bits. What is right already isn't set, for each call costs as much
/// as writing a small file.
pub(super) fn set_open(file: BorrowedFd<'_>, entry: &Entry, place: &Place) -> Result<Xattrs> {
    let wanted = owner(entry)?;
    let stat = fstat(file).doing("reading attributes of", &place.path)?;
    let is_right = wanted == owner_of(&stat);
    if !is_right {
        let (uid, gid) = some(wanted);
        fchown(file, uid, gid).doing("changing the owner of", &place.path)?;
    }
    let xattrs = set_xattrs(entry, place, true, |name, value| {
        fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    // An access control list among the attributes changes the mode, too.
    if !is_right || !entry.xattrs.is_empty() || stat.st_mode & ALL_BITS != entry.mode & ALL_BITS {
        fchmod(file, Mode::from_raw_mode(entry.mode)).doing("changing the mode of", &place.path)?;
    }
    Ok(xattrs)
}

fn owner_of(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Sets the times of an open file.
pub(super) fn set_open_times(file: BorrowedFd<'_>, entry: &Entry, place: &Place) -> Result<()> {
    futimens(file, &timestamps(times(entry))).doing("setting the times of", &place.path)
}

/// Sets the times of what is in a place.
pub(super) fn set_times(place: &Place, times: (Time, Time)) -> Result<()> {
    utimensat(place.at(), &place.name, &timestamps(times), AtFlags::SYMLINK_NOFOLLOW)
        .doing("setting the times of", &place.path)
}

/// Sets everything of an entry that can't be opened, or needn't be: links and special files.
/// Returns how many extended attributes were left out.
pub(super) fn set_closed(entry: &Entry, place: &Place) -> Result<u64> {
    let stat = statat(place.at(), &place.name, AtFlags::SYMLINK_NOFOLLOW)
        .doing("reading attributes of", &place.path)?;
    set_closed_owner(entry, place, &stat)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let has_user_xattrs = kind == FileType::RegularFile;
    let path = proc_path(place);
    let xattrs = set_xattrs(entry, place, has_user_xattrs, |name, value| {
        lsetxattr(&*path, name, value, XattrFlags::empty())
    })?;
    if kind != FileType::Symlink {
        // `fchmodat` would follow a symlink, which this isn't; only we change the tree.
        chmodat(place.at(), &place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .doing("changing the mode of", &place.path)?;
    }
    set_times(place, times(entry))?;
    Ok(xattrs.ignored)
}

/// A hard link's target usually has the owner already; setting it again would clear its
/// capabilities, which archives give only once.
fn set_closed_owner(entry: &Entry, place: &Place, stat: &Stat) -> Result<()> {
    let wanted = owner(entry)?;
    if wanted == owner_of(stat) {
        return Ok(());
    }
    let (uid, gid) = some(wanted);
    chownat(place.at(), &place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .doing("changing the owner of", &place.path)
}

/// The calls for extended attributes take no directory descriptor before Linux 6.13. The magic link
/// leads to that very directory, and the last component isn't followed.
fn proc_path(place: &Place) -> CString {
    let mut path = format!("/proc/self/fd/{}/", place.at().as_raw_fd()).into_bytes();
    path.extend_from_slice(place.name.as_bytes());
    CString::new(path).expect("a C string holds no NUL")
}

/// Left out are, as in containerd: the host administrator's (`trusted.`), those that the filesystem
/// doesn't support, and `user.` where no file but a regular one or a directory may have them.
fn set_xattrs(
    entry: &Entry,
    place: &Place,
    has_user_xattrs: bool,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<Xattrs> {
    let mut xattrs = Xattrs::default();
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"trusted.") {
            xattrs.ignored += 1;
            continue;
        }
        match set(name, value) {
            Err(Errno::OPNOTSUPP) => xattrs.ignored += 1,
            Err(Errno::PERM) if name.starts_with(b"user.") && !has_user_xattrs => {
                xattrs.ignored += 1;
            }
            result => {
                result.doing("setting extended attributes of", &place.path)?;
                xattrs.set.extend_from_slice(name);
                xattrs.set.push(0);
            }
        }
    }
    Ok(xattrs)
}

/// Makes an existing directory look as if it had just been made for being on the way to an entry.
pub(super) fn reset_implied(dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    fchown(dir, Some(Uid::ROOT), Some(Gid::ROOT)).doing("changing the owner of", path)?;
    keep_xattrs(dir, &[], path)?;
    fchmod(dir, Mode::from_raw_mode(IMPLIED_MODE)).doing("changing the mode of", path)
}

/// Removes all extended attributes but these (a NUL behind each), and the label, which is the host's
/// policy and not the layer's.
pub(super) fn keep_xattrs(dir: BorrowedFd<'_>, keep: &[u8], path: &[u8]) -> Result<()> {
    let keep: HashSet<&[u8]> = keep.split(|&byte| byte == 0).collect();
    let remove = || {
        let mut names = vec![0; 64 << 10];
        let length = match flistxattr(dir, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            length => length?,
        };
        for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let kept = name == b"security.selinux" || keep.contains(name);
            if !kept {
                fremovexattr(dir, name)?;
            }
        }
        Ok(())
    };
    remove().doing("removing extended attributes of", path)
}
