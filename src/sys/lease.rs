//! Leases, as a question: does anybody write to this file?
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// `F_SETSIG` of `asm-generic/fcntl.h`, which libc lacks.
const F_SETSIG: libc::c_int = 10;

/// Whether somebody has the file open for writing, mappings that outlive their descriptor included. `path` leads to a
/// regular file; the caller owns it or has `CAP_LEASE`.
///
/// The kernel gives a read lease only while nobody does. For the moment that we have it, who opens the file for writing
/// waits, or gets `EWOULDBLOCK` if he opens with `O_NONBLOCK`.
pub fn is_written(path: &str) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    // Who is to wait has us sent a signal: SIGIO, which would end the process, if it isn't another one.
    set(&file, F_SETSIG, libc::SIGURG)?;
    match set(&file, libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) {
        Err(Errno::AGAIN) => Ok(true),
        // It ends with the descriptor.
        leased => leased.map(|()| false),
    }
}

fn set(file: impl AsFd, command: libc::c_int, value: libc::c_int) -> Result<()> {
    // SAFETY: the descriptor is borrowed, and the commands take a number.
    // JUSTIFICATION: neither rustix nor nix wraps these commands.
    let done = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, value) };
    if done < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_is_written_while_somebody_has_it_open_for_writing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        assert_eq!(is_written(&path), Ok(true));
        let (file, kept) = file.into_parts();
        drop(file);
        let reader = File::open(&path).unwrap();
        assert_eq!(is_written(&path), Ok(false));
        // The lease has gone with the question.
        File::options().write(true).open(&path).unwrap();
        drop((reader, kept));
    }
}
