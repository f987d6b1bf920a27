//! Removes a tree, whatever its modes and flags.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, FileType, IFlags, ioctl_getflags, ioctl_setflags, unlinkat};
use rustix::io::Errno;

use super::descent::Descent;
use super::open::{self, Lister};
use super::{Doing, Result, check, if_there};

/// Removes the entry `name` of `parent` with everything below it. Immutable and append-only flags
/// are cleared on the way. Gone already is success; after an error, a crash or a cancellation the
/// rest can be removed by the same call.
pub fn remove(parent: BorrowedFd<'_>, name: &CStr, cancel: &AtomicBool) -> Result<()> {
    let mut walk = Walk { at: Descent::new(parent)?, lister: Lister::new(), cancel };
    if !walk.unlink_or_enter(name)? {
        return Ok(());
    }
    let mut stack = vec![walk.unlink_entries()?];
    while let Some(subdirectories) = stack.last_mut() {
        if let Some(name) = subdirectories.pop() {
            if walk.unlink_or_enter(&name)? {
                stack.push(walk.unlink_entries()?);
            }
            continue;
        }
        let Some(left) = walk.at.leave()? else { break };
        stack.pop();
        // Somebody made a file in it meanwhile: back in.
        if !walk.remove_directory(&left)? && walk.at.enter(&left)? {
            stack.push(walk.unlink_entries()?);
        }
    }
    Ok(())
}

struct Walk<'a> {
    at: Descent,
    lister: Lister,
    cancel: &'a AtomicBool,
}

impl Walk<'_> {
    /// Removes what isn't a directory; enters what is one (true).
    fn unlink_or_enter(&mut self, name: &CStr) -> Result<bool> {
        let stat = if_there(open::stat(self.at.dir(), name))
            .doing("reading attributes of", || self.at.path_of(name))?;
        match stat.as_ref().map(open::kind) {
            None => Ok(false),
            Some(FileType::Directory) => self.at.enter(name),
            Some(_) => unlink(&self.at, name).map(|()| false),
        }
    }

    /// Removes all but the subdirectories of the current directory, and lists those.
    fn unlink_entries(&mut self) -> Result<Vec<CString>> {
        let Self { at, lister, cancel } = self;
        let mut subdirectories = Vec::new();
        lister
            .each(at.dir(), |name| {
                check(cancel)?;
                match unlinkat(at.dir(), name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(Errno::ISDIR) => {
                        subdirectories.push(name.to_owned());
                        Ok(())
                    }
                    Err(_) => {
                        if is_directory(at, name)? {
                            subdirectories.push(name.to_owned());
                            return Ok(());
                        }
                        unlink(at, name)
                    }
                }
            })
            .doing("reading directory", || at.path().to_owned())??;
        Ok(subdirectories)
    }

    /// False: it isn't empty.
    fn remove_directory(&self, name: &CStr) -> Result<bool> {
        let remove = || match unlinkat(self.at.dir(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        };
        match remove() {
            Err(Errno::PERM) => {
                let dir = open::directory(self.at.dir(), name);
                thaw(&self.at, dir).and_then(|()| remove())
            }
            removed => removed,
        }
        .doing("removing directory", || self.at.path_of(name))
    }
}

fn is_directory(at: &Descent, name: &CStr) -> Result<bool> {
    let stat =
        if_there(open::stat(at.dir(), name)).doing("reading attributes of", || at.path_of(name))?;
    Ok(stat.is_some_and(|stat| open::kind(&stat) == FileType::Directory))
}

/// Removes what isn't a directory.
fn unlink(at: &Descent, name: &CStr) -> Result<()> {
    let unlink = || if_there(unlinkat(at.dir(), name, AtFlags::empty())).map(drop);
    match unlink() {
        // The file or its directory is immutable or append-only.
        Err(Errno::PERM) => thaw(at, open::regular(at.dir(), name)).and_then(|()| unlink()),
        unlinked => unlinked,
    }
    .doing("removing", || at.path_of(name))
}

/// Clears the flags that keep the current directory, and the entry opened from it, from changing.
/// What can't be opened (a symlink, a special file) has no such flags.
fn thaw(at: &Descent, entry: rustix::io::Result<OwnedFd>) -> rustix::io::Result<()> {
    clear_flags(at.dir())?;
    match entry {
        Ok(entry) => clear_flags(entry.as_fd()),
        Err(_) => Ok(()),
    }
}

fn clear_flags(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = match ioctl_getflags(file) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => return Ok(()),
        flags => flags?,
    };
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    if flags.intersects(frozen) { ioctl_setflags(file, flags - frozen) } else { Ok(()) }
}
