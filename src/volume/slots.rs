//! Which volumes are activated, or about to be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::backend::Mounted;
use super::pin::Active;
use crate::types::{Volume, VolumeId};

/// Shares of the map, so that threads that work on different volumes rarely meet.
const SHARDS: usize = 16;

/// The place where one volume is activated and deactivated. Exists only as long as there is
/// something to remember.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: VolumeId,
    /// Held while the backend works on the volume: so one activation at a time, and a pin that
    /// comes during a deactivation waits for it. Before all other locks but other slots', of which
    /// nobody holds two.
    pub(super) op: Mutex<Op>,
    /// [`Active`]s whose root isn't closed yet. Deactivation needs 0.
    open: AtomicUsize,
}

/// What a slot's lock protects.
#[derive(Debug, Default)]
pub(super) struct Op {
    /// The activation as the backend gave it.
    pub(super) mounted: Option<(Volume, Mounted)>,
    /// No longer in the map: look it up again.
    pub(super) dead: bool,
}

impl Slot {
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) != 0
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Release);
    }
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    live: Weak<Active>,
    /// No new pins: the volume is being removed.
    closed: bool,
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    shards: [RwLock<HashMap<VolumeId, Entry>>; SHARDS],
}

impl Slots {
    fn shard(&self, id: VolumeId) -> &RwLock<HashMap<VolumeId, Entry>> {
        &self.shards[id.0 as usize % SHARDS]
    }

    /// The activated volume, unless it is being removed.
    pub(super) fn live(&self, id: VolumeId) -> Option<Arc<Active>> {
        let shard = self.shard(id).read();
        shard.get(&id).filter(|entry| !entry.closed)?.live.upgrade()
    }

    /// The activated volume, in any case.
    pub(super) fn live_or_closing(&self, id: VolumeId) -> Option<Arc<Active>> {
        self.shard(id).read().get(&id)?.live.upgrade()
    }

    pub(super) fn get(&self, id: VolumeId) -> Option<Arc<Slot>> {
        self.shard(id).read().get(&id).map(|entry| entry.slot.clone())
    }

    pub(super) fn get_or_insert(&self, id: VolumeId) -> Arc<Slot> {
        if let Some(slot) = self.get(id) {
            return slot;
        }
        let new = || Entry {
            slot: Arc::new(Slot { id, op: Mutex::default(), open: AtomicUsize::new(0) }),
            live: Weak::new(),
            closed: false,
        };
        self.shard(id).write().entry(id).or_insert_with(new).slot.clone()
    }

    /// Makes an activation known. With the slot's lock held.
    pub(super) fn publish(&self, active: &Arc<Active>) {
        if let Some(entry) = self.shard(active.id()).write().get_mut(&active.id()) {
            entry.live = Arc::downgrade(active);
        }
    }

    /// Gives no new pins from now on.
    pub(super) fn close(&self, id: VolumeId) {
        if let Some(entry) = self.shard(id).write().get_mut(&id) {
            entry.closed = true;
        }
    }

    /// Forgets a slot that has nothing to remember. With the slot's lock held.
    pub(super) fn discard(&self, id: VolumeId, op: &mut Op) {
        self.shard(id).write().remove(&id);
        op.dead = true;
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        let slots = |shard: &RwLock<HashMap<_, Entry>>| {
            shard.read().values().map(|entry| entry.slot.clone()).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(slots).collect()
    }
}
