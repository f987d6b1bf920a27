//! How much of the pool may be used, and by whom: arithmetic over its status, without I/O.
//!
//! A pool whose *data* is full fails writes and goes on otherwise. A pool whose *metadata* is full does nothing at
//! all any more, not even removals, and has to be taken down. So data is made to run out first: the pool is never
//! given more free data blocks than its free metadata could map at worst ([`mappable`]), whoever writes, in whatever
//! pattern. Its table begins with that length and is lengthened while the metadata allows it ([`length`]). Each data
//! block that a write takes is one step towards ENOSPC, which a removal or a larger pool ends.
//!
//! Removals can break this balance: a discard frees data blocks and not always the metadata that a snapshot has of its
//! own. So there is a last line, [`is_critical`]: who still writes then is stopped (`devices`), before the kernel
//! stops everybody.

use crate::thin::status::{Blocks, PoolStatus};

/// Metadata blocks that the write of one data block takes at worst: the path from a mapping tree's root to its leaf
/// (three nodes map more than 100 GiB of a volume) is copied when it was shared, and the space maps count the
/// sharers of what the copies refer to.
const METADATA_A_BLOCK: u64 = 4;
/// Free metadata blocks that only removals may use: a 64th, within these bounds; beside the tenth that
/// the kernel keeps for itself and never shows as free.
const METADATA_RESERVE: (u64, u64) = (64, 8192);
/// Free metadata blocks below which no volume is made: an eighth, within these bounds. Volumes that exist
/// can be written for longer.
const CREATION_RESERVE: (u64, u64) = (64, 65536);
/// Free data blocks from which on a pool that can't grow refuses to let volumes grow: a 64th, within these
/// bounds. What is in the page cache by then still finds its place.
const DATA_RESERVE: (u64, u64) = (16, 16384);

/// Metadata blocks that are kept for removals.
pub(super) fn metadata_reserve(metadata: Blocks) -> u64 {
    (metadata.total / 64).clamp(METADATA_RESERVE.0, METADATA_RESERVE.1)
}

/// Metadata blocks that new volumes leave to those that exist.
pub(super) fn creation_reserve(metadata: Blocks) -> u64 {
    (metadata.total / 8).clamp(CREATION_RESERVE.0, CREATION_RESERVE.1)
}

/// Data blocks that the free metadata can map at worst.
pub(super) fn mappable(metadata: Blocks) -> u64 {
    metadata.free().saturating_sub(metadata_reserve(metadata)) / METADATA_A_BLOCK
}

/// The number of data blocks that the pool may have now, of the `most` that there are for it. A pool never gets smaller.
pub(super) fn length(status: &PoolStatus, most: u64) -> u64 {
    (status.data.used + mappable(status.metadata)).min(most).max(status.data.total)
}

/// The number of data blocks that a pool with a metadata device of `metadata` blocks begins with.
pub(super) fn first_length(metadata: u64, most: u64) -> u64 {
    // The kernel keeps a tenth for itself, and a few blocks are in use from the start.
    let blank = Blocks { used: metadata / 10 + 64, total: metadata };
    mappable(blank).clamp(1, most.max(1))
}

/// Whether the pool has got all that it can have, of the `most` data blocks that there are for it. What metadata
/// leaves free now is no limit as long as it leaves something: dense mappings take next to none of it.
pub(super) fn is_exhausted(status: &PoolStatus, most: u64) -> bool {
    status.data.total >= most || mappable(status.metadata) <= DATA_RESERVE.0
}

/// Whether it is time to give the pool what [`length`] allows: half of what it was given is used.
pub(super) fn is_due(status: &PoolStatus, length: u64) -> bool {
    length > status.data.total && 2 * status.data.free() <= length - status.data.used
}

/// Whether volumes must stop growing: `promised` data blocks of those that are free will be taken by what is
/// in the page cache.
pub(super) fn is_tight(data: Blocks, promised: u64) -> bool {
    data.free().saturating_sub(promised) <= (data.total / 64).clamp(DATA_RESERVE.0, DATA_RESERVE.1)
}

/// Whether writing must stop at once, or metadata would be used up.
pub(super) fn is_critical(metadata: Blocks) -> bool {
    metadata.free() <= metadata_reserve(metadata) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thin::status::PoolStatus;

    fn status(metadata: (u64, u64), data: (u64, u64)) -> PoolStatus {
        let line = format!(
            "1 {}/{} {}/{} - rw discard_passdown error_if_no_space - 1024",
            metadata.0, metadata.1, data.0, data.1
        );
        PoolStatus::parse(&line).unwrap()
    }

    #[test]
    fn whatever_is_written_data_runs_out_before_metadata() {
        // Each data block takes the worst; the pool gets longer whenever it may.
        let (mut metadata, mut data) = ((20, 4096), (0, 1));
        loop {
            let now = status(metadata, data);
            assert!(!is_critical(now.metadata), "{now:?}");
            data.1 = length(&now, 100_000);
            if data.0 == data.1 {
                break;
            }
            data.0 += 1;
            metadata.0 += METADATA_A_BLOCK;
        }
        assert!(is_exhausted(&status(metadata, data), 100_000));
        assert!(metadata.1 - metadata.0 >= 64 && data.1 < 1010, "{metadata:?} {data:?}");
    }

    #[test]
    fn what_maps_densely_gets_all_of_the_device() {
        // A full leaf of 252 mappings, half full as sequential writes leave it, is a block for 126.
        let (mut metadata, mut data) = ((20, 8192), (0, 1));
        while data.0 < 100_000 {
            let now = status(metadata, data);
            let length = length(&now, 100_000);
            assert_eq!(is_exhausted(&now, 100_000), data.1 == 100_000, "{metadata:?} {data:?}");
            if is_due(&now, length) {
                data.1 = length;
            }
            assert!(data.0 < data.1, "stuck at {metadata:?} {data:?}");
            data.0 += 1;
            metadata.0 = 20 + data.0 / 126;
        }
    }

    #[test]
    fn a_pool_never_gets_shorter_and_never_longer_than_its_device() {
        assert_eq!(length(&status((4000, 4096), (10, 500)), 1000), 500);
        assert_eq!(length(&status((10, 8192), (10, 500)), 600), 600);
        assert!(!is_due(&status((10, 8192), (10, 600)), 600));
    }

    #[test]
    fn what_is_in_the_page_cache_counts_as_used() {
        let data = Blocks { used: 500, total: 1000 };
        assert!(!is_tight(data, 0));
        assert!(is_tight(data, 490));
    }
}
