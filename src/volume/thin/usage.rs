//! What a volume holds of its own: blocks from the pool's metadata, inodes from the filesystem.
//!
//! Takes no lock that a mount or mkfs holds. The pool has one metadata snapshot, so comparisons
//! take turns; each needs about a millisecond and what the two volumes don't share. A number that
//! was computed a moment ago is given again, unless the volume was flushed or sealed since.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{metadata_error, pool_error};
use super::reconcile::thin_id;
use super::{ThinBackend, odd};
use crate::thin::ThinId;
use crate::thin::metadata::{self, ThinDetails, View};
use crate::thin::node::Nodes;
use crate::thin::pool::Pool;
use crate::types::Volume;
use crate::volume::{Error, Result, Share, Shares};

/// How long a number stays good: the collector of container statistics asks every 10 s.
const KEEP: Duration = Duration::from_secs(3);
/// Above this many numbers the outdated ones are dropped.
const SWEEP_ABOVE: usize = 4096;

/// Reads the pool's metadata, one metadata snapshot at a time.
#[derive(Debug, Default)]
pub(super) struct Meter {
    blocks: Mutex<HashMap<ThinId, Measured>>,
    inodes: Mutex<HashMap<ThinId, u64>>,
    /// The template that a volume without origin began as, where there was a choice.
    bases: Mutex<HashMap<ThinId, ThinId>>,
    /// The last walk over all of the pool's mappings.
    shares: Mutex<Option<(Instant, Arc<metadata::Shares>)>>,
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
        self.bases.lock().remove(&thin);
    }
}

impl ThinBackend {
    /// How many data blocks `thin` has that `base` hasn't.
    pub(super) fn own_blocks(
        &self,
        thin: ThinId,
        base: Option<ThinId>,
        cancel: &AtomicBool,
    ) -> Result<Option<u64>> {
        self.meter.exclusive_blocks(&self.pool, &self.nodes, thin, base, cancel)
    }

    /// What a volume's usage is measured against, with its size: its origin, or the template that it began as.
    pub(super) fn base_of(
        &self,
        volume: &Volume,
        origin: Option<&Volume>,
        cancel: &AtomicBool,
    ) -> Result<Option<(ThinId, u64)>> {
        if let Some(origin) = origin {
            return Ok(Some((thin_id(origin)?, origin.size)));
        }
        let templates = self.book.record().templates;
        let small_enough = templates.iter().filter(|t| t.size <= volume.size);
        let candidates: Vec<_> =
            small_enough.filter_map(|t| Some((ThinId::new(t.thin_id)?, t.size))).collect();
        match candidates[..] {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            _ => self.nearest(thin_id(volume)?, &candidates, cancel).map(Some),
        }
    }

    /// The template that the volume shares most with: no record says which it was, and it may have grown since.
    fn nearest(
        &self,
        thin: ThinId,
        candidates: &[(ThinId, u64)],
        cancel: &AtomicBool,
    ) -> Result<(ThinId, u64)> {
        let known = self.meter.bases.lock().get(&thin).copied();
        if let Some(&found) = candidates.iter().find(|(id, _)| Some(*id) == known) {
            return Ok(found);
        }
        let count = |&(base, size): &(ThinId, u64)| {
            let own = read(&self.pool, &self.nodes, |view| {
                view.exclusive_blocks(thin, Some(base), cancel)
            });
            own.map(|own| (own.unwrap_or(u64::MAX), (base, size)))
        };
        let counted = candidates.iter().map(count).collect::<Result<Vec<_>>>()?;
        let (_, found) = counted
            .into_iter()
            .min_by_key(|(own, (base, _))| (*own, *base))
            .ok_or_else(|| odd("measuring", "no template to measure against".to_owned()))?;
        self.meter.bases.lock().insert(thin, found.0);
        Ok(found)
    }

    /// Whose the pool's blocks are. One walk serves everybody who asks within [`KEEP`], and only one runs.
    pub(super) fn shares_of(&self, volumes: &[Volume], cancel: &AtomicBool) -> Result<Shares> {
        let found = self.walk_shares(cancel)?;
        let block = self.pool.table().block.bytes();
        let mut shares = Shares { shared: found.shared * block, ..Shares::default() };
        for volume in volumes {
            let thin = thin_id(volume)?;
            let (Some(alone), Some(mapped)) = (found.exclusive.get(&thin), found.mapped.get(&thin))
            else {
                continue;
            };
            let share =
                Share { exclusive: alone * block, shared: mapped.saturating_sub(*alone) * block };
            shares.volumes.push((volume.id, share));
        }
        let alone: u64 = found.exclusive.values().sum();
        shares.used = (alone + found.shared) * block;
        let listed: u64 = shares.volumes.iter().map(|(_, share)| share.exclusive).sum();
        shares.others = alone * block - listed;
        Ok(shares)
    }

    fn walk_shares(&self, cancel: &AtomicBool) -> Result<Arc<metadata::Shares>> {
        let mut last = self.meter.shares.lock();
        if let Some((at, shares)) = &*last
            && at.elapsed() < KEEP
        {
            return Ok(shares.clone());
        }
        let shares = Arc::new(read(&self.pool, &self.nodes, |view| view.shares(cancel))?);
        *last = Some((Instant::now(), shares.clone()));
        Ok(shares)
    }
}

/// Every thin device of the pool.
pub(super) fn list(pool: &Pool, nodes: &Nodes) -> Result<Vec<ThinDetails>> {
    read(pool, nodes, |view| view.thins())
}

/// Reserves a metadata snapshot, reads from it, releases it.
pub(super) fn read<T>(
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
