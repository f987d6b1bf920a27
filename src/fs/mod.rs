//! The file tree: what the mount point shows, without FUSE and without a store.
//!
//! ```text
//! /active/<key>/…  /view/<key>/…  /committed/<name>/…      the namespace that the root shows
//! /.ns/<namespace>/{active,view,committed}/…               the other namespaces
//! /images/<name>                                           a symlink to an image's topmost layer
//! ```
//!
//! [`Fs`] answers one method an operation, in plain types ([`types`]); `fuse/` translates. It holds no table
//! of files: a node id says which snapshot and which inode ([`types::NodeId`]), and the node is found again
//! from that ([`nodes`]). Every operation pins the volume that it works on ([`slots`]); an open file keeps it
//! pinned, and one open for writing counts as a writer, for which a commit waits.
//!
//! Invariants
//! - An operation that would have to wait for a device or the store, for a caller that may not, answers
//!   [`Error::WouldWait`] and has changed nothing: it is asked again by a thread that may.
//! - Only the daemon changes what is below a snapshot, and the kernel knows of each change: it made it, or
//!   it is told ([`invalidate`]). So names (also absent ones) and attributes hold for ever, except
//!   - absent names in virtual directories, where snapshots come from elsewhere too;
//!   - attributes of files with set-user-id or set-group-id bits, and of files mapped for writing past us;
//!   - what [`lookup`] guesses of the root of a snapshot that nobody has looked into.
//! - Who may do what is the kernel's decision (`default_permissions`), made before we are asked. We act as
//!   root, but what is created is the caller's own ([`crate::sys::creds`]).
//! - Backing filesystems are reached by one name component at a time, never following a symlink.

pub mod attributes;
pub mod error;
mod images;
mod invalidate;
mod listing;
mod lookup;
mod make;
mod manage;
mod mapped;
mod nameless;
pub mod names;
mod nodes;
mod open;
mod privileges;
mod remove;
mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
pub mod types;
mod watch;
mod xattr;

use std::sync::Arc;

pub use error::{Error, Result};
pub use invalidate::{Invalidator, Kernel, Notice};
pub use listing::Sink;
pub use nodes::Hold;
pub use open::{Asked, Opened};

use nodes::Nodes;
use open::OpenFiles;
use slots::{At, Slots};
use tree::{Place, Tree};
use types::{Caller, NodeId, Space};

use crate::snapshot::Snapshots;
use crate::types::{Namespace, VolumeId};
use crate::volume::Cache;

/// How the tree is shown.
#[derive(Debug, Clone)]
pub struct Config {
    /// The namespace whose snapshots stand in the root.
    pub shown: Namespace,
    /// Permissions of the directories that hold snapshots. 0700 keeps unprivileged users of the host away
    /// from the files (and set-user-id programs) inside all snapshots.
    pub permissions: u32,
    /// How many descriptors are cached.
    pub descriptors: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { shown: Namespace::default(), permissions: 0o755, descriptors: 4096 }
    }
}

/// The file tree.
#[derive(Debug)]
pub struct Fs {
    snapshots: Arc<Snapshots>,
    tree: Tree,
    cached: Arc<Descriptors>,
    open: OpenFiles,
    budget: lookup::Budget,
    invalidator: Arc<Invalidator>,
}

/// What must go before a volume can be deactivated.
#[derive(Debug)]
struct Descriptors {
    slots: Slots,
    nodes: Nodes,
}

impl Cache for Descriptors {
    fn drop_volume(&self, id: VolumeId) {
        self.slots.release_roots(id);
        self.nodes.drop_volume(id);
    }
}

impl Fs {
    /// A tree over these snapshots. It watches them from now on.
    pub fn new(snapshots: Arc<Snapshots>, config: Config) -> Arc<Self> {
        let cached = Arc::new(Descriptors {
            slots: Slots::default(),
            nodes: Nodes::new(config.descriptors),
        });
        snapshots.volumes().register_cache(Arc::clone(&cached) as Arc<dyn Cache>);
        let fs = Arc::new(Self {
            tree: Tree::new(config.shown, config.permissions),
            cached,
            open: OpenFiles::default(),
            budget: lookup::Budget::default(),
            invalidator: Arc::default(),
            snapshots,
        });
        watch::start(&fs);
        fs
    }

    /// Where the kernel is told of changes; whoever changes snapshots by another way than the mount waits
    /// there for the mount to show it.
    pub fn invalidator(&self) -> &Arc<Invalidator> {
        &self.invalidator
    }

    /// The kernel forgets a node that it was told of `lookups` times. To drop what this gives back may take
    /// time.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<impl Send + 'static> {
        if let Some(slot) = node.snapshot().and_then(|snapshot| self.cached.slots.get(snapshot)) {
            self.cached.nodes.uncache(slot.volume, node);
        }
        self.cached.nodes.forget(node, lookups)
    }

    /// Whether the node's volume is activated; activates it if the caller may wait.
    pub fn ready(&self, caller: &Caller, node: NodeId) -> Result<()> {
        if self.place(node).is_some() {
            return Ok(());
        }
        self.at(caller, node).map(drop)
    }

    /// Nobody will ask any more: lets go of all volumes.
    pub fn disconnect(&self) {
        self.open.clear();
        self.cached.nodes.clear();
    }

    /// Free space: of the snapshot's own filesystem, or above the snapshots of the whole pool.
    pub fn space(&self, caller: &Caller, node: NodeId) -> Result<Space> {
        if node.snapshot().is_none() {
            return self.pool_space();
        }
        let at = self.at(caller, node)?;
        let space = rustix::fs::fstatvfs(at.pin.root())?;
        Ok(Space {
            block_size: space.f_frsize as u32,
            blocks: space.f_blocks,
            free: space.f_bfree,
            available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
        })
    }

    fn pool_space(&self) -> Result<Space> {
        let capacity = self.snapshots.volumes().backend().capacity()?;
        let block_size =
            u32::try_from(capacity.block_size).ok().filter(|size| *size > 0).unwrap_or(4096);
        let blocks = |bytes: u64| bytes / u64::from(block_size);
        let free = blocks(capacity.total.saturating_sub(capacity.used));
        Ok(Space {
            block_size,
            blocks: blocks(capacity.total),
            free,
            available: free,
            files: 0,
            files_free: 0,
        })
    }

    /// The node with its volume pinned.
    fn at(&self, caller: &Caller, node: NodeId) -> Result<At> {
        if let Some(at) = self.cached.slots.at_once(&self.snapshots, node)? {
            return Ok(at);
        }
        if !caller.may_wait {
            return Err(Error::WouldWait);
        }
        self.cached.slots.activate(&self.snapshots, node)
    }

    fn place(&self, node: NodeId) -> Option<Place> {
        self.tree.place(node)
    }
}
