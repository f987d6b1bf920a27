//! Files that the kernel reads and writes itself (FUSE passthrough).
//!
//! The kernel demands that all who have a file open at one time go the same way: all by one backing id, or
//! none by any. So the first open of a node decides, and the last close forgets. The kernel lets go of a
//! file before it tells us, so that we never forget earlier than it does.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::proto::BackingId;
use crate::fs::types::NodeId;

const SHARDS: usize = 16;

/// The open nodes, and how each is read and written.
#[derive(Debug)]
pub struct Backings {
    offered: bool,
    shards: [Mutex<HashMap<NodeId, Way>>; SHARDS],
}

#[derive(Debug)]
struct Way {
    backing: Option<Arc<BackingId>>,
    opens: usize,
}

impl Backings {
    /// `offered`: whether the kernel has agreed to passthrough.
    pub fn new(offered: bool) -> Self {
        Self { offered, shards: Default::default() }
    }

    /// A node is opened: by this backing id, or if `None` by requests. `register` gets a new id; it is
    /// called under the lock of the shard, and must not wait.
    pub fn open(
        &self,
        node: NodeId,
        register: impl FnOnce() -> rustix::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let mut shard = self.shard(node).lock();
        let way =
            shard.entry(node).or_insert_with(|| Way { backing: self.register(register), opens: 0 });
        way.opens += 1;
        way.backing.clone()
    }

    /// A node that was opened before this daemon was there: by this backing id, or if `None` by requests.
    pub fn reopen(&self, node: NodeId, backing: Option<impl FnOnce() -> BackingId>) {
        let mut shard = self.shard(node).lock();
        let way = shard
            .entry(node)
            .or_insert_with(|| Way { backing: backing.map(|adopt| Arc::new(adopt())), opens: 0 });
        way.opens += 1;
    }

    fn register(
        &self,
        register: impl FnOnce() -> rustix::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.offered {
            return None;
        }
        register()
            .inspect_err(|error| tracing::debug!(%error, "no passthrough for this file"))
            .ok()
            .map(Arc::new)
    }

    /// A node is closed once. Says whether it was open by a backing id.
    pub fn close(&self, node: NodeId) -> bool {
        let mut shard = self.shard(node).lock();
        let Some(way) = shard.get_mut(&node) else { return false };
        way.opens -= 1;
        let passed = way.backing.is_some();
        let last = if way.opens == 0 { shard.remove(&node) } else { None };
        drop(shard);
        drop(last);
        passed
    }

    fn shard(&self, node: NodeId) -> &Mutex<HashMap<NodeId, Way>> {
        &self.shards[node.ino() as usize % SHARDS]
    }
}
