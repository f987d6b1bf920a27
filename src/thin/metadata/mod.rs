//! The pool's metadata, read in process from a metadata snapshot: which thin devices exist, and
//! how many blocks one has that another doesn't share.
//!
//! Reads only. Knows the on-disk format of the kernel's `dm-thin-metadata.c`:
//!
//! ```text
//! superblock ── device details:  btree  thin id → mapped blocks, transaction id, times
//!            └─ data mapping:    btree  thin id → root of btree  thin block → (data block, time)
//! ```
//! Blocks are 4 KiB; each carries a checksum and its own number, and both are checked.

mod block;
mod btree;
mod diff;
mod mend;
mod space;

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use block::Checksum;
pub use block::MetadataDevice;
pub use mend::forget_unwritten_snapshot;
pub use space::{Shares, data_blocks};

use super::{Sectors, ThinId};
use crate::sys::direct;
use diff::TIME_BITS;

/// The metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device could not be opened or read.
    #[error("reading {what} of the pool's metadata")]
    Io {
        /// Which part.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A block isn't what its parent says it is.
    #[error("the pool's metadata is damaged: block {block} {why}")]
    Damaged {
        /// The block.
        block: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The caller gave up.
    #[error("reading the pool's metadata was cancelled")]
    Cancelled,
}

/// The result of reading metadata.
pub type Result<T> = std::result::Result<T, Error>;

/// Magic number of the superblock.
const SUPERBLOCK_MAGIC: u64 = 27_022_010;
/// Where the superblock has its flags, and the one that keeps a pool read-only until somebody has checked it.
const FLAGS: usize = 4;
const FLAG_NEEDS_CHECK: u32 = 1;
/// Where the superblock has the size of a data block, in sectors.
const DATA_BLOCK_SIZE: usize = 336;

/// What the details tree says of one thin device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinDetails {
    /// Its id.
    pub id: ThinId,
    /// Data blocks that it maps, shared or not.
    pub mapped_blocks: u64,
    /// The pool's transaction id when it was made.
    pub transaction_id: u64,
    /// The pool's clock when it was made.
    pub creation_time: u32,
    /// The pool's clock when it was last the origin of a snapshot.
    pub snapshotted_time: u32,
}

/// What stands in a device's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBlock {
    /// All zero: the kernel formats it.
    Blank,
    /// The superblock of a thin-pool.
    Superblock,
    /// Something else.
    Other,
}

/// Looks at the first block of a device, without believing that it is a pool's.
pub fn first_block(device: &MetadataDevice) -> Result<FirstBlock> {
    let block = device.read_raw(0)?;
    Ok(if block.bytes().iter().all(|&b| b == 0) {
        FirstBlock::Blank
    } else if block.u64(32) == SUPERBLOCK_MAGIC {
        FirstBlock::Superblock
    } else {
        FirstBlock::Other
    })
}

/// Whether the kernel has noted that this metadata must be checked before it is written again. False on a blank device.
pub fn needs_check(device: &MetadataDevice) -> Result<bool> {
    match first_block(device)? {
        FirstBlock::Superblock => {
            Ok(device.read(0, Checksum::Superblock)?.u32(FLAGS) & FLAG_NEEDS_CHECK != 0)
        }
        FirstBlock::Blank | FirstBlock::Other => Ok(false),
    }
}

/// The metadata as of one superblock. Valid while that superblock's metadata snapshot is held.
#[derive(Debug)]
pub struct View<'a> {
    device: &'a MetadataDevice,
    mapping_root: u64,
    details_root: u64,
    block_size: Sectors,
}

impl<'a> View<'a> {
    /// Opens the metadata below the superblock in `root`: a held root, or 0 for a pool that is
    /// not active.
    pub fn open(device: &'a MetadataDevice, root: u64) -> Result<Self> {
        let block = device.read(root, Checksum::Superblock)?;
        if block.u64(32) != SUPERBLOCK_MAGIC {
            return Err(Error::Damaged { block: root, why: "is no superblock".to_owned() });
        }
        Ok(Self {
            device,
            mapping_root: block.u64(320),
            details_root: block.u64(328),
            block_size: Sectors(block.u32(DATA_BLOCK_SIZE).into()),
        })
    }

