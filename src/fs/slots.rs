//! Snapshots that the kernel has asked about: which volume each is on, whether it may change, and what its
//! root directory looked like when the volume was last activated.
//!
//! A [`Slot`] is a cache of facts that never change, but for commit (it turns read-only) and removal (it
//! goes). Every operation on a node starts by pinning the node's volume here.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags, Stat, fstat, getxattr, openat};
use rustix::io::Errno;

use super::nodes::proc_path;
use super::types::{Attr, Caller, NodeId};
use super::{Error, Result};
use crate::snapshot::{self, Snapshots};
use crate::types::{SnapshotId, VolumeId};
use crate::volume::{Pin, Writer};

/// `EXT4_SUPER_MAGIC`, shared by ext2, ext3 and ext4.
const EXT4_MAGIC: i64 = 0xef53;
/// `EXT4_ROOT_INO`: the root directory of a whole ext4.
const EXT4_ROOT_INO: u64 = 2;

/// How a filesystem lets an inode be found again from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handles {
    /// The handle can be made of the number alone (ext4).
    Derived,
    /// The handle holds more than we can derive, so it is kept as long as the kernel knows the node.
    Remembered,
}

/// One snapshot.
#[derive(Debug)]
pub struct Slot {
    /// Which.
    pub snapshot: SnapshotId,
    /// Where its files are: its own volume, or for a view of a committed snapshot the parent's.
    pub volume: VolumeId,
    /// How nodes are found again.
    pub handles: Handles,
    /// Whether the filesystem holds files that aren't the volume's.
    shares_filesystem: bool,
    /// The backing inode number of its root directory.
    root_ino: u64,
    read_only: AtomicBool,
    root: Mutex<Root>,
}

/// The root directory: an `O_PATH` descriptor while the volume is activated, and what it said last.
#[derive(Debug, Default)]
struct Root {
    open: Option<OwnedFd>,
    last: Option<Stat>,
}

/// A node whose volume stays activated while this lives.
#[derive(Debug)]
pub struct At {
    /// Which node.
    pub node: NodeId,
    /// Its snapshot.
    pub slot: Arc<Slot>,
    /// Keeps the volume.
    pub pin: Pin,
}

impl At {
    /// Registers a writer, or `EROFS`. While a commit is being tried a caller who may wait does.
    pub fn writer(&self, caller: &Caller) -> Result<Writer> {
        if self.slot.read_only.load(Relaxed) {
            return Err(Errno::ROFS.into());
        }
        if caller.may_wait {
            return Ok(self.pin.writer()?);
        }
        self.pin.try_writer()?.ok_or(Error::WouldWait)
    }
}

impl Slot {
    fn new(opened: &snapshot::Opened) -> Result<Self> {
        let root = opened.pin.root();
        let root_ino = fstat(root)?.st_ino;
        let derived = rustix::fs::fstatfs(root)?.f_type == EXT4_MAGIC;
        Ok(Self {
            snapshot: opened.info.snapshot.id,
            volume: opened.info.snapshot.volume,
            handles: if derived { Handles::Derived } else { Handles::Remembered },
            shares_filesystem: root_ino != EXT4_ROOT_INO,
            root_ino,
            read_only: AtomicBool::new(opened.read_only),
            root: Mutex::default(),
        })
    }

    /// Whether an inode number that can be opened may still be of a file outside the volume.
    pub fn is_subtree(&self) -> bool {
        self.handles == Handles::Derived && self.shares_filesystem
    }

    /// The node of a backing inode. `EOVERFLOW` for inode numbers that don't fit into a node id.
    pub fn node(&self, ino: u64) -> Result<NodeId> {
        if ino == self.root_ino {
            return Ok(NodeId::root_of(self.snapshot));
        }
        match u32::try_from(ino) {
            Ok(ino) if ino > NodeId::ROOT_INO => Ok(NodeId::new(self.snapshot, ino)),
            _ => Err(Errno::OVERFLOW.into()),
        }
    }

    /// The root's attributes as of when the volume was activated last, unless it had an ACL; nothing has
    /// changed since.
    pub fn last_root(&self) -> Option<Attr> {
        let last = self.root.lock().last;
        last.map(|stat| Attr::of(NodeId::root_of(self.snapshot), &stat))
    }

    /// Keeps the root at hand, so that its last attributes can be read when the volume goes. Those of the
    /// time before are history from now on: an evicted volume waits a while before it goes.
    fn hold_root(&self, pin: &Pin) -> Result<()> {
        let mut root = self.root.lock();
        if root.open.is_none() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            root.last = None;
            root.open = Some(openat(pin.root(), ".", flags, Mode::empty())?);
        }
        Ok(())
    }

    fn release_root(&self) {
        let mut root = self.root.lock();
        if let Some(open) = root.open.take() {
            root.last = if has_acl(&open) { None } else { fstat(&open).ok() };
        }
    }
}

/// Attributes alone don't say who may go in where there is an ACL, so such a root is not remembered.
fn has_acl(root: &OwnedFd) -> bool {
    ["system.posix_acl_access", "system.posix_acl_default"]
        .into_iter()
        .any(|name| getxattr(proc_path(root), name, &mut [0_u8; 0]).is_ok())
}

/// All slots.
#[derive(Debug, Default)]
pub struct Slots(RwLock<HashMap<SnapshotId, Arc<Slot>>>);

impl Slots {
    /// The slot, if the snapshot has been looked at since the start.
    pub fn get(&self, snapshot: SnapshotId) -> Option<Arc<Slot>> {
        self.0.read().get(&snapshot).cloned()
    }

    /// The node with its volume pinned, if that is activated already.
    pub fn at_once(&self, snapshots: &Snapshots, node: NodeId) -> Result<Option<At>> {
        let Some(slot) = node.snapshot().and_then(|snapshot| self.get(snapshot)) else {
            return Ok(None);
        };
        let Some(pin) = snapshots.volumes().pinned(slot.volume) else {
            return Ok(None);
        };
        slot.hold_root(&pin)?;
        Ok(Some(At { node, slot, pin }))
    }

    /// The node with its volume activated and pinned; may wait long.
    pub fn activate(&self, snapshots: &Snapshots, node: NodeId) -> Result<At> {
        let snapshot = node.snapshot().ok_or(Errno::STALE)?;
        let opened = match snapshots.open(snapshot) {
            Err(snapshot::Error::NotFound(_)) => return Err(Errno::STALE.into()),
            opened => opened?,
        };
        let slot = Arc::new(Slot::new(&opened)?);
        let slot = Arc::clone(self.0.write().entry(snapshot).or_insert(slot));
        slot.hold_root(&opened.pin)?;
        Ok(At { node, slot, pin: opened.pin })
    }

    /// The snapshot has been committed.
    pub fn seal(&self, snapshot: SnapshotId) {
        if let Some(slot) = self.get(snapshot) {
            slot.read_only.store(true, Relaxed);
        }
    }

    /// The snapshot has been removed.
    pub fn remove(&self, snapshot: SnapshotId) {
        let removed = self.0.write().remove(&snapshot);
        drop(removed);
    }

    /// The volume is about to be deactivated.
    pub fn release_roots(&self, volume: VolumeId) {
        let slots = self.0.read();
        slots.values().filter(|slot| slot.volume == volume).for_each(|slot| slot.release_root());
    }
}
