//! Requests that are sent a second time, because whoever got them first died before it answered.
//!
//! Whether it did them before it died nobody knows. Reading, and writing at a place, can be done again. A name
//! is made only where the kernel knows that there is none, and holds the directory locked until it has the
//! answer; so a name that is there has been made by the first. Likewise for a name to be taken away that isn't
//! there.

use std::ffi::OsStr;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use crate::fs::types::{Caller, Entry, Found, NodeId, Rename};
use crate::fs::{Asked, Error, Fs, Opened, Result};

/// A name that was to be made.
pub fn made(
    fs: &Fs,
    caller: &Caller,
    parent: NodeId,
    name: &OsStr,
    done: Result<Entry>,
) -> Result<Entry> {
    match done {
        Err(Error::Os(Errno::EXIST)) => found(fs, caller, parent, name)?.ok_or(Errno::EXIST.into()),
        done => done,
    }
}

/// A file that was to be made and opened.
pub fn created(
    fs: &Fs,
    caller: &Caller,
    parent: NodeId,
    name: &OsStr,
    asked: Asked,
    done: Result<(Entry, Opened)>,
) -> Result<(Entry, Opened)> {
    match done {
        Err(Error::Os(Errno::EXIST | Errno::STALE)) => {
            let entry = found(fs, caller, parent, name)?.ok_or(Errno::STALE)?;
            let asked = Asked(asked.0.difference(OFlags::TRUNC));
            Ok((entry, fs.open(caller, entry.known.attr.node, asked)?))
        }
        done => done,
    }
}

/// A name that was to be taken away.
pub fn removed(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Os(Errno::NOENT)) => Ok(()),
        done => done,
    }
}

/// Whether a rename can be done again. Of one that puts something in the old place it can't be told whether
/// it was done.
pub fn may_rename(rename: &Rename) -> Result<()> {
    let ambiguous = rename.flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT);
    if ambiguous { Err(Errno::IO.into()) } else { Ok(()) }
}

/// A name that was to be moved.
pub fn moved(fs: &Fs, caller: &Caller, rename: &Rename, done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Os(Errno::NOENT)) => {
            let there = found(fs, caller, rename.new_parent, &rename.new_name)?;
            there.map(drop).ok_or(Errno::NOENT.into())
        }
        done => done,
    }
}

/// An attribute that was to be made or taken away.
pub fn changed(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Os(Errno::EXIST | Errno::NODATA)) => Ok(()),
        done => done,
    }
}

fn found(fs: &Fs, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Option<Entry>> {
    match fs.lookup(caller, parent, name)? {
        Found::Entry(entry) => Ok(Some(entry)),
        Found::Absent(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::{ROOT, Rig};

    #[test]
    fn what_was_done_comes_to_the_same_when_it_is_asked_for_again() {
        let rig = Rig::new();
        rig.prepare("k", None);
        let (fs, root) = (&rig.fs, rig.node("active/k"));
        let make = || fs.mkdir(&ROOT, root, "d".as_ref(), 0o755);
        let first = make().unwrap();
        let second = made(fs, &ROOT, root, "d".as_ref(), make()).unwrap();
        assert_eq!(first.known.attr.node, second.known.attr.node);

        let asked = Asked(OFlags::RDWR | OFlags::TRUNC);
        let create = || fs.create(&ROOT, root, "f".as_ref(), 0o600, asked);
        let (first, opened) = create().unwrap();
        opened.file.write(&ROOT, b"x", 0).unwrap();
        let (second, again) = created(fs, &ROOT, root, "f".as_ref(), asked, create()).unwrap();
        assert_eq!(first.known.attr.node, second.known.attr.node);
        assert_ne!(opened.handle, again.handle);
        assert_eq!(again.file.read(&mut [0; 2], 0).unwrap(), 1, "what was written meanwhile stays");

        let rename = |flags| Rename {
            parent: root,
            name: "f".into(),
            new_parent: root,
            new_name: "g".into(),
            flags,
        };
        let plain = rename(RenameFlags::empty());
        fs.rename(&ROOT, &plain).unwrap();
        moved(fs, &ROOT, &plain, fs.rename(&ROOT, &plain)).unwrap();
        assert!(may_rename(&plain).is_ok());
        assert!(may_rename(&rename(RenameFlags::EXCHANGE)).is_err());

        for _ in 0..2 {
            removed(fs.unlink(&ROOT, root, "g".as_ref())).unwrap();
        }
        assert!(moved(fs, &ROOT, &plain, fs.rename(&ROOT, &plain)).is_err(), "it is nowhere");
    }

    #[test]
    fn what_fails_for_another_reason_fails_again() {
        let rig = Rig::new();
        let root = rig.node("active");
        let denied = || Err(Error::Os(Errno::PERM));
        assert!(made(&rig.fs, &ROOT, root, "x".as_ref(), denied()).is_err());
        assert!(removed(Err(Error::Os(Errno::NOTEMPTY))).is_err());
        assert!(changed(Err(Error::Os(Errno::NOSPC))).is_err());
        assert!(changed(Err(Error::Os(Errno::NODATA))).is_ok());
    }
}
