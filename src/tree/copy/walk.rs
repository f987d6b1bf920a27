//! The walk of a copy: makes everything but the content of regular files.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rustix::fs::{
    FileType, Mode, OFlags, Stat, fstat, mkdirat, mknodat, openat, readlinkat, symlinkat,
};
use rustix::io::Errno;

use super::super::attributes::{self, File};
use super::super::descent::Descent;
use super::super::open::{self, Lister};
use super::super::{Doing, Error, Result};
use super::links::{Links, Place};
use super::workers::{Job, Work};

/// Both trees, in lockstep.
pub(super) struct Walk<'a> {
    from: Descent,
    to: Descent,
    work: &'a Work<'a>,
    jobs: SyncSender<Job>,
    lister: Lister,
    links: Links,
}

/// A directory whose subdirectories are still to be copied.
struct Pending {
    stat: Stat,
    subdirectories: Vec<CString>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        work: &'a Work<'a>,
        jobs: SyncSender<Job>,
    ) -> Result<Self> {
        attributes::clear_acls(to).doing("clearing the ACLs of", || "".into())?;
        let (from, to) = (Descent::new(from)?, Descent::new(to)?);
        Ok(Self { from, to, work, jobs, lister: Lister::new(), links: Links::default() })
    }

    pub(super) fn run(mut self) -> Result<()> {
        let mut stack = vec![self.copy_entries()?];
        while let Some(directory) = stack.last_mut() {
            if let Some(name) = directory.subdirectories.pop() {
                self.enter(&name)?;
                stack.push(self.copy_entries()?);
                continue;
            }
            if stack.len() == 1 {
                std::mem::take(&mut self.links)
                    .finish(self.to.root())
                    .doing("removing the staged links of", || "".into())?;
            }
            if let Some(directory) = stack.pop() {
                self.finish_directory(&directory.stat)?;
            }
            self.from.leave()?;
            self.to.leave()?;
        }
        Ok(())
    }

    fn enter(&mut self, name: &CStr) -> Result<()> {
        mkdirat(self.to.dir(), name, Mode::RWXU)
            .doing("making directory", || self.to.path_of(name))?;
        if self.from.enter(name)? && self.to.enter(name)? {
            return Ok(());
        }
        Err(Errno::NOENT).doing("opening directory", || self.from.path_of(name))
    }

    /// Makes all but the subdirectories of the current directory, and lists those.
    fn copy_entries(&mut self) -> Result<Pending> {
        let dir_path: Arc<Path> = self.from.path().into();
        let path = || dir_path.to_path_buf();
        let stat = fstat(self.from.dir()).doing("reading attributes of", path)?;
        let mut subdirectories = Vec::new();
        let (from, to) = (&self.from, &self.to);
        let entries = Entries { from, to, work: self.work, jobs: &self.jobs, dir_path: &dir_path };
        let links = &mut self.links;
        self.lister
            .each(from.dir(), |name| {
                let stat = open::stat(from.dir(), name)
                    .doing("reading attributes of", || from.path_of(name))?;
                if open::kind(&stat) == FileType::Directory {
                    subdirectories.push(name.to_owned());
                    return Ok(());
                }
                entries.copy(links, name, &stat)
            })
            .doing("reading directory", path)??;
        Ok(Pending { stat, subdirectories })
    }

    fn finish_directory(&self, stat: &Stat) -> Result<()> {
        attributes::xattrs(File::Open(self.from.dir()))
            .and_then(|xattrs| attributes::apply(self.to.dir(), stat, &xattrs))
            .doing("copying the attributes of", || self.from.path().to_owned())?;
        self.work.made_inode();
        Ok(())
    }
}

/// The entries of one directory.
struct Entries<'a> {
    from: &'a Descent,
    to: &'a Descent,
    work: &'a Work<'a>,
    jobs: &'a SyncSender<Job>,
    dir_path: &'a Arc<Path>,
}

impl Entries<'_> {
    fn copy(&self, links: &mut Links, name: &CStr, stat: &Stat) -> Result<()> {
        self.work.go_on()?;
        let to = self.to.dir();
        if stat.st_nlink == 1 {
            return self.make(name, stat, to, name);
        }
        let path = || self.from.path_of(name);
        match links.place(stat, to, name).doing("linking", path)? {
            Place::Linked => Ok(()),
            Place::Make(staged) => {
                let staging = links.staging(self.from.root(), self.to.root());
                self.make(name, stat, staging.doing("staging a link of", path)?, &staged)?;
                links.publish(stat, to, name).doing("linking", path)
            }
        }
    }

    /// Makes the file at `dir`/`new_name`.
    fn make(&self, name: &CStr, stat: &Stat, dir: BorrowedFd<'_>, new_name: &CStr) -> Result<()> {
        let path = || self.from.path_of(name);
        if open::kind(stat) == FileType::RegularFile {
            return self.make_regular(name, *stat, dir, new_name);
        }
        make_special(self.from.dir(), name, stat, dir, new_name).doing("copying", path)?;
        self.work.made_inode();
        Ok(())
    }

    fn make_regular(
        &self,
        name: &CStr,
        stat: Stat,
        dir: BorrowedFd<'_>,
        new_name: &CStr,
    ) -> Result<()> {
        let path = || self.from.path_of(name);
        let from = open::regular(self.from.dir(), name).doing("opening", path)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(dir, new_name, flags, Mode::RUSR | Mode::WUSR).doing("creating", path)?;
        let dir = self.dir_path.clone();
        // The workers are gone only when they panicked; then the scope passes the panic on.
        self.jobs
            .send(Job { from, to, stat, dir, name: name.to_owned() })
            .map_err(|_| Error::Cancelled)
    }
}

fn make_special(
    from: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
    new_name: &CStr,
) -> rustix::io::Result<()> {
    match open::kind(stat) {
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, new_name)?,
        kind => mknodat(to, new_name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
    }
    let xattrs = attributes::xattrs(File::Entry(from, name))?;
    attributes::apply_special(to, new_name, stat, &xattrs)
}
