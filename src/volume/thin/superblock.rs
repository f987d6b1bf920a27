//! What we read from a filesystem's superblock by ourselves: which filesystem it is, how large it is, how many
//! inodes it uses, and whether it was left clean. A volume carries its filesystem with it, so no record says which.

use std::io;
use std::path::Path;

use super::config::Filesystem;
use crate::sys::direct::{self, Block};
use crate::thin::Sectors;

/// Where ext's superblock begins.
const START: usize = 1024;
const EXT_MAGIC: u16 = 0xEF53;
/// The filesystem has a journal: what tells ext4 from ext2 here.
const COMPAT_HAS_JOURNAL: u32 = 0x4;
/// The journal must be replayed before the rest of the superblock is to be believed.
const INCOMPAT_RECOVER: u32 = 0x4;
/// Block counts have an upper half.
const INCOMPAT_64BIT: u32 = 0x80;
/// Unmounted cleanly.
const STATE_VALID: u16 = 0x1;
/// "XFSB", as little-endian numbers are read.
const XFS_MAGIC: u32 = u32::from_le_bytes(*b"XFSB");

/// The facts of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    filesystem: Filesystem,
    used_inodes: u64,
    blocks: u64,
    free_blocks: u64,
    /// Blocks that no file can have: inode tables, the journal.
    overhead: u64,
    block_size: u64,
    clean: bool,
    /// xfs's: percent of the space that inodes may take.
    inode_percent: u8,
}

impl Superblock {
    /// Reads it from a device, past the page cache.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let block = direct::read(&direct::open(path)?, 0)?;
        let found = if block.u32(0) == XFS_MAGIC { Self::xfs(&block) } else { Self::ext(&block) };
        found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no ext4, xfs or ext2 superblock")
        })
    }

    fn ext(block: &Block) -> Option<Self> {
        if block.u16(START + 0x38) != EXT_MAGIC {
            return None;
        }
        let (compat, incompat) = (block.u32(START + 0x5C), block.u32(START + 0x60));
        let journal = compat & COMPAT_HAS_JOURNAL != 0;
        let long = incompat & INCOMPAT_64BIT != 0;
        let upper = |at: usize| if long { u64::from(block.u32(START + at)) << 32 } else { 0 };
        let (inodes, free) = (block.u32(START), block.u32(START + 0x10));
        Some(Self {
            filesystem: if journal { Filesystem::Ext4 } else { Filesystem::Ext2 },
            used_inodes: u64::from(inodes.saturating_sub(free)),
            blocks: upper(0x150) | u64::from(block.u32(START + 4)),
            free_blocks: upper(0x158) | u64::from(block.u32(START + 0xC)),
            overhead: block.u32(START + 0x248).into(),
            block_size: 1024u64.checked_shl(block.u32(START + 0x18))?,
            clean: match journal {
                true => incompat & INCOMPAT_RECOVER == 0,
                false => block.u16(START + 0x3A) & STATE_VALID != 0,
            },
            inode_percent: 0,
        })
    }

    /// xfs counts from the other end. Whether its log is empty isn't told here, so it never counts as clean.
    fn xfs(block: &Block) -> Option<Self> {
        let long = |at: usize| block.u64(at).swap_bytes();
        Some(Self {
            filesystem: Filesystem::Xfs,
            used_inodes: long(128).saturating_sub(long(136)),
            blocks: long(8),
            free_blocks: long(144),
            overhead: 0,
            block_size: u64::from(block.u32(4).swap_bytes()),
            clean: false,
            inode_percent: block.bytes()[127],
        })
        .filter(|found| found.block_size > 0)
    }

    /// Which filesystem it is.
    pub(super) fn filesystem(self) -> Filesystem {
        self.filesystem
    }

    /// Known to have been unmounted, or turned read-only, since it was last written.
    pub(super) fn is_clean(self) -> bool {
        self.clean
    }

    /// Inodes in use.
    pub(super) fn used_inodes(self) -> u64 {
        self.used_inodes
    }

    /// Bytes that files use, as statfs counts them.
    pub(super) fn used_bytes(self) -> u64 {
        let used = self.blocks.saturating_sub(self.free_blocks).saturating_sub(self.overhead);
        used.saturating_mul(self.block_size)
    }

    /// xfs's share of the space for inodes, which growing must name again.
    pub(super) fn inode_percent(self) -> u8 {
        self.inode_percent
    }

    /// Blocks that fit on a device of `size`.
    pub(super) fn blocks_in(self, size: Sectors) -> u64 {
        size.bytes() / self.block_size
    }

    /// How many blocks the filesystem has on a device of `size`, if it has fewer now.
    pub(super) fn blocks_to_grow_to(self, size: Sectors) -> Option<u64> {
        let fit = self.blocks_in(size);
        (fit > self.blocks).then_some(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    fn made(bytes: u64, program: &str, options: &[&str]) -> Superblock {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("filesystem");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        let made = Command::new(program)
            .args(options)
            .arg(&path)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(made.unwrap_or_else(|e| panic!("needs {program}: {e}")).success());
        Superblock::read(&path).unwrap()
    }

    #[test]
    fn a_fresh_filesystem_is_clean_and_uses_the_reserved_inodes_and_lost_and_found() {
        for (program, filesystem) in
            [("mkfs.ext4", Filesystem::Ext4), ("mkfs.ext2", Filesystem::Ext2)]
        {
            let superblock = made(64 << 20, program, &["-q", "-F", "-b", "4096"]);
            assert_eq!(superblock.filesystem(), filesystem);
            assert!(superblock.is_clean());
            assert_eq!(superblock.used_inodes(), 11);
            // The root directory and lost+found; e2fsprogs older than 1.47 leave the overhead to the first mount.
            assert!(
                superblock.overhead == 0 || superblock.used_bytes() < 1 << 20,
                "{superblock:?}"
            );
            assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(64 << 20)), None);
            assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(128 << 20)), Some(32768));
        }
    }

    #[test]
    fn xfs_is_told_apart_and_counted() {
        let superblock = made(512 << 20, "mkfs.xfs", &["-q", "-f"]);
        assert_eq!(superblock.filesystem(), Filesystem::Xfs);
        // The root and the two of the realtime section.
        assert_eq!(superblock.used_inodes(), 3);
        assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(512 << 20)), None);
        assert_eq!(superblock.blocks_to_grow_to(Sectors::in_bytes(1 << 30)), Some(262_144));
    }

    #[test]
    fn what_is_no_filesystem_is_an_error() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("zeros");
        File::create(&path).unwrap().set_len(8192).unwrap();
        assert!(Superblock::read(&path).is_err());
    }
}
