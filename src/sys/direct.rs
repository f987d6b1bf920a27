//! Reading and writing single blocks of a device past the page cache, which does not see what the kernel's own
//! writers (dm-bufio, a filesystem) put on the device. No unsafe code.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes in a [`Block`].
pub const BLOCK_SIZE: usize = 4096;

/// 4 KiB, aligned as O_DIRECT wants it.
#[repr(C, align(4096))]
pub struct Block([u8; BLOCK_SIZE]);

impl Block {
    /// Nothing but zeros.
    pub fn zeroed() -> Self {
        Self([0; BLOCK_SIZE])
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE] {
        &self.0
    }

    /// The little-endian number at a fixed place of a format.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    /// The little-endian number at a fixed place of a format.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    /// The little-endian number at a fixed place of a format.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    /// Puts bytes at a byte offset.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Puts a little-endian number at a byte offset.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Puts a little-endian number at a byte offset.
    pub fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// Opens a block device, or a file on a filesystem that can do direct I/O, for reading.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Reads the block with this number.
pub fn read(file: &File, number: u64) -> io::Result<Box<Block>> {
    let mut block = Box::new(Block([0; BLOCK_SIZE]));
    let offset = number.checked_mul(BLOCK_SIZE as u64).ok_or(io::ErrorKind::InvalidInput)?;
    file.read_exact_at(&mut block.0, offset)?;
    Ok(block)
}

/// Writes block `number` past the page cache; durable when it returns.
pub fn write(path: &Path, number: u64, block: &Block) -> io::Result<()> {
    let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let offset = number.checked_mul(BLOCK_SIZE as u64).ok_or(io::ErrorKind::InvalidInput)?;
    file.write_all_at(&block.0, offset)?;
    file.sync_all()
}
