//! Descriptors that whoever started this process has left open for it.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that was handed to this process by number, as `LISTEN_FDS` does. To be called once
/// for each, at the start.
pub fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the service manager passed this number to us, and nothing else in this process uses it.
    // JUSTIFICATION: descriptors inherited over `exec` are known by number only.
    unsafe { OwnedFd::from_raw_fd(number) }
}
