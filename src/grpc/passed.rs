//! Files that a client has open, for the daemon to read and write itself: a layer of gigabytes
//! needs no copy through messages.
//!
//! A request names a descriptor of the process at the other end of the socket; who that is, the
//! kernel says (`SO_PEERCRED`), not the request. Needs `CAP_SYS_PTRACE`, which root has unless it
//! was taken away.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::fstat;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};

use super::proto::thinfs::layers::v1::Descriptor;
use crate::sys::poll::readable;

/// Bytes that a pipe is asked to hold: what an unprivileged process may have by default.
const PIPE: i32 = 1 << 20;
/// How often a reader that waits looks whether anybody still wants the result.
const LOOK: Duration = Duration::from_millis(200);

/// The process that sent a request.
pub(super) fn sender<T>(request: &Request<T>) -> Option<Pid> {
    let info = request.extensions().get::<UdsConnectInfo>()?;
    Pid::from_raw(info.peer_cred?.pid()?)
}

/// The file behind a descriptor of that process.
pub(super) fn take(sender: Option<Pid>, descriptor: Option<Descriptor>) -> Result<OwnedFd, Status> {
    let descriptor =
        descriptor.ok_or_else(|| Status::invalid_argument("the request names no descriptor"))?;
    let sender = sender.ok_or_else(|| {
        Status::failed_precondition(
            "the daemon cannot see the process that asks: run both in one pid namespace",
        )
    })?;
    let failed = |errno: rustix::io::Errno| {
        let error = io::Error::from(errno);
        Status::failed_precondition(format!(
            "cannot take over descriptor {} of process {sender:?}: {error} \
             (the daemon needs CAP_SYS_PTRACE)",
            descriptor.fd
        ))
    };
    let process = pidfd_open(sender, PidfdFlags::empty()).map_err(failed)?;
    let fd = pidfd_getfd(process, descriptor.fd, PidfdGetfdFlags::empty()).map_err(failed)?;
    let stat = fstat(&fd).map_err(failed)?;
    if (stat.st_dev, stat.st_ino) != (descriptor.device, descriptor.inode) {
        return Err(Status::failed_precondition("the descriptor is not the announced one"));
    }
    // A pipe that holds more wakes both sides less often. One that can't, or a file, serves as well.
    let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok(fd)
}

/// Says which of our own descriptors a request names; the client's side.
pub fn descriptor(fd: &impl AsFd) -> io::Result<Descriptor> {
    use std::os::fd::AsRawFd as _;
    let stat = fstat(fd)?;
    Ok(Descriptor { fd: fd.as_fd().as_raw_fd(), device: stat.st_dev, inode: stat.st_ino })
}

/// Reads, but doesn't wait for a silent pipe once nobody wants the result.
pub(super) struct Patient<'a> {
    pub(super) file: File,
    pub(super) cancel: &'a AtomicBool,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("nobody waits for the result any more"));
            }
            if readable([self.file.as_fd()], LOOK)? == [true] {
                match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        }
    }
}
