//! The volumes used last, which stay activated without a pin.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::pin::Active;
use crate::types::VolumeId;

/// Keeps at most `limit` volumes activated. Pins keep theirs activated beside it.
///
/// A file operation must not take a lock to be remembered, so it only sets a mark
/// ([`Active::mark_used`]); eviction passes marked volumes over once, and pinned ones as long as
/// there are others.
#[derive(Debug)]
pub(super) struct Idle {
    limit: usize,
    order: Mutex<LruCache<VolumeId, Arc<Active>>>,
}

impl Idle {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, order: Mutex::new(LruCache::unbounded()) }
    }

    /// Keeps a volume. What must go for it is returned, for the caller to drop outside all locks.
    #[must_use]
    pub(super) fn keep(&self, active: Arc<Active>) -> Vec<Arc<Active>> {
        let mut order = self.order.lock();
        let mut evicted: Vec<_> = order.put(active.id(), active).into_iter().collect();
        while order.len() > self.limit {
            evicted.extend(evict(&mut order));
        }
        evicted
    }

    /// Keeps a volume no longer. The caller drops the answer outside all locks.
    #[must_use]
    pub(super) fn forget(&self, id: VolumeId) -> Option<Arc<Active>> {
        self.order.lock().pop(&id)
    }

    /// Keeps nothing. The caller drops the answer outside all locks.
    #[must_use]
    pub(super) fn clear(&self) -> Vec<Arc<Active>> {
        let mut order = self.order.lock();
        std::iter::from_fn(|| order.pop_lru()).map(|(_, active)| active).collect()
    }

    pub(super) fn contains(&self, id: VolumeId) -> bool {
        self.order.lock().contains(&id)
    }
}

/// Two rounds: the first takes marks away. When all are pinned the oldest goes: it lives as long
/// as its pins.
fn evict(order: &mut LruCache<VolumeId, Arc<Active>>) -> Option<Arc<Active>> {
    for _ in 0..2 * order.len() {
        let (id, active) = order.pop_lru()?;
        let pinned = Arc::strong_count(&active) > 1;
        if !pinned && !active.take_used() {
            return Some(active);
        }
        order.put(id, active);
    }
    order.pop_lru().map(|(_, active)| active)
}
