//! Directories read out, a part at a time, without an open directory on our side.
//!
//! A listing is asked for by node and cookie, so it can be resumed by anyone at any time: cookies of real
//! directories are the backing filesystem's own, those of directories of snapshots are snapshot ids.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom, seek, statat};
use rustix::io::Errno;

use super::slots::At;
use super::tree::Place;
use super::types::{Attr, Caller, Entry, Known, Line, NodeId};
use super::{Error, Fs, Result};
use crate::sys::handle::FileHandle;
use crate::types::{Kind, Namespace, SnapshotId};

/// Takes a line; says whether it was the last that fits, in which case the line was not taken.
pub type Sink<'a> = &'a mut dyn FnMut(&Line<'_>) -> bool;

/// Cookies of `.` and `..`; those of directories of snapshots start behind these.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const FIRST: u64 = 3;

impl Fs {
    /// Reads the directory on from `cookie` (0 is the beginning) until it ends or `sink` is full. With
    /// `attributes`, each line comes with the node's entry, and the kernel knows those it took.
    pub fn list(
        &self,
        caller: &Caller,
        node: NodeId,
        cookie: u64,
        attributes: bool,
        sink: Sink<'_>,
    ) -> Result<()> {
        match self.place(node) {
            Some(Place::Snapshots(namespace, kind)) => {
                self.list_snapshots(node, &namespace, kind, cookie, sink)
            }
            Some(place) => self.list_places(node, &place, cookie, sink),
            None => self.list_files(&self.at(caller, node)?, cookie, attributes, sink),
        }
    }

    fn list_files(&self, at: &At, cookie: u64, attributes: bool, sink: Sink<'_>) -> Result<()> {
        let directory = self.cached.nodes.open(at, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if cookie != 0 {
            seek(&directory, SeekFrom::Start(cookie))?;
        }
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut lines = RawDir::new(&directory, &mut buffer);
        while let Some(line) = lines.next() {
            let line = line?;
            let name = line.file_name();
            let cookie = line.next_entry_cookie();
            let (file_type, ino) = (line.file_type(), line.ino());
            let full = if matches!(name.to_bytes(), b"." | b"..") {
                let node = self.dot_node(at, name.to_bytes(), ino)?;
                sink(&Line { name: name.to_bytes(), cookie, node, file_type, entry: None })
            } else if attributes {
                self.list_file(at, &directory, name, cookie, sink)?
            } else {
                at.slot.node(ino).is_ok_and(|node| {
                    sink(&Line { name: name.to_bytes(), cookie, node, file_type, entry: None })
                })
            };
            if full {
                break;
            }
        }
        Ok(())
    }

    /// A line with its attributes. A file that has gone meanwhile, or whose inode number has no node id,
    /// is left out.
    fn list_file(
        &self,
        at: &At,
        directory: impl AsFd,
        name: &std::ffi::CStr,
        cookie: u64,
        sink: Sink<'_>,
    ) -> Result<bool> {
        let directory = directory.as_fd();
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat?,
        };
        let handle = match FileHandle::of(directory, name) {
            Err(Errno::NOENT) => return Ok(false),
            handle => handle?,
        };
        let entry = match self.entry_unremembered(at, &stat, &handle) {
            Err(Error::Os(Errno::OVERFLOW)) => {
                tracing::warn!(snapshot = %at.slot.snapshot, ino = stat.st_ino, "inode number over 32 bits: file not shown");
                return Ok(false);
            }
            entry => entry?,
        };
        let attr = &entry.known.attr;
        let line = Line {
            name: name.to_bytes(),
            cookie,
            node: attr.node,
            file_type: attr.file_type(),
            entry: Some(entry),
        };
        let full = sink(&line);
        if !full {
            self.cached.nodes.remember(at.slot.handles, attr.node, &handle);
        }
        Ok(full)
    }

    fn dot_node(&self, at: &At, name: &[u8], ino: u64) -> Result<NodeId> {
        match name {
            b"." => Ok(at.node),
            _ if at.node.is_snapshot_root() => {
                Ok(self.tree.node(&self.place_of(at.slot.snapshot)?))
            }
            _ => at.slot.node(ino),
        }
    }

    fn list_snapshots(
        &self,
        node: NodeId,
        namespace: &Namespace,
        kind: Kind,
        cookie: u64,
        sink: Sink<'_>,
    ) -> Result<()> {
        let parent = self.tree.parent(&Place::Snapshots(namespace.clone(), kind));
        if list_dots(node, self.tree.node(&parent), cookie, sink) {
            return Ok(());
        }
        let listing = self.tree.listing(&self.snapshots, namespace, kind, cookie >= FIRST)?;
        let shown = |id: SnapshotId| u64::from(id.0) + FIRST <= cookie;
        let start = listing.partition_point(|(id, _)| shown(*id));
        for (id, name) in &listing[start..] {
            let entry = self.entry_in_listing(*id);
            let attr = &entry.known.attr;
            let cookie = u64::from(id.0) + FIRST;
            let line = Line {
                name: name.as_bytes(),
                cookie,
                node: attr.node,
                file_type: FileType::Directory,
                entry: Some(entry),
            };
            if sink(&line) {
                break;
            }
        }
        Ok(())
    }

    /// A snapshot's root without a look at it: a name and a type. Neither its attributes nor the name hold
    /// for any time, so that whoever wants more asks.
    fn entry_in_listing(&self, snapshot: SnapshotId) -> Entry {
        let attr = Attr::of_directory(NodeId::root_of(snapshot), 0o755, self.tree.started());
        Entry {
            known: Known { attr, ttl: std::time::Duration::ZERO },
            generation: 0,
            ttl: std::time::Duration::ZERO,
        }
    }

    fn list_places(&self, node: NodeId, place: &Place, cookie: u64, sink: Sink<'_>) -> Result<()> {
        if list_dots(node, self.tree.node(&self.tree.parent(place)), cookie, sink) {
            return Ok(());
        }
        for (index, (name, child)) in
            self.places_in(place)?.iter().enumerate().skip(cookie.saturating_sub(DOT_DOT) as usize)
        {
            let entry = self.virtual_entry(child);
            let attr = &entry.known.attr;
            let cookie = FIRST + index as u64;
            let line = Line {
                name: name.as_bytes(),
                cookie,
                node: attr.node,
                file_type: attr.file_type(),
                entry: Some(entry),
            };
            if sink(&line) {
                break;
            }
        }
        Ok(())
    }

    /// The virtual directories in a virtual directory.
    fn places_in(&self, place: &Place) -> Result<Vec<(String, Place)>> {
        let kinds = |namespace: &Namespace| {
            Kind::ALL
                .map(|kind| (kind.as_str().to_owned(), Place::Snapshots(namespace.clone(), kind)))
                .to_vec()
        };
        Ok(match place {
            Place::Top => {
                let mut places = kinds(self.tree.shown());
                places.push((super::names::NAMESPACES.to_owned(), Place::Namespaces));
                places.push((super::names::IMAGES.to_owned(), Place::Images));
                places
            }
            Place::Namespaces => {
                let namespaces = self.snapshots.namespaces()?;
                let others =
                    namespaces.into_iter().filter(|namespace| namespace != self.tree.shown());
                others
                    .map(|namespace| (namespace.to_string(), Place::Namespace(namespace)))
                    .collect()
            }
            Place::Namespace(namespace) => kinds(namespace),
            Place::Images => self.images()?,
            Place::Snapshots(..) | Place::Image(..) => Vec::new(),
        })
    }
}

/// `.` and `..`, as far as the cookie hasn't passed them. Says whether the sink is full.
fn list_dots(node: NodeId, parent: NodeId, cookie: u64, sink: Sink<'_>) -> bool {
    let dots = [(".".as_bytes(), DOT, node), ("..".as_bytes(), DOT_DOT, parent)];
    dots.into_iter().filter(|(_, own, _)| *own > cookie).any(|(name, cookie, node)| {
        sink(&Line { name, cookie, node, file_type: FileType::Directory, entry: None })
    })
}
