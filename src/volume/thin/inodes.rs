//! ext4's inode tables, read from the device: which inodes differ between two filesystems of which
//! one started as a copy of the other's blocks.
//!
//! Only the tables are read, and of those only the blocks that the pool maps elsewhere. They are
//! read through the page cache, where a mounted ext4 keeps them too: what is seen is at least as
//! new as what is on the device.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::tree::ChangedInode;

/// Where the superblock begins, and how much of it is read.
const SUPERBLOCK: Range<u64> = 1024..2048;
const MAGIC: u16 = 0xEF53;
const INCOMPAT_64BIT: u32 = 0x80;
/// FILETYPE, RECOVER, EXTENTS, 64BIT, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR, INLINE_DATA, ENCRYPT, CASEFOLD: what
/// changes neither where inode tables are nor what an inode looks like.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
/// GDT_CSUM, METADATA_CSUM: with either, groups say how far their tables are in use.
const RO_COMPAT_CHECKSUMS: u32 = 0x10 | 0x400;
/// A group whose table nobody has used.
const INODE_UNINIT: u16 = 1;
/// Below it, the numbers are the filesystem's own, but for the root's.
const FIRST_FREE: u32 = 11;
const ROOT: u32 = 2;

/// Where a filesystem's inodes are.
#[derive(Debug)]
pub(super) struct Tables {
    device: File,
    inode_size: usize,
    per_group: u32,
    groups: Vec<Group>,
}

/// A block group.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// Where its table begins, in bytes.
    table: u64,
    /// Inodes from the beginning that may be in use.
    used: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

impl Tables {
    /// Reads where the tables are. `None`: it is no ext4, or laid out in a way not known here.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let device = File::open(path)?;
        let mut superblock = [0; 1024];
        device.read_exact_at(&mut superblock, SUPERBLOCK.start)?;
        let Some(layout) = Layout::parse(&superblock) else { return Ok(None) };
        let mut descriptors = vec![0; layout.groups * layout.descriptor_size];
        device.read_exact_at(&mut descriptors, layout.descriptors)?;
        let groups = descriptors.chunks_exact(layout.descriptor_size);
        let groups = groups.map(|bytes| layout.group(bytes)).collect();
        let Layout { inode_size, per_group, .. } = layout;
        Ok(Some(Self { device, inode_size, per_group, groups }))
    }

    /// Which inodes differ from `old`'s, looking at these ranges of the device only. `None`: the tables of the two
    /// aren't in the same places, or more than `most` differ.
    pub(super) fn changed_from(
        &self,
        old: &Self,
        ranges: impl Iterator<Item = Range<u64>>,
        most: usize,
    ) -> io::Result<Option<Vec<ChangedInode>>> {
        let moved = |(a, b): (&Group, &Group)| a.table != b.table;
        if (self.inode_size, self.per_group) != (old.inode_size, old.per_group)
            || self.groups.len() < old.groups.len()
            || self.groups.iter().zip(&old.groups).any(moved)
        {
            return Ok(None);
        }
        let tables = self.in_order();
        let mut changed = Vec::new();
        for range in ranges {
            let first = tables.partition_point(|(table, _)| table.end <= range.start);
            for (table, group) in tables[first..].iter().take_while(|(t, _)| t.start < range.end) {
                let part = table.start.max(range.start)..table.end.min(range.end);
                let first = (part.start - table.start) / self.inode_size as u64;
                let first = *group as u32 * self.per_group + first as u32 + 1;
                self.compare(old, part, first, *group < old.groups.len(), &mut changed)?;
            }
            if changed.len() > most {
                return Ok(None);
            }
        }
        Ok(Some(changed))
    }

    /// The tables by their places, with the groups that they belong to.
    fn in_order(&self) -> Vec<(Range<u64>, usize)> {
        let length = u64::from(self.per_group) * self.inode_size as u64;
        let groups = self.groups.iter().enumerate();
        let mut tables: Vec<_> =
            groups.map(|(number, group)| (group.table..group.table + length, number)).collect();
        tables.sort_unstable_by_key(|(table, _)| table.start);
        tables
    }

    /// Compares a part of a table, whose first inode has the number `first`.
    fn compare(
        &self,
        old: &Self,
        part: Range<u64>,
        first: u32,
        has_old: bool,
        changed: &mut Vec<ChangedInode>,
    ) -> io::Result<()> {
        let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
        let (mut was, mut is) = (vec![0; length], vec![0; length]);
        self.device.read_exact_at(&mut is, part.start)?;
        // A group that was added since had no inodes.
        if has_old {
            old.device.read_exact_at(&mut was, part.start)?;
        }
        let pairs = was.chunks_exact(self.inode_size).zip(is.chunks_exact(self.inode_size));
        for (number, (was, is)) in (first..).zip(pairs) {
            if was != is && (number >= FIRST_FREE || number == ROOT) {
                changed.push(inode(number, is));
            }
        }
        Ok(())
    }

    /// How many inodes there may be in use.
    pub(super) fn used(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.used)).sum()
    }

    /// How many groups there are.
    pub(super) fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The group that an inode belongs to.
    pub(super) fn group_of(&self, number: u32) -> usize {
        ((number - 1) / self.per_group) as usize
    }

    /// The numbers of a group's directories.
    pub(super) fn directories(&self, group: usize) -> io::Result<Vec<u32>> {
        let Group { table, used } = self.groups[group];
        let mut bytes = vec![0; used as usize * self.inode_size];
        self.device.read_exact_at(&mut bytes, table)?;
        let first = group as u32 * self.per_group + 1;
        let inodes = (first..).zip(bytes.chunks_exact(self.inode_size));
        let inodes = inodes.map(|(number, bytes)| inode(number, bytes));
        let there = |inode: &ChangedInode| inode.is_directory && inode.links > 0;
        Ok(inodes.filter(there).map(|inode| inode.number).collect())
    }
}

