//! A set of volume ids that stays small over millions of them.

use std::collections::HashMap;

use crate::types::VolumeId;

/// Ids are given out in order and never again, so those of one block of 64 tend to be in together:
/// one bit each.
#[derive(Debug, Default)]
pub(super) struct IdSet {
    blocks: HashMap<u32, u64>,
}

impl IdSet {
    pub(super) fn insert(&mut self, id: VolumeId) {
        *self.blocks.entry(id.0 / 64).or_default() |= 1 << (id.0 % 64);
    }

    pub(super) fn contains(&self, id: VolumeId) -> bool {
        self.blocks.get(&(id.0 / 64)).is_some_and(|bits| bits & 1 << (id.0 % 64) != 0)
    }
}
