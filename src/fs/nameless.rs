//! Files that begin without a name (`O_TMPFILE`). What a file without a name needs, stands in `nodes`.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::make::as_caller;
use super::nodes::proc_path;
use super::open::{Asked, Backing, Opened};
use super::slots::At;
use super::types::{Caller, Entry, NodeId};
use super::{Fs, Result};
use crate::sys::handle::FileHandle;

impl Fs {
    /// Creates a regular file without a name on the filesystem of a directory, and opens it. `link` can give it
    /// a name, unless `O_EXCL` was asked for. Without one it is gone when the kernel forgets it, or after a
    /// crash.
    pub fn create_nameless(
        &self,
        caller: &Caller,
        parent: NodeId,
        mode: u32,
        asked: Asked,
    ) -> Result<(Entry, Opened)> {
        self.refuse_virtual(parent)?;
        let (at, writer) = self.writable(caller, parent)?;
        let directory = self.cached.nodes.descriptor(&at)?;
        let exclusive = if asked.exclusive() { OFlags::EXCL } else { OFlags::empty() };
        let flags = asked.backing_flags().difference(OFlags::TRUNC) | OFlags::TMPFILE | exclusive;
        let open = || openat(&directory, ".", flags, Mode::from_raw_mode(mode & 0o7777));
        let file: OwnedFd = as_caller(caller, mode, open)?;
        let entry = self.entry(&at, &fstat(&file)?, &FileHandle::of(&file, "")?)?;
        drop(directory);
        let node = entry.known.attr.node;
        // Not the descriptor itself: one that can write would keep the file from being run, once it has a name.
        let kept = openat(CWD, proc_path(&file), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.cached.nodes.keep_orphan(&writer, node, kept, false);
        let writer = asked.writes().then_some(writer);
        Ok((entry, self.open.insert(At { node, ..at }, asked, Backing::open(file, None), writer)))
    }
}