fn inode(number: u32, bytes: &[u8]) -> ChangedInode {
    let (mode, links) = (u16_at(bytes, 0), u16_at(bytes, 0x1A));
    ChangedInode { number, is_directory: mode & 0xF000 == 0x4000, links: links.into() }
}

/// What the superblock says of where things are.
struct Layout {
    inode_size: usize,
    per_group: u32,
    block_size: u64,
    groups: usize,
    descriptors: u64,
    descriptor_size: usize,
    has_unused: bool,
}

impl Layout {
    fn parse(superblock: &[u8]) -> Option<Self> {
        let long = |at| u32_at(superblock, at);
        let (incompat, ro_compat) = (long(0x60), long(0x64));
        if u16_at(superblock, 0x38) != MAGIC || incompat & !INCOMPAT_KNOWN != 0 {
            return None;
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let block_size = 1024_u64.checked_shl(long(0x18)).filter(|&size| size <= 65536)?;
        let upper = if wide { u64::from(long(0x150)) << 32 } else { 0 };
        let (blocks, first_block) = (upper | u64::from(long(4)), u64::from(long(0x14)));
        let blocks_per_group = u64::from(long(0x20));
        if blocks_per_group == 0 || long(0x28) == 0 {
            return None;
        }
        let inode_size = usize::from(u16_at(superblock, 0x58));
        let descriptor_size = if wide { usize::from(u16_at(superblock, 0xFE)) } else { 32 };
        let known = inode_size.is_power_of_two() && (128..=4096).contains(&inode_size);
        let groups = blocks.checked_sub(first_block)?.div_ceil(blocks_per_group);
        (known && (32..=1024).contains(&descriptor_size)).then_some(Self {
            inode_size,
            per_group: long(0x28),
            block_size,
            groups: usize::try_from(groups).ok()?,
            descriptors: (first_block + 1) * block_size,
            descriptor_size,
            has_unused: ro_compat & RO_COMPAT_CHECKSUMS != 0,
        })
    }

    fn group(&self, bytes: &[u8]) -> Group {
        let wide = self.descriptor_size >= 64;
        let upper = if wide { u64::from(u32_at(bytes, 0x28)) << 32 } else { 0 };
        let table = (upper | u64::from(u32_at(bytes, 8))) * self.block_size;
        let upper = if wide { u32::from(u16_at(bytes, 0x32)) << 16 } else { 0 };
        let unused = upper | u32::from(u16_at(bytes, 0x1C));
        let used = match (self.has_unused, u16_at(bytes, 0x12) & INODE_UNINIT != 0) {
            (true, true) => 0,
            (true, false) => self.per_group.saturating_sub(unused),
            (false, _) => self.per_group,
        };
        Group { table, used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::process::Command;

    /// An image mounted on a directory beside it.
    struct Mount(PathBuf);

    impl Mount {
        fn of(image: &Path) -> Self {
            let target = image.with_extension("mnt");
            fs::create_dir_all(&target).unwrap();
            run(Command::new("mount").args(["-o", "loop"]).args([image, &*target]));
            Self(target)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            run(Command::new("umount").arg(&self.0));
        }
    }

    fn run(command: &mut Command) {
        let status = command.status();
        assert!(status.as_ref().is_ok_and(|s| s.success()), "{command:?}: {status:?}");
    }

    #[test]
    fn exactly_the_inodes_that_changed_differ_in_every_layout() {
        let layouts: [&[&str]; 5] = [
            &[],
            &["-b", "1024"],
            &["-I", "128", "-O", "^metadata_csum"],
            &["-O", "^64bit,^flex_bg,^metadata_csum,uninit_bg"],
            &["-O", "^flex_bg", "-N", "40000"],
        ];
        for layout in layouts {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let (old, new) = (dir.path().join("old"), dir.path().join("new"));
            File::create(&old).unwrap().set_len(160 << 20).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).args(layout).arg(&old));
            let mounted = Mount::of(&old);
            for number in 0..300 {
                let at = mounted.0.join(format!("{}", number % 10));
                fs::create_dir_all(&at).unwrap();
                fs::write(at.join(format!("file-{number}")), "content").unwrap();
            }
            drop(mounted);
            fs::copy(&old, &new).unwrap();
            let mounted = Mount::of(&new);
            let ino = |path: &str| fs::metadata(mounted.0.join(path)).unwrap().ino() as u32;
            let removed = ino("3/file-3");
            fs::remove_file(mounted.0.join("3/file-3")).unwrap();
            fs::write(mounted.0.join("4/file-14"), vec![7; 100_000]).unwrap();
            fs::hard_link(mounted.0.join("5/file-5"), mounted.0.join("6/link")).unwrap();
            let expected = [removed, ino("3"), ino("4/file-14"), ino("5/file-5"), ino("6")];
            drop(mounted);
            let (old, new) = (Tables::open(&old).unwrap().unwrap(), Tables::open(&new).unwrap());
            let new = new.unwrap();
            let whole = || std::iter::once(0..160 << 20);
            let changed = new.changed_from(&old, whole(), 100).unwrap().expect("not too many");
            let numbers: BTreeSet<u32> = changed.iter().map(|inode| inode.number).collect();
            assert_eq!(numbers, BTreeSet::from(expected), "{layout:?}");
            let links = |number| changed.iter().find(|i| i.number == number).unwrap().links;
            assert_eq!((links(removed), links(expected[3])), (0, 2), "{layout:?}");
            let directories: Vec<u32> =
                (0..new.group_count()).flat_map(|group| new.directories(group).unwrap()).collect();
            // The root and lost+found.
            assert_eq!(directories.len(), 12, "{layout:?}");
            assert_eq!(new.changed_from(&old, whole(), 4).unwrap(), None, "more than allowed");
            assert_eq!(
                new.changed_from(&old, std::iter::empty(), 4).unwrap(),
                Some(Vec::new()),
                "{layout:?}"
            );
        }
    }

    #[test]
    fn what_is_no_ext4_is_left_alone() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("zeros");
        fs::write(&path, vec![0; 8192]).unwrap();
        assert!(Tables::open(&path).unwrap().is_none());
        fs::write(&path, "short").unwrap();
        assert!(Tables::open(&path).is_err());
    }
}
