//! One metadata block: read past the page cache, checked against its checksum and its own number.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Error, Result};

/// Bytes in a metadata block.
pub const BLOCK_SIZE: usize = 4096;

/// Which salt a block's checksum has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// A superblock's.
    Superblock,
    /// A btree node's.
    Node,
}

impl Checksum {
    fn salt(self) -> u32 {
        match self {
            Checksum::Superblock => 160_774,
            Checksum::Node => 121_107,
        }
    }
}

/// A metadata block, aligned as O_DIRECT wants it.
#[repr(C, align(4096))]
pub struct Block([u8; BLOCK_SIZE]);

impl Block {
    /// All of it.
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE] {
        &self.0
    }

    /// The little-endian number at a fixed place of the format.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    /// The little-endian number at a fixed place of the format.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }
}

/// A device with a pool's metadata, opened for reading.
#[derive(Debug)]
pub struct MetadataDevice {
    file: File,
    /// Blocks read so far: what the tests assert about skipping shared subtrees.
    reads: Cell<u64>,
}

impl MetadataDevice {
    pub(super) fn new(file: File) -> Self {
        Self { file, reads: Cell::new(0) }
    }

    /// How many blocks were read through this handle.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Reads a block as it stands.
    pub fn read_raw(&self, number: u64) -> Result<Box<Block>> {
        let mut block = Box::new(Block([0; BLOCK_SIZE]));
        let offset = number.checked_mul(BLOCK_SIZE as u64);
        let offset = offset.ok_or_else(|| damaged(number, "is beyond any device"))?;
        self.file
            .read_exact_at(&mut block.0, offset)
            .map_err(|source| Error::Io { what: format!("block {number}"), source })?;
        self.reads.set(self.reads.get() + 1);
        Ok(block)
    }

    /// Reads a block and checks that it is whole, and the one that was asked for. Superblocks and
    /// nodes alike begin with checksum, flags, own number.
    pub fn read(&self, number: u64, checksum: Checksum) -> Result<Box<Block>> {
        let block = self.read_raw(number)?;
        // The kernel's crc32c leaves out the final inversion of the usual one.
        let sum = !crc32c::crc32c(&block.0[4..]) ^ checksum.salt();
        if block.u32(0) != sum {
            return Err(damaged(number, "has a wrong checksum"));
        }
        if block.u64(8) != number {
            return Err(damaged(number, "is another block's copy"));
        }
        Ok(block)
    }
}

pub(super) fn damaged(block: u64, why: &str) -> Error {
    Error::Damaged { block, why: why.to_owned() }
}
