//! The one state of a pool's metadata that a power cut can leave and the kernel cannot get out of.
//!
//! `reserve_metadata_snap` copies the superblock into a fresh block and notes that block in the
//! superblock; both are written in one flush, in any order. A power cut between the two leaves a
//! superblock that points to a block never written: the kernel then answers ENOTBLK or EILSEQ to
//! `release_metadata_snap` and EBUSY to `reserve_metadata_snap`, for ever. The block was in no
//! committed space map, so forgetting the pointer loses nothing.

use std::path::Path;

use super::block::{Checksum, MetadataDevice};
use super::{Error, Result};
use crate::crashpoint::{Step, around};
use crate::sys::direct;

/// Where a superblock holds the block of its metadata snapshot.
const HELD_ROOT: usize = 56;

/// Clears a metadata snapshot that was never written, and answers its block. For a pool that is
/// not active. After a crash, the superblock is either the old one or the mended one: it is one
/// sector-aligned block.
pub fn forget_unwritten_snapshot(path: &Path) -> Result<Option<u64>> {
    let failed =
        |source| Error::Io { what: format!("the superblock on {}", path.display()), source };
    let device = MetadataDevice::new(direct::open(path).map_err(failed)?);
    let mut superblock = device.read(0, Checksum::Superblock)?;
    let held = superblock.u64(HELD_ROOT);
    if held == 0 {
        return Ok(None);
    }
    match device.read(held, Checksum::Superblock) {
        Ok(_) => return Ok(None),
        Err(Error::Damaged { .. }) => {}
        Err(error) => return Err(error),
    }
    superblock.set_u64(HELD_ROOT, 0);
    superblock.set_u32(0, Checksum::Superblock.of(&superblock));
    around(Step::MendSuperblock, || direct::write(path, 0, &superblock)).map_err(failed)?;
    Ok(Some(held))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A metadata device whose superblock holds block 3, with this in block 3.
    fn device(held: impl Fn(&mut direct::Block)) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(file.path(), [0; 4 * direct::BLOCK_SIZE]).unwrap();
        let mut superblock = direct::read(&direct::open(file.path()).unwrap(), 0).unwrap();
        superblock.set_u64(HELD_ROOT, 3);
        superblock.set_u32(0, Checksum::Superblock.of(&superblock));
        direct::write(file.path(), 0, &superblock).unwrap();
        held(&mut superblock);
        direct::write(file.path(), 3, &superblock).unwrap();
        file
    }

    #[test]
    fn a_snapshot_that_was_never_written_is_forgotten() {
        let file = device(|block| block.set_u64(HELD_ROOT, 77));
        assert_eq!(forget_unwritten_snapshot(file.path()).unwrap(), Some(3));
        assert_eq!(
            forget_unwritten_snapshot(file.path()).unwrap(),
            None,
            "the superblock is whole"
        );
    }

    #[test]
    fn a_whole_snapshot_stays() {
        let file = device(|block| {
            block.set_u64(8, 3);
            block.set_u32(0, Checksum::Superblock.of(block));
        });
        let before = fs::read(file.path()).unwrap();
        assert_eq!(forget_unwritten_snapshot(file.path()).unwrap(), None);
        assert_eq!(fs::read(file.path()).unwrap(), before);
    }
}
