//! Results, encoded as the answers of the protocol.

use std::time::{Duration, SystemTime};

use fuser::{Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, ReplyXattr};
use rustix::io::Errno;

use super::convert::{errno, file_attr};
use crate::fs::types::{Attr, Entry, Found, Known, Line, NodeId, Space};

pub fn entry(reply: ReplyEntry, entry: Result<Entry, Errno>) {
    match entry {
        Ok(entry) => {
            let attr = file_attr(&entry.known.attr);
            reply.entry_with_ttls(
                &entry.known.ttl,
                &entry.ttl,
                &attr,
                Generation(entry.generation.into()),
            );
        }
        Err(error) => reply.error(errno(error)),
    }
}

pub fn lookup(reply: ReplyEntry, found: Result<Found, Errno>) {
    match found {
        Ok(Found::Entry(found)) => entry(reply, Ok(found)),
        Ok(Found::Absent(ttl)) if ttl.is_zero() => reply.error(fuser::Errno::ENOENT),
        Ok(Found::Absent(ttl)) => reply.entry(&ttl, &absent(), Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

/// Node 0 is how the protocol says that a name is absent, and for how long.
fn absent() -> fuser::FileAttr {
    let epoch = SystemTime::UNIX_EPOCH.into();
    file_attr(&Attr::of_directory(NodeId(0), 0, epoch))
}

pub fn attr(reply: ReplyAttr, known: Result<Known, Errno>) {
    match known {
        Ok(known) => reply.attr(&known.ttl, &file_attr(&known.attr)),
        Err(error) => reply.error(errno(error)),
    }
}

pub fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub fn written(reply: ReplyWrite, written: Result<usize, Errno>) {
    match written {
        Ok(written) => reply.written(written as u32),
        Err(error) => reply.error(errno(error)),
    }
}

/// A caller that asks with no room wants to know how much it needs.
pub fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

pub fn space(reply: ReplyStatfs, space: Result<Space, Errno>) {
    match space {
        Ok(s) => reply.statfs(
            s.blocks,
            s.free,
            s.available,
            s.files,
            s.files_free,
            s.block_size,
            255,
            s.block_size,
        ),
        Err(error) => reply.error(errno(error)),
    }
}

/// A line of a listing with attributes. One time holds for name and attributes.
pub fn line_entry(line: &Line<'_>) -> (fuser::FileAttr, Generation, Duration) {
    match &line.entry {
        Some(entry) => (
            file_attr(&entry.known.attr),
            Generation(entry.generation.into()),
            entry.ttl.min(entry.known.ttl),
        ),
        None => {
            let mut attr = Attr::of_directory(line.node, 0o755, SystemTime::UNIX_EPOCH.into());
            attr.mode = line.file_type.as_raw_mode();
            (file_attr(&attr), Generation(0), Duration::ZERO)
        }
    }
}
