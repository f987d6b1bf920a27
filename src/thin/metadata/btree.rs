//! The kernel's persistent btree: nodes, lookup, ordered walk.
//!
//! A node is a header of 32 bytes, then `max_entries` keys of 8 bytes, then as many values. In an
//! inner node a value is the number of a child block, and key `i` is not above the first key of
//! child `i`.

use super::block::{Checksum, MetadataDevice, damaged};
use super::{Error, Result};
use crate::sys::direct::{BLOCK_SIZE, Block};

const HEADER: usize = 32;
const FLAG_INNER: u32 = 1;
const FLAG_LEAF: u32 = 2;
/// 2^64 keys don't need more, so a deeper tree is a loop in damaged metadata.
const MAX_DEPTH: usize = 32;

/// A node that has been checked.
pub(super) struct Node {
    number: u64,
    block: Box<Block>,
    /// Entries in use.
    len: usize,
    /// Room for entries, which tells where values begin.
    room: usize,
    /// Its values are the data, not children.
    leaf: bool,
}

impl Node {
    /// Reads a node whose values, if it is a leaf, are `value_size` bytes.
    pub(super) fn read(device: &MetadataDevice, number: u64, value_size: usize) -> Result<Self> {
        let block = device.read(number, Checksum::Node)?;
        let leaf = match block.u32(4) & (FLAG_INNER | FLAG_LEAF) {
            FLAG_LEAF => true,
            FLAG_INNER => false,
            _ => return Err(damaged(number, "is neither leaf nor inner node")),
        };
        let (len, room) = (block.u32(16) as usize, block.u32(20) as usize);
        let size = block.u32(24) as usize;
        if size != if leaf { value_size } else { 8 } {
            return Err(Error::Damaged {
                block: number,
                why: format!("has values of {size} bytes"),
            });
        }
        if len > room || HEADER + room * (8 + size) > BLOCK_SIZE {
            return Err(damaged(number, "claims more entries than fit"));
        }
        Ok(Self { number, block, len, room, leaf })
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.leaf
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn key(&self, index: usize) -> u64 {
        self.block.u64(HEADER + index * 8)
    }

    /// The value of `N` bytes at `index`; `N` is what [`Node::read`] checked.
    pub(super) fn value<const N: usize>(&self, index: usize) -> [u8; N] {
        let at = HEADER + self.room * 8 + index * N;
        std::array::from_fn(|i| self.block.bytes()[at + i])
    }

    /// A child block, or a leaf's value of 8 bytes.
    pub(super) fn number_at(&self, index: usize) -> u64 {
        u64::from_le_bytes(self.value(index))
    }

    /// The last entry whose key is at most `key`.
    fn lower_bound(&self, key: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }
}

/// Finds the value of a key, and the leaf that holds it.
pub(super) fn find<const N: usize>(
    device: &MetadataDevice,
    root: u64,
    key: u64,
) -> Result<Option<(u64, [u8; N])>> {
    let mut number = root;
    for _ in 0..MAX_DEPTH {
        let node = Node::read(device, number, N)?;
        let Some(index) = node.lower_bound(key) else { return Ok(None) };
        if node.leaf {
            let found = node.key(index) == key;
            return Ok(found.then(|| (node.number, node.value(index))));
        }
        number = node.number_at(index);
    }
    Err(damaged(root, "is the root of a tree without end"))
}

/// Takes a leaf's block, a key in it and its value.
pub(super) type Visit<'a, const N: usize> = dyn FnMut(u64, u64, &[u8; N]) -> Result<()> + 'a;

/// Calls `visit` with each leaf's block, key and value, in order of keys.
pub(super) fn walk<const N: usize>(
    device: &MetadataDevice,
    root: u64,
    visit: &mut Visit<'_, N>,
) -> Result<()> {
    let mut pending = vec![(root, 0)];
    while let Some((number, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            return Err(damaged(root, "is the root of a tree without end"));
        }
        let node = Node::read(device, number, N)?;
        if node.leaf {
            for index in 0..node.len {
                visit(number, node.key(index), &node.value(index))?;
            }
        } else {
            pending.extend((0..node.len).rev().map(|index| (node.number_at(index), depth + 1)));
        }
    }
    Ok(())
}
