//! Names to nodes, and nodes to attributes.
//!
//! **The root of a snapshot that isn't activated.** Its real attributes are on a device that nobody has
//! opened; `ls -l` over ten thousand snapshots must not activate ten thousand volumes, and yet must not show
//! a root that someone closed (0700) as open. So:
//! 1. what the root said when the volume was last activated still holds, and is answered;
//! 2. else the volume is activated, for a single `stat`, `cp -a` or `tar`, and for any caller but root;
//! 3. else (root, in the midst of asking for many) the answer is a guess: 0755, root's, with the times of the
//!    snapshot. It holds for no time at all, so that the kernel asks again, with the credentials of whoever
//!    wants to go in. Root itself is not held back by permissions.
//!
//! A root has its own times, as the `/` of a container should, not the snapshot's.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::names::{self, Name};
use super::slots::At;
use super::tree::Place;
use super::types::{Attr, Caller, Entry, FOREVER, Found, Known, NodeId};
use super::{Fs, Result};
use crate::snapshot::{self, Info};
use crate::sys::handle::FileHandle;
use crate::types::{Kind, Namespace, SnapshotId, SnapshotKey, is_in_the_making};

/// How many volumes a second may be activated only because root asked for attributes.
const ACTIVATIONS: f64 = 8.0;

/// What a root directory is known to be without activating its volume.
pub(super) enum Peek {
    /// Nothing need be guessed.
    At(At),
    /// Attributes as of the last time. It has no ACL.
    Last(Attr),
    /// Guess.
    Guess,
}

/// How many activations for root's questions are left: since when, and how many then.
#[derive(Debug, Default)]
pub(super) struct Budget(Mutex<Option<(Instant, f64)>>);

impl Budget {
    /// Whether root's question is worth an activation; `spend`: it will be done.
    pub(super) fn may_activate(&self, spend: bool) -> bool {
        let now = Instant::now();
        let mut budget = self.0.lock();
        let (since, left) = budget.unwrap_or((now, ACTIVATIONS));
        let left = (left + (now - since).as_secs_f64() * ACTIVATIONS).min(ACTIVATIONS);
        let may = left >= 1.0;
        *budget = Some((now, if may && spend { left - 1.0 } else { left }));
        may
    }
}