    /// The size of the pool's data blocks.
    pub fn block_size(&self) -> Sectors {
        self.block_size
    }

    /// The data block in which `thin` has its block number `block`. `None`: no such thin device, or nothing mapped there.
    pub fn data_block(&self, thin: ThinId, block: u64) -> Result<Option<u64>> {
        let Some(root) = self.mapping_of(thin)? else { return Ok(None) };
        let found = btree::find::<8>(self.device, root, block)?;
        Ok(found.map(|(_, mapping)| u64::from_le_bytes(mapping) >> TIME_BITS))
    }

    /// Every thin device, in order of ids.
    pub fn thins(&self) -> Result<Vec<ThinDetails>> {
        let mut found = Vec::new();
        btree::walk::<24>(self.device, self.details_root, &mut |block, key, value| {
            found.push(details(block, key, value)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// How many data blocks `thin` maps, shared or not.
    pub fn mapped_blocks(&self, thin: ThinId) -> Result<Option<u64>> {
        let Some((block, value)) = btree::find::<24>(self.device, self.details_root, key(thin))?
        else {
            return Ok(None);
        };
        Ok(Some(details(block, key(thin), &value)?.mapped_blocks))
    }

    /// How many data blocks `thin` maps that `origin` doesn't map at the same place. Reads only
    /// what the two don't share. `None` if there is no such thin device; an `origin` that doesn't
    /// exist shares nothing.
    pub fn exclusive_blocks(
        &self,
        thin: ThinId,
        origin: Option<ThinId>,
        cancel: &AtomicBool,
    ) -> Result<Option<u64>> {
        let Some(root) = self.mapping_of(thin)? else { return Ok(None) };
        match origin.map(|origin| self.mapping_of(origin)).transpose()?.flatten() {
            None => self.mapped_blocks(thin),
            Some(shared) => {
                let mut count = 0;
                diff::exclusive(self.device, root, shared, cancel, &mut |_| count += 1)?;
                Ok(Some(count))
            }
        }
    }

    /// The blocks that `thin` maps and `origin` doesn't map at the same place, in order. Reads only what the two
    /// don't share. `None` if one of them doesn't exist.
    pub fn changed_blocks(
        &self,
        thin: ThinId,
        origin: ThinId,
        cancel: &AtomicBool,
    ) -> Result<Option<Vec<u64>>> {
        let (root, shared) = (self.mapping_of(thin)?, self.mapping_of(origin)?);
        let (Some(root), Some(shared)) = (root, shared) else { return Ok(None) };
        let mut blocks = Vec::new();
        diff::exclusive(self.device, root, shared, cancel, &mut |block| blocks.push(block))?;
        Ok(Some(blocks))
    }

    /// The root of a thin device's own mapping tree.
    fn mapping_of(&self, thin: ThinId) -> Result<Option<u64>> {
        let found = btree::find::<8>(self.device, self.mapping_root, key(thin))?;
        Ok(found.map(|(_, root)| u64::from_le_bytes(root)))
    }
}

fn key(thin: ThinId) -> u64 {
    u64::from(thin.get())
}

/// The thin device that a key of either tree stands for.
fn thin_of(block: u64, key: u64) -> Result<ThinId> {
    let id = u32::try_from(key).ok().and_then(ThinId::new);
    id.ok_or_else(|| Error::Damaged { block, why: format!("names the thin id {key}") })
}

fn details(block: u64, key: u64, value: &[u8; 24]) -> Result<ThinDetails> {
    let id = thin_of(block, key)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| value[at + i]));
    let time = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| value[at + i]));
    Ok(ThinDetails {
        id,
        mapped_blocks: number(0),
        transaction_id: number(8),
        creation_time: time(16),
        snapshotted_time: time(20),
    })
}

/// Opens the device (or a file) that holds a pool's metadata.
pub fn open(path: &Path) -> Result<MetadataDevice> {
    direct::open(path)
        .map(MetadataDevice::new)
        .map_err(|source| Error::Io { what: format!("the device {}", path.display()), source })
}

#[cfg(test)]
mod tests;
