//! Waiting for descriptors.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits until one of them can be read, at most this long. Says which can; none after a signal, too.
pub fn readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    patience: Duration,
) -> io::Result<[bool; N]> {
    let mut asked =
        descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the array has N elements and outlives the call; the descriptors are borrowed.
    // JUSTIFICATION: rustix and nix wrap poll only in features that nothing else here needs.
    let found = unsafe { libc::poll(asked.as_mut_ptr(), N as libc::nfds_t, millis) };
    if found < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok([false; N]),
            _ => Err(error),
        };
    }
    Ok(asked.map(|fd| fd.revents != 0))
}

/// Whether what the descriptor leads to has failed for good, as a FUSE connection has that was aborted.
pub fn has_failed(descriptor: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd { fd: descriptor.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: it is one element and outlives the call; the descriptor is borrowed.
    // JUSTIFICATION: rustix and nix wrap poll only in features that nothing else here needs.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found > 0 && asked.revents & libc::POLLERR != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_can_be_read_is_reported() {
        let (silent, _kept) = io::pipe().unwrap();
        let (ready, mut writer) = io::pipe().unwrap();
        let look = || readable([silent.as_fd(), ready.as_fd()], Duration::from_millis(1)).unwrap();
        assert_eq!(look(), [false, false]);
        writer.write_all(b"x").unwrap();
        assert_eq!(look(), [false, true]);
        assert!(!has_failed(writer.as_fd()));
        drop(ready);
        assert!(has_failed(writer.as_fd()), "nobody reads the pipe any more");
    }
}
