//! Words of the protocol, to and from those of the tree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::fs::types::{Attr, Caller, Moment, NodeId, SetTime};

/// Who sent the request.
pub fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask, may_wait: false }
}

pub fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

pub fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32)
}

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.node.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.file_type()),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.device),
        blksize: 4096,
        flags: 0,
    }
}

pub fn file_type(file_type: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Ours;
    match file_type {
        Ours::RegularFile | Ours::Unknown => FileType::RegularFile,
        Ours::Directory => FileType::Directory,
        Ours::Symlink => FileType::Symlink,
        Ours::Fifo => FileType::NamedPipe,
        Ours::Socket => FileType::Socket,
        Ours::CharacterDevice => FileType::CharDevice,
        Ours::BlockDevice => FileType::BlockDevice,
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

fn system_time(moment: Moment) -> SystemTime {
    let nanoseconds = Duration::from_nanos(moment.nanoseconds.into());
    let seconds = Duration::from_secs(moment.seconds.unsigned_abs());
    let whole = if moment.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

pub fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(received_moment(time)),
    }
}

/// fuser decodes a time before 1970 by subtracting its nanoseconds too, where the protocol adds them.
fn received_moment(time: SystemTime) -> Moment {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if !before.is_zero() => {
            Moment { seconds: -(before.as_secs() as i64), nanoseconds: before.subsec_nanos() }
        }
        Ok(_) | Err(_) => time.into(),
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
    fn moments_before_1970_survive_both_ways() {
        let moment = Moment { seconds: -2, nanoseconds: 800_000_000 };
        assert_eq!(Moment::from(system_time(moment)), moment);
        // What fuser makes of (-2 s, 800,000,000 ns).
        let received = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(received_moment(received), moment);
        let far = Moment { seconds: i64::MIN, nanoseconds: 0 };
        let _ = system_time(far);
    }
}
