//! Files that the kernel reads and writes itself (FUSE passthrough).
//!
//! The kernel demands that all who have a file open at one time go the same way: all by one backing id, or
//! none by any. So the first open of a node decides, until the last close. The kernel lets go of a
//! file before it tells us, so that we never forget earlier than it does.
//!
//! ```text
//!            ┌─ open by it ◀──────────┐
//! registered ┤    │ last close       │ open
//!            │    ▼                  │
//!            └─ kept with the file's descriptor ──▶ given back
//!                     (cache full, forgotten, without a name, volume deactivated)
//! ```

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ledger::Ledger;
use super::proto::{BackingId, Device};
use crate::crashpoint::{Step, around};
use crate::fs::Hold;
use crate::fs::types::NodeId;

const SHARDS: usize = 16;

/// A file that the kernel may read and write by itself until this is dropped, known to a successor.
#[derive(Debug)]
pub struct Registered {
    /// There until the drop.
    id: Option<BackingId>,
    number: u32,
    ledger: Option<Arc<Ledger>>,
}

impl Registered {
    /// Registers a file.
    pub fn new(
        device: &Arc<Device>,
        ledger: Option<&Arc<Ledger>>,
        file: impl AsFd,
    ) -> rustix::io::Result<Self> {
        let id = around(Step::HoldFile, || BackingId::register(device, file))?;
        if let Some(ledger) = ledger {
            ledger.record_backing(id.number());
        }
        Ok(Self { number: id.number(), id: Some(id), ledger: ledger.cloned() })
    }

    /// One that a daemon before this one registered.
    pub fn adopt(device: &Arc<Device>, ledger: Option<&Arc<Ledger>>, number: u32) -> Self {
        Self { id: Some(BackingId::adopt(device, number)), number, ledger: ledger.cloned() }
    }
}

impl Hold for Registered {
    fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Registered {
    /// Given back first: a successor may well give back once more what the kernel doesn't have any more, but not leave
    /// what it has.
    fn drop(&mut self) {
        around(Step::LetFileGo, || drop(self.id.take()));
        if let Some(ledger) = &self.ledger {
            ledger.erase(self.number.into());
        }
    }
}

/// The open nodes, and how each is read and written.
#[derive(Debug)]
pub struct Backings {
    offered: bool,
    shards: [Mutex<HashMap<NodeId, Way>>; SHARDS],
}

#[derive(Debug)]
struct Way {
    backing: Option<Arc<dyn Hold>>,
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
        register: impl FnOnce() -> rustix::io::Result<Arc<dyn Hold>>,
    ) -> Option<Arc<dyn Hold>> {
        let mut shard = self.shard(node).lock();
        let way =
            shard.entry(node).or_insert_with(|| Way { backing: self.register(register), opens: 0 });
        way.opens += 1;
        way.backing.clone()
    }

    /// A node that was opened before this daemon was there: by this backing id, or if `None` by requests.
    pub fn reopen(&self, node: NodeId, backing: Option<Arc<dyn Hold>>) {
        let mut shard = self.shard(node).lock();
        shard.entry(node).or_insert(Way { backing, opens: 0 }).opens += 1;
    }

    fn register(
        &self,
        register: impl FnOnce() -> rustix::io::Result<Arc<dyn Hold>>,
    ) -> Option<Arc<dyn Hold>> {
        if !self.offered {
            return None;
        }
        register().inspect_err(|error| tracing::debug!(%error, "no passthrough for this file")).ok()
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
