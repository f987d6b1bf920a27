//! Unpacks a layer onto a tree.
//!
//! The tree holds the content of the layer's parent. The result is what containerd's `Apply` makes
//! of the same archive, and two differences are meant:
//!
//! - The order of entries never lets a whiteout hide an entry of its own layer, as the OCI image
//!   specification has it: a whiteout behind the entry it names, or an opaque whiteout behind
//!   entries of a directory that the layer doesn't list, removes only what lies below the layer.
//! - Hard links to a file with capabilities don't lose them.
//!
//! The archive is hostile until proven otherwise. Its paths are followed by [`place`] alone; what it
//! claims costs nothing before it is there; what is kept of an entry until the layer's end is counted
//! ([`Limits::retained`]); and an entry that can't be unpacked is an error, never skipped. After an
//! error or a crash the tree is a half-unpacked layer, to be discarded.

mod attributes;
mod entry;
mod place;
mod upper;
mod whiteout;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FileType;

use self::place::{Place, Tree};
use self::upper::{Content, Uppers};
use super::error::{Error, Result};
use super::input::Compression;
use super::split::Sink;
use super::stream::{self, Chunks};
use super::tar::{Entry, Kind, Reader};
use crate::tree;
use crate::types::DiffId;

/// What a layer may not exceed. Content is limited by the tree's filesystem, not here.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries; each costs memory until the end.
    pub entries: u64,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Bytes in memory until the end: the entries' paths, the names of their directories' extended
    /// attributes, and the maps of their sparse files. A small compressed layer can hold many.
    pub retained: u64,
}

impl Default for Limits {
    /// Two million entries, 4 TiB, 256 MiB: 134 bytes for each of the entries.
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 4 << 40, retained: 256 << 20 }
    }
}

/// How the caller bounds, follows and stops the work.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// What a layer may not exceed.
    pub limits: Limits,
    /// Set by the caller: give up.
    pub cancel: &'a AtomicBool,
    /// Bytes of the uncompressed archive done so far.
    pub done: &'a AtomicU64,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// sha256 of the uncompressed archive.
    pub diff_id: DiffId,
    /// Length of the uncompressed archive.
    pub tar_size: u64,
    /// Sizes of all its files.
    pub size: u64,
    /// How many entries it has, whiteouts included.
    pub entries: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// Extended attributes that were left out: `trusted.` ones, and what the filesystem can't keep.
    pub ignored_xattrs: u64,
}

/// Unpacks the layer `input`, compressed or not, onto the tree below `root`. `record` receives what
/// is needed to write the same archive again; `()` where that isn't wanted. Nothing is flushed to
/// stable storage.
pub fn apply<S: Sink>(
    root: BorrowedFd<'_>,
    input: impl Read + Send,
    record: &mut S,
    options: Options<'_>,
) -> Result<Applied> {
    let (counts, summary) = stream::through(input, options.limits.bytes, |chunks| {
        let reader = Reader::new(chunks, record);
        let tree = Tree::new(root)?;
        let counts = Counts::default();
        Apply { reader, tree, uppers: Uppers::default(), options, counts }.run()
    })?;
    Ok(Applied {
        diff_id: summary.diff_id,
        tar_size: summary.length,
        size: counts.size,
        entries: counts.entries,
        compression: summary.compression,
        ignored_xattrs: counts.ignored_xattrs,
    })
}

#[derive(Debug, Default)]
struct Counts {
    entries: u64,
    size: u64,
    ignored_xattrs: u64,
}

struct Apply<'a, S> {
    reader: Reader<&'a mut Chunks, &'a mut S>,
    tree: Tree,
    uppers: Uppers,
    options: Options<'a>,
    counts: Counts,
}

impl<S: Sink> Apply<'_, S> {
    fn run(mut self) -> Result<Counts> {
        while let Some(entry) = self.reader.next_entry()? {
            self.checkpoint()?;
            self.counts.entries += 1;
            self.counts.size = self.counts.size.saturating_add(entry.size);
            if self.counts.entries > self.options.limits.entries {
                return Err(Error::Limit { limit: self.options.limits.entries, what: "entries" });
            }
            self.entry(&entry)?;
        }
        self.set_directory_times()?;
        while self.reader.trail()? {
            self.checkpoint()?;
        }
        self.reader.finish()?;
        Ok(self.counts)
    }

    /// Tells how far we are, and gives up if the caller wants that.
    fn checkpoint(&self) -> Result<()> {
        self.options.done.store(self.reader.position(), Ordering::Relaxed);
        let cancelled = self.options.cancel.load(Ordering::Relaxed);
        if cancelled { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let path = place::clean(&entry.path);
        // The root's attributes are the snapshot's own.
        if path.is_empty() {
            return Ok(());
        }
        let whiteout = whiteout::parse(&path)?;
        let place = self.tree.place(&path)?;
        match whiteout {
            Some(whiteout) => self.whiteout(whiteout, &place),
            None => self.unpack(entry, place),
        }
    }

    /// Removes what is in a place, for something else is to be there. Content that came from this
    /// layer goes to the record.
    fn remove(&mut self, place: &Place) -> Result<()> {
        for (path, content) in self.uppers.take(&place.path) {
            self.rescue(&path, &content)?;
        }
        self.tree.forget(&place.path);
        Ok(tree::remove(place.at(), &place.name, self.options.cancel)?)
    }

    /// Removes what is in a place unless it is a directory and is to become one. True: it is.
    fn make_room(&mut self, place: &Place, kind: Kind) -> Result<bool> {
        if kind == Kind::Directory && place.kind()? == Some(FileType::Directory) {
            return Ok(true);
        }
        self.remove(place)?;
        Ok(false)
    }

    fn rescue(&mut self, path: &[u8], content: &Content) -> Result<()> {
        let file = self.tree.known(path)?.open_file()?;
        let whole = [(0, content.size)];
        let extents = content.extents.as_deref().unwrap_or(&whole);
        self.reader.tap().rescue(content.number, file.as_fd(), extents)
    }

    /// Everything made in a directory moves its times, so they are set last.
    fn set_directory_times(&mut self) -> Result<()> {
        for (path, times) in self.uppers.directories() {
            attributes::set_times(&self.tree.known(path)?, times)?;
        }
        Ok(())
    }
}
