//! Disk usage of a tree.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, Stat, fstat};

use super::descent::Descent;
use super::open::{self, Lister};
use super::{Doing, Result, check, if_there};
use crate::types::Usage;

/// `st_blocks` counts these, whatever the filesystem's block size.
const BLOCK: u64 = 512;

/// Allocated bytes and inodes of a tree, its root included; a file with several names counts once.
/// The tree may change meanwhile: what vanishes under way isn't counted.
pub fn usage(root: BorrowedFd<'_>, cancel: &AtomicBool) -> Result<Usage> {
    let mut walk =
        Walk { at: Descent::new(root)?, lister: Lister::new(), count: Count::default(), cancel };
    let stat = fstat(root).doing("reading attributes of", std::path::PathBuf::new)?;
    walk.count.add(&stat);
    let mut stack = vec![walk.count_entries()?];
    while let Some(subdirectories) = stack.last_mut() {
        match subdirectories.pop() {
            Some(name) if walk.at.enter(&name)? => stack.push(walk.count_entries()?),
            Some(_) => {}
            None => {
                stack.pop();
                walk.at.leave()?;
            }
        }
    }
    Ok(walk.count.usage)
}

struct Walk<'a> {
    at: Descent,
    lister: Lister,
    count: Count,
    cancel: &'a AtomicBool,
}

impl Walk<'_> {
    /// Counts the current directory's entries and returns its subdirectories.
    fn count_entries(&mut self) -> Result<Vec<CString>> {
        let Self { at, lister, count, cancel } = self;
        let mut subdirectories = Vec::new();
        lister
            .each(at.dir(), |name| {
                check(cancel)?;
                let stat = if_there(open::stat(at.dir(), name))
                    .doing("reading attributes of", || at.path_of(name))?;
                if let Some(stat) = stat {
                    count.add(&stat);
                    if open::kind(&stat) == FileType::Directory {
                        subdirectories.push(name.to_owned());
                    }
                }
                Ok(())
            })
            .doing("reading directory", || at.path().to_owned())??;
        Ok(subdirectories)
    }
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Device and inode of what has been counted and has more names.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let linked = stat.st_nlink > 1 && open::kind(stat) != FileType::Directory;
        if linked && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
    }
}
