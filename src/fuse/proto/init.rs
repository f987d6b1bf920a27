//! What is agreed on with the kernel when a mount begins.

use std::io;

use super::flags::init;
use super::flags::opcode;
use super::request::Request;
use super::wire::{InitIn, InitOut};
use super::{Device, Reply};
use std::sync::Arc;

/// The protocol that this module speaks. Newer kernels speak it too.
const VERSION: (u32, u32) = (7, 45);
/// The oldest that has what thinfs cannot do without (Linux 5.11: `HANDLE_KILLPRIV_V2`).
const OLDEST: (u32, u32) = (7, 33);
/// Longest read or write in one request, in bytes.
pub const MAX_WRITE: u32 = 1 << 20;
/// Room for any request: the longest write behind its header.
pub const BUFFER: usize = MAX_WRITE as usize + (8 << 10);
/// Requests that nobody waits for (read-ahead) which may be under way at a time.
const MAX_BACKGROUND: u16 = 64;
/// The unit of pages in the protocol.
const PAGE: u32 = 4096;

/// Asked for where the kernel offers it.
///
/// Left out on purpose: `WRITEBACK_CACHE` (excludes passthrough), `READDIRPLUS_AUTO` (always is better here),
/// `AUTO_INVAL_DATA` (only we change files), `POSIX_LOCKS` and `FLOCK_LOCKS` (locks stay in the kernel),
/// `CREATE_SUPP_GROUP` (we keep our rights when creating, and whether a set-group-id bit stays the kernel
/// has decided, knowing all groups).
const WANTED: &[(&str, u64)] = &[
    ("ALLOW_IDMAP", init::ALLOW_IDMAP),
    ("ASYNC_READ", init::ASYNC_READ),
    ("ASYNC_DIO", init::ASYNC_DIO),
    ("ATOMIC_O_TRUNC", init::ATOMIC_O_TRUNC),
    ("BIG_WRITES", init::BIG_WRITES),
    ("CACHE_SYMLINKS", init::CACHE_SYMLINKS),
    ("DIRECT_IO_ALLOW_MMAP", init::DIRECT_IO_ALLOW_MMAP),
    ("DONT_MASK", init::DONT_MASK),
    ("DO_READDIRPLUS", init::DO_READDIRPLUS),
    ("EXPLICIT_INVAL_DATA", init::EXPLICIT_INVAL_DATA),
    ("EXPORT_SUPPORT", init::EXPORT_SUPPORT),
    ("HANDLE_KILLPRIV_V2", init::HANDLE_KILLPRIV_V2),
    ("INIT_EXT", init::INIT_EXT),
    ("MAX_PAGES", init::MAX_PAGES),
    ("PARALLEL_DIROPS", init::PARALLEL_DIROPS),
    ("POSIX_ACL", init::POSIX_ACL),
    ("SETXATTR_EXT", init::SETXATTR_EXT),
];

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The features taken.
    pub flags: u64,
}

impl Agreed {
    /// Whether `SETXATTR` comes with flags of its own.
    pub fn setxattr_flags(self) -> bool {
        self.flags & init::SETXATTR_EXT != 0
    }

    /// Whether the kernel takes backing files.
    pub fn passthrough(self) -> bool {
        self.flags & init::PASSTHROUGH != 0
    }
}

/// Waits for the kernel's first request and answers it. `passthrough`: whether to take that if it is offered.
pub fn agree(device: &Arc<Device>, passthrough: bool) -> io::Result<Agreed> {
    let mut buffer = vec![0; BUFFER];
    let bytes =
        device.receive(&mut buffer)?.ok_or_else(|| failed("unmounted before it was served"))?;
    let mut request = Request::parse(bytes).ok_or_else(|| failed("garbled first request"))?;
    if request.header.opcode != opcode::INIT {
        return Err(failed("the first request is not INIT"));
    }
    let reply = Reply::new(Arc::clone(device), request.header.unique);
    let asked: InitIn = request.take()?;
    if (asked.major, asked.minor) < OLDEST || asked.major != VERSION.0 {
        return Err(failed(&format!(
            "the kernel speaks FUSE {}.{}, thinfs needs 7.{} (Linux 5.11) or newer",
            asked.major, asked.minor, OLDEST.1
        )));
    }
    let upper: u32 = if request.is_at_end() { 0 } else { request.take()? };
    let offered = u64::from(asked.flags)
        | if u64::from(asked.flags) & init::INIT_EXT != 0 { u64::from(upper) << 32 } else { 0 };
    let agreed = Agreed { flags: choose(offered, passthrough) };
    reply.send(&answer(&asked, agreed));
    tracing::info!(passthrough = agreed.passthrough(), "FUSE 7.{}", asked.minor.min(VERSION.1));
    Ok(agreed)
}

fn choose(offered: u64, passthrough: bool) -> u64 {
    let mut taken = 0;
    for (name, flag) in WANTED {
        if offered & flag == 0 {
            tracing::info!(name, "the kernel doesn't offer this");
        }
        taken |= offered & flag;
    }
    if passthrough { taken | offered & init::PASSTHROUGH } else { taken }
}

fn answer(asked: &InitIn, agreed: Agreed) -> InitOut {
    InitOut {
        major: VERSION.0,
        minor: VERSION.1.min(asked.minor),
        max_readahead: asked.max_readahead,
        flags: agreed.flags as u32,
        flags2: (agreed.flags >> 32) as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: (MAX_WRITE / PAGE) as u16,
        // One level below us, so that an overlayfs may still stand on top.
        max_stack_depth: u32::from(agreed.passthrough()),
        ..InitOut::default()
    }
}

fn failed(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_taken() {
        assert_eq!(choose(0, true), 0);
        assert_eq!(choose(init::POSIX_ACL | 1 << 9, true), init::POSIX_ACL);
        assert_eq!(choose(init::PASSTHROUGH, true), init::PASSTHROUGH);
        assert_eq!(choose(init::PASSTHROUGH, false), 0);
    }

    #[test]
    fn features_of_the_upper_half_travel_in_their_own_field() {
        let asked = InitIn { major: 7, minor: 40, ..InitIn::default() };
        let agreed = Agreed { flags: init::PASSTHROUGH | init::ASYNC_READ };
        let answer = answer(&asked, agreed);
        assert_eq!((answer.flags, answer.flags2, answer.minor), (1, 1 << 5, 40));
        assert_eq!(answer.max_stack_depth, 1);
    }
}
