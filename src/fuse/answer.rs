//! Results, encoded as the answers of the protocol.

use rustix::io::Errno;

use super::convert::{attr_out, entry_out, ttl};
use super::proto::Reply;
use super::proto::wire::{EntryOut, GetxattrOut, StatfsOut, WriteOut};
use crate::fs::types::{Entry, Found, Known, Space};

pub fn entry(reply: Reply, entry: Result<Entry, Errno>) {
    match entry {
        Ok(entry) => reply.send(&entry_out(&entry)),
        Err(errno) => reply.error(errno),
    }
}

pub fn lookup(reply: Reply, found: Result<Found, Errno>) {
    match found {
        Ok(Found::Entry(found)) => reply.send(&entry_out(&found)),
        Ok(Found::Absent(time)) if time.is_zero() => reply.error(Errno::NOENT),
        Ok(Found::Absent(time)) => {
            // Node 0 is how the protocol says that a name is absent, and for how long.
            let (entry_valid, entry_valid_nsec) = ttl(time);
            reply.send(&EntryOut { entry_valid, entry_valid_nsec, ..EntryOut::default() });
        }
        Err(errno) => reply.error(errno),
    }
}

pub fn attr(reply: Reply, known: Result<Known, Errno>) {
    match known {
        Ok(known) => reply.send(&attr_out(&known)),
        Err(errno) => reply.error(errno),
    }
}

pub fn empty(reply: Reply, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub fn written(reply: Reply, written: Result<usize, Errno>) {
    match written {
        Ok(written) => reply.send(&WriteOut { size: written as u32, padding: 0 }),
        Err(errno) => reply.error(errno),
    }
}

/// A caller that asks with no room wants to know how much it needs.
pub fn xattr(reply: Reply, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => {
            reply.send(&GetxattrOut { size: value.len() as u32, padding: 0 });
        }
        Ok(value) if value.len() > size as usize => reply.error(Errno::RANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

pub fn space(reply: Reply, space: Result<Space, Errno>) {
    match space {
        Ok(space) => reply.send(&StatfsOut {
            blocks: space.blocks,
            bfree: space.free,
            bavail: space.available,
            files: space.files,
            ffree: space.files_free,
            bsize: space.block_size,
            namelen: 255,
            frsize: space.block_size,
            ..StatfsOut::default()
        }),
        Err(errno) => reply.error(errno),
    }
}
