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
