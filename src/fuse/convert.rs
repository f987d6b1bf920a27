//! Words of the protocol, to and from those of the tree.

use std::time::Duration;

use rustix::fs::OFlags;

use super::proto::Request;
use super::proto::flags::{STATX_BASIC_STATS, STATX_BTIME};
use super::proto::wire;
use crate::fs::types::{Attr, Caller, Entry, Known, Moment, NodeId, SetTime};

/// Who sent the request.
pub fn caller(request: &Request<'_>, umask: u32) -> Caller {
    let (uid, gid, pid) = (request.header.uid, request.header.gid, request.header.pid);
    Caller { uid, gid, pid, umask, fsetid: None, may_wait: false }
}

/// Who sent a request that says whether set-user-id and set-group-id bits are to go.
pub fn caller_killing(request: &Request<'_>, kills: bool) -> Caller {
    Caller { fsetid: Some(!kills), ..caller(request, 0) }
}

pub fn node(nodeid: u64) -> NodeId {
    NodeId(nodeid)
}

pub fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
}

/// A time to live: seconds, and nanoseconds.
pub fn ttl(time: Duration) -> (u64, u32) {
    (time.as_secs(), time.subsec_nanos())
}

pub fn entry_out(entry: &Entry) -> wire::EntryOut {
    let (entry_valid, entry_valid_nsec) = ttl(entry.ttl);
    let (attr_valid, attr_valid_nsec) = ttl(entry.known.ttl);
    wire::EntryOut {
        nodeid: entry.known.attr.node.0,
        generation: entry.generation.into(),
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr(&entry.known.attr),
    }
}

pub fn attr_out(known: &Known) -> wire::AttrOut {
    let (attr_valid, attr_valid_nsec) = ttl(known.ttl);
    wire::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr(&known.attr) }
}

pub fn statx_out(known: &Known, born: Option<Moment>) -> wire::StatxOut {
    let (attr_valid, attr_valid_nsec) = ttl(known.ttl);
    let attr = &known.attr;
    let stat = wire::Statx {
        mask: STATX_BASIC_STATS | if born.is_some() { STATX_BTIME } else { 0 },
        blksize: 4096,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        ino: attr.node.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: sx_time(attr.atime),
        btime: born.map(sx_time).unwrap_or_default(),
        ctime: sx_time(attr.ctime),
        mtime: sx_time(attr.mtime),
        rdev_major: attr.device.0,
        rdev_minor: attr.device.1,
        ..wire::Statx::default()
    };
    wire::StatxOut { attr_valid, attr_valid_nsec, stat, ..wire::StatxOut::default() }
}

fn sx_time(moment: Moment) -> wire::SxTime {
    wire::SxTime { seconds: moment.seconds, nanoseconds: moment.nanoseconds, reserved: 0 }
}

fn attr(attr: &Attr) -> wire::Attr {
    wire::Attr {
        ino: attr.node.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.seconds,
        mtime: attr.mtime.seconds,
        ctime: attr.ctime.seconds,
        atimensec: attr.atime.nanoseconds,
        mtimensec: attr.mtime.nanoseconds,
        ctimensec: attr.ctime.nanoseconds,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.device),
        blksize: 4096,
        flags: 0,
    }
}

/// The kernel's `new_encode_dev`: 12 bits of major, 20 of minor number.
fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The kernel's `new_decode_dev`.
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

/// What is to become of a time: `now` has precedence over the moment.
pub fn set_time(time: Option<Moment>, now: bool) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(_) if now => SetTime::Now,
        Some(moment) => SetTime::To(moment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_kernels_encoding() {
        for device in [(0, 0), (8, 1), (253, 300), (4095, 0xf_ffff), (1, 256)] {
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn a_time_is_kept_set_or_the_present() {
        let moment = Moment { seconds: -2, nanoseconds: 800_000_000 };
        assert_eq!(set_time(None, true), SetTime::Keep);
        assert_eq!(set_time(Some(moment), true), SetTime::Now);
        assert_eq!(set_time(Some(moment), false), SetTime::To(moment));
    }
}
