//! What we read from an ext4 superblock by ourselves: how large the filesystem is, how many inodes
//! it uses, and whether it was left clean.

use std::io;
use std::path::Path;

use crate::sys::direct::{self, Block};
use crate::thin::Sectors;

/// Where the superblock begins.
const START: usize = 1024;
const MAGIC: u16 = 0xEF53;
/// The journal must be replayed before the rest of the superblock is to be believed.
const INCOMPAT_RECOVER: u32 = 0x4;
/// Block counts have an upper half.
const INCOMPAT_64BIT: u32 = 0x80;

/// The facts of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    inodes: u32,
    free_inodes: u32,
    blocks: u64,
    block_size: u64,
    needs_recovery: bool,
}

impl Superblock {
    /// Reads it from a device, past the page cache.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let block = direct::read(&direct::open(path)?, 0)?;
        Self::parse(&block)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no ext4 superblock"))
    }

    fn parse(block: &Block) -> Option<Self> {
        if block.u16(START + 0x38) != MAGIC {
            return None;
        }
        let incompat = block.u32(START + 0x60);
        let upper = if incompat & INCOMPAT_64BIT == 0 { 0 } else { block.u32(START + 0x150) };
        Some(Self {
            inodes: block.u32(START),
            free_inodes: block.u32(START + 0x10),
            blocks: u64::from(upper) << 32 | u64::from(block.u32(START + 4)),
            block_size: 1024u64.checked_shl(block.u32(START + 0x18))?,
            needs_recovery: incompat & INCOMPAT_RECOVER != 0,
        })
    }

    /// Unmounted, or turned read-only, since it was last written.
    pub(super) fn is_clean(self) -> bool {
        !self.needs_recovery
    }

    /// Inodes in use.
    pub(super) fn used_inodes(self) -> u64 {
        u64::from(self.inodes.saturating_sub(self.free_inodes))
    }

    /// How many blocks the filesystem has on a device of `size`, if it has fewer now.
    pub(super) fn blocks_to_grow_to(self, size: Sectors) -> Option<u64> {
        let fit = size.bytes() / self.block_size;
        (fit > self.blocks).then_some(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    #[test]
    fn a_fresh_filesystem_is_clean_and_uses_the_reserved_inodes_and_lost_and_found() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("ext4");
        File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&path).status();
        assert!(made.expect("needs mkfs.ext4").success());
        let superblock = Superblock::read(&path).unwrap();
        assert!(superblock.is_clean());
        assert_eq!(superblock.used_inodes(), 11);
        assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(64 << 20)), None);
        assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(128 << 20)), Some(32768));
    }

    #[test]
    fn what_is_no_ext4_is_an_error() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("zeros");
        File::create(&path).unwrap().set_len(8192).unwrap();
        assert!(Superblock::read(&path).is_err());
    }
}
