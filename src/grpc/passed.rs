//! Files that a client has open, for the daemon to read and write itself: a layer of gigabytes
//! needs no copy through messages.
//!
//! A request names a descriptor of the process at the other end of the socket; who that is, the
//! kernel says (`SO_PEERCRED`), not the request. Needs `CAP_SYS_PTRACE`, which root has unless it
//! was taken away.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::fstat;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::net::unix::pipe::Sender;
use tokio::runtime::Handle;
use tokio::time::timeout;
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

/// A file of a client's that reads and writes, but doesn't wait once nobody wants the result: neither for a silent
/// pipe, nor for room in one that the client made non-blocking.
pub(super) struct Patient<'a> {
    file: File,
    cancel: &'a AtomicBool,
    /// Who tells when there is room, to whatever thread writes.
    runtime: Handle,
}

impl<'a> Patient<'a> {
    /// To be made on a thread of the runtime's.
    pub(super) fn new(file: File, cancel: &'a AtomicBool) -> Self {
        Self { file, cancel, runtime: Handle::current() }
    }

    fn go_on(&self) -> io::Result<()> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(io::Error::other("nobody waits for the result any more")),
            false => Ok(()),
        }
    }

    /// Waits until the file takes more, or nobody wants the result. Only what can be waited for says that it would
    /// block.
    fn wait_for_room(&self) -> io::Result<()> {
        let _entered = self.runtime.enter();
        // It need not be a pipe: only its readiness is asked for.
        let room = Sender::from_file_unchecked(self.file.try_clone()?)?;
        loop {
            self.go_on()?;
            let waited = self.runtime.block_on(async { timeout(LOOK, room.writable()).await });
            if let Ok(ready) = waited {
                return ready;
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.go_on()?;
            if readable([self.file.as_fd()], LOOK)? == [true] {
                match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_room()?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;
    use std::sync::Arc;
    use std::sync::mpsc;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    /// A pipe that is full, with a writer that would rather fail than wait.
    fn full_pipe() -> (PipeReader, File, usize) {
        let (reader, writer) = io::pipe().unwrap();
        let mut writer = File::from(OwnedFd::from(writer));
        fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
        let mut held = 0;
        while let Ok(written) = writer.write(&[0; 4096]) {
            held += written;
        }
        (reader, writer, held)
    }

    #[tokio::test]
    async fn a_pipe_that_does_not_block_is_waited_for_from_any_thread() {
        let (mut reader, writer, held) = full_pipe();
        let (begun, has_begun) = mpsc::channel();
        let written = tokio::task::spawn_blocking(move || {
            let cancel = AtomicBool::new(false);
            let mut out = Patient::new(writer, &cancel);
            begun.send(()).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| out.write_all(&vec![1; 3 << 20])).join().unwrap()
            })
        });
        let read = tokio::task::spawn_blocking(move || {
            has_begun.recv().unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        written.await.unwrap().unwrap();
        let bytes = read.await.unwrap();
        assert_eq!(bytes.len(), held + (3 << 20));
        assert!(bytes[held..].iter().all(|byte| *byte == 1));
    }

    #[tokio::test]
    async fn whoever_reads_or_writes_stops_when_nobody_wants_the_result_or_nobody_reads() {
        let (full, writer, _) = full_pipe();
        let (silent, _kept) = io::pipe().unwrap();
        let cancel = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&cancel);
        let work = tokio::task::spawn_blocking(move || {
            let written = Patient::new(writer, &cancel).write(&[1]);
            let silent = File::from(OwnedFd::from(silent));
            (written, Patient::new(silent, &cancel).read(&mut [0]))
        });
        set.store(true, Ordering::Relaxed);
        let (written, read) = work.await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Other);

        drop(full);
        let (gone, writer, _) = full_pipe();
        let work = tokio::task::spawn_blocking(move || {
            let never = AtomicBool::new(false);
            Patient::new(writer, &never).write(&[1])
        });
        drop(gone);
        assert_eq!(work.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
