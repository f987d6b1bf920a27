//! Nodes found again from their ids: a bounded cache of descriptors, file handles, and orphans.
//!
//! A node id holds no state of ours. Its file is found
//! 1. among the **orphans**: files without a name that the kernel still knows, held open until it says
//!    `forget`, so that they can be reached and their inode numbers aren't given to others meanwhile;
//! 2. in the cache of `O_PATH` descriptors, shared by all snapshots that look at one volume;
//! 3. by file handle: on ext4 made of the inode number alone, elsewhere the one remembered when the kernel
//!    was told of the node.
//!
//! The kernel asks to open regular files only and a node never changes its type, so that no FIFO or device
//! is ever opened here.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::slots::{At, Handles};
use super::types::NodeId;
use crate::sys::handle::{BoxedHandle, FileHandle};
use crate::types::VolumeId;
use crate::volume::Writer;

const SHARDS: usize = 16;

type Key = (VolumeId, u32);

/// All that is known of single nodes.
#[derive(Debug)]
pub struct Nodes {
    cache: [Mutex<LruCache<Key, Arc<Held>>>; SHARDS],
    orphans: Mutex<HashMap<NodeId, Orphan>>,
    orphan_count: AtomicUsize,
    remembered: Mutex<HashMap<NodeId, Remembered>>,
}

/// A file without a name. It counts as a writer, because a filesystem that holds one can't turn read-only:
/// a commit waits until the kernel has forgotten it.
#[derive(Debug)]
pub struct Orphan {
    file: Arc<Held>,
    is_large: bool,
    _writer: Writer,
}

#[derive(Debug)]
struct Remembered {
    handle: BoxedHandle,
    lookups: u64,
}

/// A descriptor that names a node; good for calls that take `O_PATH` descriptors.
#[derive(Debug)]
pub enum Descriptor<'a> {
    /// The volume's own root.
    Root(BorrowedFd<'a>),
    /// From the cache or the orphans.
    Shared(Arc<Held>),
}

/// An `O_PATH` descriptor, and the kernel's hold on the same file, if it has one.
#[derive(Debug)]
pub struct Held {
    fd: OwnedFd,
    hold: OnceLock<Arc<dyn Hold>>,
}

/// The kernel's own way to a file, which it may take for as long as this lives. It keeps the file, and so its
/// filesystem, as a descriptor does: it goes where cached descriptors go.
pub trait Hold: std::fmt::Debug + Send + Sync {
    /// What the kernel calls it.
    fn number(&self) -> u32;
}

impl Held {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, hold: OnceLock::new() }
    }

    /// The kernel's hold on the file; `register` gets it where there is none yet.
    pub fn hold<E>(
        &self,
        register: impl FnOnce(BorrowedFd<'_>) -> Result<Arc<dyn Hold>, E>,
    ) -> Result<Arc<dyn Hold>, E> {
        if let Some(hold) = self.hold.get() {
            return Ok(Arc::clone(hold));
        }
        let new = register(self.fd.as_fd())?;
        Ok(Arc::clone(self.hold.get_or_init(|| new)))
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Root(fd) => *fd,
            Descriptor::Shared(fd) => fd.as_fd(),
        }
    }
}

impl Nodes {
    /// `limit`: how many descriptors the cache may hold.
    pub fn new(limit: usize) -> Self {
        let each = NonZeroUsize::new(limit / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            cache: std::array::from_fn(|_| Mutex::new(LruCache::new(each))),
            orphans: Mutex::default(),
            orphan_count: AtomicUsize::new(0),
            remembered: Mutex::default(),
        }
    }

