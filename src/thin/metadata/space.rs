//! Who has which data blocks alone: all mapping trees walked once, shared nodes once.
//!
//! A snapshot shares whole subtrees with its origin, so a data block is somebody's alone only if every node on the way to
//! it is, too. The kernel's own counters don't help: a metadata snapshot comes without the space maps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::block::{Checksum, MetadataDevice};
use super::btree::{self, Node};
use super::diff::TIME_BITS;
use super::{Error, FirstBlock, Result, View, first_block};
use crate::thin::ThinId;

/// Where the superblock keeps the data space map's number of blocks.
const DATA_BLOCKS: usize = 64;

/// How many data blocks the pool on this metadata device has; 0 on a blank one.
pub fn data_blocks(device: &MetadataDevice) -> Result<u64> {
    match first_block(device)? {
        FirstBlock::Superblock => Ok(device.read(0, Checksum::Superblock)?.u64(DATA_BLOCKS)),
        FirstBlock::Blank | FirstBlock::Other => Ok(0),
    }
}

/// Which data blocks of a pool are one thin device's alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Data blocks that each thin device has alone: what deleting it would free.
    pub exclusive: HashMap<ThinId, u64>,
    /// Data blocks that each maps, its own and shared ones.
    pub mapped: HashMap<ThinId, u64>,
    /// Data blocks that more than one maps; each counted once.
    pub shared: u64,
}

/// How often a node is referred to; more than once is enough to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Once,
    Often,
}

/// Data blocks that were seen once and more than once: two bits each.
#[derive(Debug, Default)]
struct Blocks {
    once: Vec<u64>,
    often: Vec<u64>,
    /// How many different ones.
    count: u64,
}

impl Blocks {
    fn see(&mut self, block: u64) -> Result<()> {
        let at = usize::try_from(block / 64)
            .map_err(|_| Error::Damaged { block, why: "is beyond any pool".to_owned() })?;
        let bit = 1 << (block % 64);
        if at >= self.once.len() {
            self.once.resize(at + 1, 0);
            self.often.resize(at + 1, 0);
        }
        match self.once[at] & bit == 0 {
            true => self.count += 1,
            false => self.often[at] |= bit,
        }
        self.once[at] |= bit;
        Ok(())
    }

    fn is_once(&self, block: u64) -> bool {
        let (at, bit) = ((block / 64) as usize, 1 << (block % 64));
        self.once.get(at).is_some_and(|word| word & bit != 0) && self.often[at] & bit == 0
    }
}

impl View<'_> {
    /// Walks every mapping tree. Reads each node once, and those that are not shared twice.
    pub fn shares(&self, cancel: &AtomicBool) -> Result<Shares> {
        let mut roots = Vec::new();
        btree::walk::<8>(self.device, self.mapping_root, &mut |block, key, root| {
            roots.push((super::thin_of(block, key)?, u64::from_le_bytes(*root)));
            Ok(())
        })?;
        let mut walk =
            Walk { device: self.device, cancel, nodes: HashMap::new(), blocks: Blocks::default() };
        for (_, root) in &roots {
            walk.see(*root)?;
        }
        let mut shares = Shares::default();
        for (thin, root) in roots {
            shares.exclusive.insert(thin, walk.alone(root)?);
        }
        let alone: u64 = shares.exclusive.values().sum();
        shares.shared = walk.blocks.count - alone;
        shares.mapped =
            self.thins()?.into_iter().map(|thin| (thin.id, thin.mapped_blocks)).collect();
        Ok(shares)
    }
}

struct Walk<'a> {
    device: &'a MetadataDevice,
    cancel: &'a AtomicBool,
    nodes: HashMap<u64, Seen>,
    blocks: Blocks,
}

impl Walk<'_> {
    /// Counts what is below `root`; what is below a node that was seen already has been counted.
    fn see(&mut self, root: u64) -> Result<()> {
        let mut pending = vec![root];
        while let Some(number) = pending.pop() {
            if let Some(seen) = self.nodes.get_mut(&number) {
                *seen = Seen::Often;
                continue;
            }
            self.nodes.insert(number, Seen::Once);
            let node = self.read(number)?;
            for index in 0..node.len() {
                let value = node.number_at(index);
                match node.is_leaf() {
                    true => self.blocks.see(value >> TIME_BITS)?,
                    false => pending.push(value),
                }
            }
        }
        Ok(())
    }

    /// Data blocks that can be reached from `root` only.
    fn alone(&self, root: u64) -> Result<u64> {
        let (mut pending, mut count) = (vec![root], 0);
        while let Some(number) = pending.pop() {
            if self.nodes.get(&number) != Some(&Seen::Once) {
                continue;
            }
            let node = self.read(number)?;
            let values = (0..node.len()).map(|index| node.number_at(index));
            match node.is_leaf() {
                true => {
                    count += values.filter(|value| self.blocks.is_once(value >> TIME_BITS)).count()
                        as u64;
                }
                false => pending.extend(values),
            }
        }
        Ok(count)
    }

    fn read(&self, number: u64) -> Result<Node> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Node::read(self.device, number, 8),
        }
    }
}
