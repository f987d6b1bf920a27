//! Writing back while a layer is unpacked: its commit has to have everything on stable storage, and
//! finds most of it there already.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::fs::syncfs;
use rustix::io::Result;

/// How much is unpacked between two flushes: enough that what they cost by themselves is little.
const PIECE: u64 = 64 << 20;
/// How often the flusher looks how far the work is.
const LOOK: Duration = Duration::from_millis(20);

/// Flushes the filesystem of `root` beside `work`, for every so many bytes that `done` counts. A
/// failed flush is told once by the kernel, so it must not be lost.
pub(super) fn flushing<T>(
    root: BorrowedFd<'_>,
    done: &AtomicU64,
    work: impl FnOnce() -> T,
) -> Result<T> {
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let flusher = scope.spawn(|| flush(root, done, &finished));
        let end = End { finished: &finished, flusher: flusher.thread().clone() };
        let result = work();
        drop(end);
        match flusher.join() {
            Ok(flushed) => flushed.map(|()| result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn flush(root: BorrowedFd<'_>, done: &AtomicU64, finished: &AtomicBool) -> Result<()> {
    let mut flushed = done.load(Ordering::Relaxed);
    while !finished.load(Ordering::Acquire) {
        thread::park_timeout(LOOK);
        let now = done.load(Ordering::Relaxed);
        // The last piece is the commit's own.
        if now.saturating_sub(flushed) >= PIECE && !finished.load(Ordering::Acquire) {
            syncfs(root)?;
            flushed = now;
        }
    }
    Ok(())
}

/// Ends the flusher, also when the work panics.
struct End<'a> {
    finished: &'a AtomicBool,
    flusher: Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Release);
        self.flusher.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_flusher_ends_with_the_work_and_its_failure_is_told() {
        let dir = std::fs::File::open("/tmp").unwrap();
        let done = AtomicU64::new(0);
        assert_eq!(flushing(dir.as_fd(), &done, || 7), Ok(7));
        // An O_PATH descriptor can't be flushed.
        let flags = rustix::fs::OFlags::PATH;
        let path = rustix::fs::open("/tmp", flags, rustix::fs::Mode::empty()).unwrap();
        let never = AtomicBool::new(false);
        thread::scope(|scope| {
            let flusher = scope.spawn(|| flush(path.as_fd(), &done, &never));
            while !flusher.is_finished() {
                done.fetch_add(PIECE, Ordering::Relaxed);
                thread::yield_now();
            }
            assert_eq!(flusher.join().unwrap(), Err(rustix::io::Errno::BADF));
        });
    }
}
