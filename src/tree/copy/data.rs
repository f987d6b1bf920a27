//! The bytes of one file: cloned, else copied extent by extent.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread, pwrite};

use super::super::{Doing, Result};
use super::Method;
use super::workers::{Job, Work};

/// Between two looks at the cancel flag.
const CHUNK: u64 = 8 << 20;
/// For filesystems without `copy_file_range`.
const BUFFER: usize = 256 << 10;

/// Whether the filesystem lets one file share another's blocks; asked with `to`, an empty file, and
/// `from`, which holds at least a block.
pub fn clones(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}

/// Gives the new file the old one's content. `None`: it is empty.
pub(super) fn copy(work: &Work<'_>, job: &Job) -> Result<Option<Method>> {
    work.go_on()?;
    let size = u64::try_from(job.stat.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(None);
    }
    if work.may_clone() {
        let cloned = clones(job.from.as_fd(), job.to.as_fd());
        if cloned.doing("cloning", || job.path())? {
            work.made_bytes(size);
            return Ok(Some(Method::Reflink));
        }
        work.never_clone();
    }
    ftruncate(&job.to, size).doing("setting the size of", || job.path())?;
    copy_extents(work, job, size)?;
    Ok(Some(Method::FullCopy))
}

/// Copies what holds data; the new file is a hole of the right size.
fn copy_extents(work: &Work<'_>, job: &Job, size: u64) -> Result<()> {
    let mut end = 0;
    while end < size {
        let start = match seek(&job.from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return Ok(()),
            start => start.doing("looking for data in", || job.path())?,
        };
        end = seek(&job.from, SeekFrom::Hole(start))
            .doing("looking for holes in", || job.path())?
            .min(size);
        copy_extent(work, job, start, end)?;
    }
    Ok(())
}

fn copy_extent(work: &Work<'_>, job: &Job, mut at: u64, end: u64) -> Result<()> {
    while at < end {
        work.go_on()?;
        let wanted = usize::try_from((end - at).min(CHUNK)).unwrap_or(BUFFER);
        let copied = copy_chunk(job, at, wanted).doing("copying", || job.path())?;
        if copied == 0 {
            // The file has become shorter.
            return Ok(());
        }
        at += copied as u64;
        work.made_bytes(copied as u64);
    }
    Ok(())
}

fn copy_chunk(job: &Job, at: u64, wanted: usize) -> rustix::io::Result<usize> {
    let (mut from, mut to) = (at, at);
    match copy_file_range(&job.from, Some(&mut from), &job.to, Some(&mut to), wanted) {
        // 0 is the end of the file, or a filesystem that can't do it and doesn't say so.
        Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
            copy_through_memory(job, at, wanted)
        }
        copied => copied,
    }
}

fn copy_through_memory(job: &Job, at: u64, wanted: usize) -> rustix::io::Result<usize> {
    let mut buffer = vec![0; wanted.min(BUFFER)];
    let read = pread(&job.from, &mut buffer[..], at)?;
    let mut written = 0;
    while written < read {
        written += pwrite(&job.to, &buffer[written..read], at + written as u64)?;
    }
    Ok(read)
}
