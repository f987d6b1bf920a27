//! One metadata block: read past the page cache, checked against its checksum and its own number.

use std::cell::Cell;
use std::fs::File;

use super::{Error, Result};
use crate::sys::direct::{self, Block};

/// Which salt a block's checksum has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
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

    /// What belongs into a block's first four bytes. The kernel's crc32c leaves out the final
    /// inversion of the usual one.
    pub(super) fn of(self, block: &Block) -> u32 {
        !crc32c::crc32c(&block.bytes()[4..]) ^ self.salt()
    }
}

/// A device with a pool's metadata, opened for reading.
#[derive(Debug)]
pub struct MetadataDevice {
    file: File,
    reads: Cell<u64>,
}

impl MetadataDevice {
    pub(super) fn new(file: File) -> Self {
        Self { file, reads: Cell::new(0) }
    }

    /// How many blocks were read through this handle: what a listing or a comparison cost.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Reads a block as it stands.
    pub(super) fn read_raw(&self, number: u64) -> Result<Box<Block>> {
        let block = direct::read(&self.file, number);
        let block =
            block.map_err(|source| Error::Io { what: format!("block {number}"), source })?;
        self.reads.set(self.reads.get() + 1);
        Ok(block)
    }

    /// Reads a block and checks that it is whole, and the one that was asked for. Superblocks and
    /// nodes alike begin with checksum, flags, own number.
    pub(super) fn read(&self, number: u64, checksum: Checksum) -> Result<Box<Block>> {
        let block = self.read_raw(number)?;
        if block.u32(0) != checksum.of(&block) {
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
