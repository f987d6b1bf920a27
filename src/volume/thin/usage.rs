//! What a volume holds of its own: blocks from the pool's metadata, inodes from the filesystem.
//!
//! Takes no lock that a mount or mkfs holds. The pool has one metadata snapshot, so comparisons
//! take turns; each needs about a millisecond and what the two volumes don't share. A number that
//! was computed a moment ago is given again, unless the volume was flushed or sealed since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{metadata_error, pool_error};
use crate::thin::ThinId;
use crate::thin::metadata::{self, ThinDetails, View};
use crate::thin::node::Nodes;
use crate::thin::pool::Pool;
use crate::volume::{Error, Result};

/// How long a number stays good: the collector of container statistics asks every 10 s.
const KEEP: Duration = Duration::from_secs(3);
/// Above this many numbers the outdated ones are dropped.
const SWEEP_ABOVE: usize = 4096;

/// Reads the pool's metadata, one metadata snapshot at a time.
#[derive(Debug, Default)]
pub(super) struct Meter {
    blocks: Mutex<HashMap<ThinId, Measured>>,
    inodes: Mutex<HashMap<ThinId, u64>>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    origin: Option<ThinId>,
    blocks: u64,
}

impl Meter {
    /// How many data blocks `thin` has of its own. `None`: no such thin device.
    pub(super) fn exclusive_blocks(
        &self,
        pool: &Pool,
        nodes: &Nodes,
        thin: ThinId,
        origin: Option<ThinId>,
        cancel: &AtomicBool,
    ) -> Result<Option<u64>> {
        if let Some(known) = self.recent(thin, origin) {
            return Ok(Some(known));
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled("measuring usage was cancelled".to_owned()));
        }
        let at = Instant::now();
        let counted = read(pool, nodes, |view| view.exclusive_blocks(thin, origin, cancel))?;
        if let Some(blocks) = counted {
            self.remember(thin, Measured { at, origin, blocks });
        }
        Ok(counted)
    }

    fn recent(&self, thin: ThinId, origin: Option<ThinId>) -> Option<u64> {
        let blocks = self.blocks.lock();
        let known = blocks.get(&thin)?;
        (known.origin == origin && known.at.elapsed() < KEEP).then_some(known.blocks)
    }

    fn remember(&self, thin: ThinId, measured: Measured) {
        let mut blocks = self.blocks.lock();
        if blocks.len() > SWEEP_ABOVE {
            blocks.retain(|_, known| known.at.elapsed() < KEEP);
        }
        blocks.insert(thin, measured);
    }

    /// The volume has changed on the device: measure again when asked.
    pub(super) fn outdate(&self, thin: ThinId) {
        self.blocks.lock().remove(&thin);
    }

    /// Inodes in use when last seen.
    pub(super) fn inodes(&self, thin: ThinId) -> Option<u64> {
        self.inodes.lock().get(&thin).copied()
    }

    /// Keeps a count of inodes in use.
    pub(super) fn saw_inodes(&self, thin: ThinId, used: u64) {
        self.inodes.lock().insert(thin, used);
    }

    /// The thin device is gone.
    pub(super) fn forget(&self, thin: ThinId) {
        self.outdate(thin);
        self.inodes.lock().remove(&thin);
    }
}

/// Every thin device of the pool.
pub(super) fn list(pool: &Pool, nodes: &Nodes) -> Result<Vec<ThinDetails>> {
    read(pool, nodes, |view| view.thins())
}

/// Reserves a metadata snapshot, reads from it, releases it.
fn read<T>(
    pool: &Pool,
    nodes: &Nodes,
    work: impl FnOnce(&View<'_>) -> metadata::Result<T>,
) -> Result<T> {
    let context = "reading the pool's metadata";
    let path = nodes
        .path(pool.table().metadata)
        .map_err(|e| super::error::io("finding the pool's metadata device", e))?;
    let held = pool
        .reserve_metadata_snapshot()
        .map_err(|e| pool_error("reserving a metadata snapshot", e))?;
    let device = metadata::open(&path).map_err(|e| metadata_error(context, e))?;
    let result = View::open(&device, held.block()).and_then(|view| work(&view));
    tracing::debug!(blocks = device.reads(), "read the pool's metadata");
    result.map_err(|e| metadata_error(context, e))
}