impl Fs {
    /// Finds a name in a directory.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Found> {
        if let Some(place) = self.place(parent) {
            return self.lookup_virtual(caller, &place, name);
        }
        let at = self.at(caller, parent)?;
        match name.as_bytes() {
            b"." => self.lookup_self(&at).map(Found::Entry),
            b".." => self.lookup_parent(&at).map(Found::Entry),
            _ => self.lookup_below(&at, name),
        }
    }

    fn lookup_below(&self, at: &At, name: &OsStr) -> Result<Found> {
        let directory = self.cached.nodes.descriptor(at)?;
        match self.entry_below(at, directory.as_fd(), name) {
            Err(super::Error::Os(Errno::NOENT)) => Ok(Found::Absent(FOREVER)),
            found => found.map(Found::Entry),
        }
    }

    /// A look-up by node alone: somebody has kept a handle (NFS, `open_by_handle_at`). On a filesystem that
    /// a volume shares with other files, a made-up inode number must not lead out of the volume.
    fn lookup_self(&self, at: &At) -> Result<Entry> {
        let trusted = !at.slot.is_subtree() || self.cached.nodes.is_known(at);
        // Not by way of the cache, which would make it known.
        let file = self.cached.nodes.open(at, OFlags::PATH).map_err(|_| Errno::STALE)?;
        let stat = fstat(&file)?;
        if !trusted && !self.is_below_root(at, &file, &stat)? {
            return Err(Errno::STALE.into());
        }
        self.entry(at, &stat, &FileHandle::of(&file, "")?)
    }

    fn lookup_parent(&self, at: &At) -> Result<Entry> {
        if at.node.is_snapshot_root() {
            let place = self.place_of(at.slot.snapshot)?;
            return Ok(self.virtual_entry(&place));
        }
        let directory = self.cached.nodes.descriptor(at)?;
        let parent = openat(
            &directory,
            "..",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        self.entry(at, &fstat(&parent)?, &FileHandle::of(&parent, "")?)
    }

    /// Whether a directory is inside the volume. Of other files that can't be told.
    fn is_below_root(&self, at: &At, file: &OwnedFd, stat: &Stat) -> Result<bool> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(false);
        }
        let mut here =
            openat(file, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut ino = stat.st_ino;
        loop {
            if at.slot.node(ino)?.is_snapshot_root() {
                return Ok(true);
            }
            here = openat(
                &here,
                "..",
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let above = fstat(&here)?.st_ino;
            if above == ino {
                return Ok(false);
            }
            ino = above;
        }
    }

    /// The entry of a name in a directory of a snapshot; the kernel knows the node from now on.
    pub(super) fn entry_below(
        &self,
        at: &At,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Entry> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.entry(at, &stat, &FileHandle::of(directory, name)?)
    }

    /// The entry of a node; the kernel knows it from now on.
    pub(super) fn entry(&self, at: &At, stat: &Stat, handle: &FileHandle) -> Result<Entry> {
        let entry = self.entry_unremembered(at, stat, handle)?;
        self.cached.nodes.remember(at.slot.handles, entry.known.attr.node, handle);
        Ok(entry)
    }

    pub(super) fn entry_unremembered(
        &self,
        at: &At,
        stat: &Stat,
        handle: &FileHandle,
    ) -> Result<Entry> {
        let node = at.slot.node(stat.st_ino)?;
        // A root has one generation in all answers, those from before activation included.
        let generation = if node.is_snapshot_root() { 0 } else { handle.generation() };
        Ok(Entry { known: self.known(Attr::of(node, stat)), generation, ttl: FOREVER })
    }

    pub(super) fn known(&self, attr: Attr) -> Known {
        let ttl = if self.open.is_bypassed(attr.node) { Duration::ZERO } else { attr.ttl() };
        Known { attr, ttl }
    }

    /// The attributes of a node.
    pub fn getattr(&self, caller: &Caller, node: NodeId) -> Result<Known> {
        if let Some(place) = self.place(node) {
            return Ok(self.tree.attr(&place).into());
        }
        if node.is_snapshot_root() {
            return self.root_attr(caller, node);
        }
        let at = self.at(caller, node)?;
        self.known_now(node, self.cached.nodes.descriptor(&at)?)
    }

    /// What is known of a node, asked of its file.
    pub(super) fn known_now(&self, node: NodeId, file: impl AsFd) -> Result<Known> {
        // Before as well: the last mapping may go between the two.
        if self.open.is_bypassed(node) {
            self.close_if_unmapped(node);
        }
        let bypassed = self.open.is_bypassed(node);
        let known = self.known(Attr::of(node, &fstat(file)?));
        Ok(Known { ttl: if bypassed { Duration::ZERO } else { known.ttl }, ..known })
    }

    /// The entry of a file that is open.
    pub fn entry_of_open(&self, handle: u64) -> Result<Entry> {
        let file = self.file(handle)?;
        let at = self.cached.slots.activate(&self.snapshots, file.node)?;
        let fd = file.fd()?;
        self.entry(&at, &fstat(fd)?, &FileHandle::of(fd, "")?)
    }

    fn root_attr(&self, caller: &Caller, node: NodeId) -> Result<Known> {
        match self.peek(caller, node)? {
            Peek::At(at) => Ok(self.known(Attr::of(node, &fstat(at.pin.root())?))),
            Peek::Last(attr) => Ok(attr.into()),
            Peek::Guess => {
                let snapshot = node.snapshot().ok_or(Errno::STALE)?;
                let info = self.snapshots.stat_id(snapshot)?.ok_or(Errno::STALE)?;
                Ok(guessed_root(&info))
            }
        }
    }

    /// What is known of a snapshot's root: see the module's text.
    pub(super) fn peek(&self, caller: &Caller, node: NodeId) -> Result<Peek> {
        if let Some(at) = self.cached.slots.at_once(&self.snapshots, node)? {
            return Ok(Peek::At(at));
        }
        let last = node.snapshot().and_then(|id| self.cached.slots.get(id)?.last_root());
        if let Some(attr) = last {
            return Ok(Peek::Last(attr));
        }
        if !caller.is_root() || self.budget.may_activate(caller.may_wait) {
            return match self.at(caller, node) {
                // Handed out as a block device: whoever wants to go in is told that it is busy.
                Err(super::Error::Os(Errno::BUSY)) => Ok(Peek::Guess),
                at => at.map(Peek::At),
            };
        }
        Ok(Peek::Guess)
    }

    fn lookup_virtual(&self, caller: &Caller, place: &Place, name: &OsStr) -> Result<Found> {
        match name.as_bytes() {
            b"." => return Ok(Found::Entry(self.virtual_entry(place))),
            b".." => return Ok(Found::Entry(self.virtual_entry(&self.tree.parent(place)))),
            _ => {}
        }
        let found = match place {
            Place::Top if name == names::NAMESPACES => Some(Place::Namespaces),
            Place::Top if name == names::IMAGES => Some(Place::Images),
            Place::Images => self.image_named(name)?,
            Place::Image(..) => return Err(Errno::NOTDIR.into()),
            Place::Top => {
                kind_named(name).map(|kind| Place::Snapshots(self.tree.shown().clone(), kind))
            }
            Place::Namespaces => self.namespace_named(caller, name)?.map(Place::Namespace),
            Place::Namespace(namespace) => {
                kind_named(name).map(|kind| Place::Snapshots(namespace.clone(), kind))
            }
            Place::Snapshots(namespace, kind) => {
                return self.lookup_snapshot(caller, namespace, *kind, name);
            }
        };
        Ok(match found {
            Some(place) => Found::Entry(self.virtual_entry(&place)),
            None => Found::Absent(Duration::ZERO),
        })
    }

    /// Root may go into a namespace that holds nothing yet, to make the first snapshot there.
    fn namespace_named(&self, caller: &Caller, name: &OsStr) -> Result<Option<Namespace>> {
        let Some(namespace) = name.to_str().and_then(|name| Namespace::new(name).ok()) else {
            return Ok(None);
        };
        let elsewhere = namespace != *self.tree.shown();
        let visible =
            elsewhere && (caller.is_root() || self.snapshots.namespaces()?.contains(&namespace));
        Ok(visible.then_some(namespace))
    }

    fn lookup_snapshot(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        kind: Kind,
        name: &OsStr,
    ) -> Result<Found> {
        match self.snapshot_named(namespace, kind, name)? {
            Some(info) => {
                let node = NodeId::root_of(info.snapshot.id);
                Ok(Found::Entry(Entry {
                    known: self.root_attr(caller, node)?,
                    generation: 0,
                    ttl: FOREVER,
                }))
            }
            None => Ok(Found::Absent(Duration::ZERO)),
        }
    }

    /// The snapshot that a name stands for in a directory of one kind.
    pub(super) fn snapshot_named(
        &self,
        namespace: &Namespace,
        kind: Kind,
        name: &OsStr,
    ) -> Result<Option<Info>> {
        let Some(key) = self.key_named(namespace, name)? else {
            return Ok(None);
        };
        if is_in_the_making(namespace, &key) {
            return Ok(None);
        }
        match self.snapshots.stat(namespace, &key) {
            Ok(info) if info.snapshot.kind == kind => Ok(Some(info)),
            Ok(_) | Err(snapshot::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn key_named(&self, namespace: &Namespace, name: &OsStr) -> Result<Option<SnapshotKey>> {
        Ok(match names::decode(name.as_bytes()) {
            Some(Name::Key(key)) => Some(key),
            Some(Name::Digest(digest)) => {
                let key = self.snapshots.key_by_digest(namespace, &digest)?;
                key.filter(|key| names::encode(key).as_bytes() == name.as_bytes())
            }
            None => None,
        })
    }

    pub(super) fn virtual_entry(&self, place: &Place) -> Entry {
        // An image may come to name another layer at any time.
        let ttl = if matches!(place, Place::Image(..)) { Duration::ZERO } else { FOREVER };
        Entry { known: self.tree.attr(place).into(), generation: 0, ttl }
    }

    /// The directory that holds a snapshot.
    pub(super) fn place_of(&self, snapshot: SnapshotId) -> Result<Place> {
        let info = self.snapshots.stat_id(snapshot)?.ok_or(Errno::STALE)?;
        Ok(Place::Snapshots(info.namespace, info.snapshot.kind))
    }
}

/// What a root looks like that nobody has looked at: as a new one does.
pub(super) fn guessed_root(info: &Info) -> Known {
    let node = NodeId::root_of(info.snapshot.id);
    let attr = Attr::of_directory(node, 0o755, info.snapshot.updated.into());
    Known { attr, ttl: Duration::ZERO }
}

fn kind_named(name: &OsStr) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| name == kind.as_str())
}