    /// A descriptor for the node.
    pub fn descriptor<'a>(&self, at: &'a At) -> super::Result<Descriptor<'a>> {
        if at.node.is_snapshot_root() {
            return Ok(Descriptor::Root(at.pin.root()));
        }
        self.held(at).map(Descriptor::Shared)
    }

    /// The same for a node that isn't the root of a snapshot.
    pub fn held(&self, at: &At) -> super::Result<Arc<Held>> {
        if let Some(orphan) = self.orphan(at.node) {
            return Ok(orphan);
        }
        let key = (at.slot.volume, at.node.ino());
        if let Some(cached) = self.shard(key).lock().get(&key) {
            return Ok(Arc::clone(cached));
        }
        let opened = Arc::new(Held::new(self.open_handle(at, OFlags::PATH)?));
        let evicted = self.shard(key).lock().push(key, Arc::clone(&opened));
        drop(evicted);
        Ok(opened)
    }

    /// Opens the node's file.
    pub fn open(&self, at: &At, flags: OFlags) -> super::Result<OwnedFd> {
        match self.open_once(at, flags | OFlags::CLOEXEC) {
            // Somebody asks just now whether the file is mapped: wait for that. A FIFO is never opened here.
            Err(super::Error::Os(Errno::WOULDBLOCK)) => {
                self.open_once(at, flags.difference(OFlags::NONBLOCK) | OFlags::CLOEXEC)
            }
            opened => opened,
        }
    }

    fn open_once(&self, at: &At, flags: OFlags) -> super::Result<OwnedFd> {
        if at.node.is_snapshot_root() {
            return Ok(openat(at.pin.root(), ".", flags, Mode::empty())?);
        }
        if let Some(orphan) = self.orphan(at.node) {
            return Ok(openat(CWD, proc_path(&orphan), flags, Mode::empty())?);
        }
        self.open_handle(at, flags)
    }

    /// Cached descriptors make room where the process may have no more.
    fn open_handle(&self, at: &At, flags: OFlags) -> super::Result<OwnedFd> {
        let handle = self.handle(at)?;
        match handle.open(at.pin.root(), flags) {
            Err(Errno::MFILE | Errno::NFILE) => {
                tracing::warn!("out of file descriptors: dropping those that are only cached");
                self.cache.iter().for_each(|shard| shard.lock().clear());
                Ok(handle.open(at.pin.root(), flags)?)
            }
            opened => Ok(opened?),
        }
    }

    fn handle(&self, at: &At) -> super::Result<FileHandle> {
        match at.slot.handles {
            Handles::Derived => Ok(FileHandle::of_inode_number(at.node.ino())),
            Handles::Remembered => {
                let remembered = self.remembered.lock();
                Ok(remembered.get(&at.node).ok_or(Errno::STALE)?.handle.unboxed())
            }
        }
    }

    /// Whether the node is known without help of the inode number: cached, an orphan, or remembered.
    pub fn is_known(&self, at: &At) -> bool {
        let key = (at.slot.volume, at.node.ino());
        at.node.is_snapshot_root()
            || self.orphan(at.node).is_some()
            || self.shard(key).lock().contains(&key)
            || self.remembered.lock().contains_key(&at.node)
    }

    /// The kernel is told of the node, once more.
    pub fn remember(&self, handles: Handles, node: NodeId, handle: &FileHandle) {
        if handles == Handles::Derived || node.is_snapshot_root() {
            return;
        }
        let mut remembered = self.remembered.lock();
        let known = remembered
            .entry(node)
            .or_insert_with(|| Remembered { handle: handle.to_boxed(), lookups: 0 });
        known.lookups += 1;
    }

    /// The kernel forgets the node this many times. Gives back a file whose blocks take time to free.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<Orphan> {
        let orphan = match self.orphan_count.load(Relaxed) {
            0 => None,
            _ => self.orphans.lock().remove(&node),
        };
        if orphan.is_some() {
            self.orphan_count.fetch_sub(1, Relaxed);
        }
        let mut remembered = self.remembered.lock();
        if let Some(known) = remembered.get_mut(&node) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                remembered.remove(&node);
            }
        }
        drop(remembered);
        orphan.filter(|orphan| orphan.is_large)
    }

    /// The kernel has let go of the node: what is cached of it would only keep its inode in memory.
    pub fn uncache(&self, volume: VolumeId, node: NodeId) {
        let key = (volume, node.ino());
        let cached = self.shard(key).lock().pop(&key);
        drop(cached);
    }

    /// The node's last name is gone. `is_large`: to free its blocks takes time.
    pub fn keep_orphan(&self, writer: &Writer, node: NodeId, file: OwnedFd, is_large: bool) {
        self.uncache(writer.pin().volume(), node);
        let orphan = Orphan { file: Arc::new(Held::new(file)), is_large, _writer: writer.clone() };
        if self.orphans.lock().insert(node, orphan).is_none() {
            self.orphan_count.fetch_add(1, Relaxed);
        }
    }

    /// The node has been given a name.
    pub fn has_name(&self, node: NodeId) {
        if self.orphan_count.load(Relaxed) == 0 {
            return;
        }
        let orphan = self.orphans.lock().remove(&node);
        if orphan.is_some() {
            self.orphan_count.fetch_sub(1, Relaxed);
        }
    }

    /// The kernel has forgotten every node.
    pub fn clear(&self) {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        self.orphan_count.store(0, Relaxed);
        drop(orphans);
        self.remembered.lock().clear();
        self.cache.iter().for_each(|shard| shard.lock().clear());
    }

    /// Closes every cached descriptor of the volume.
    pub fn drop_volume(&self, volume: VolumeId) {
        for shard in &self.cache {
            let mut shard = shard.lock();
            let keys: Vec<Key> =
                shard.iter().map(|(key, _)| *key).filter(|key| key.0 == volume).collect();
            let dropped: Vec<_> = keys.iter().filter_map(|key| shard.pop(key)).collect();
            drop(shard);
            drop(dropped);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered_count(&self) -> usize {
        self.remembered.lock().len()
    }

    fn orphan(&self, node: NodeId) -> Option<Arc<Held>> {
        if self.orphan_count.load(Relaxed) == 0 {
            return None;
        }
        self.orphans.lock().get(&node).map(|orphan| Arc::clone(&orphan.file))
    }

    fn shard(&self, (volume, ino): Key) -> &Mutex<LruCache<Key, Arc<Held>>> {
        &self.cache[(volume.0 ^ ino) as usize % SHARDS]
    }
}

/// The path under which the kernel reaches a descriptor's own file, whatever its type.
pub fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
