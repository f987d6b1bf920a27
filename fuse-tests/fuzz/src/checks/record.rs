//! Any bytes as a tar-split record over a small tree: no panic, and what is written is the tar with
//! the digest on record, or an error.
//!
//! Checksums, compression and the final digest would keep the fuzzer out of what lies behind them.
//! So the bytes are taken as a record three ways: as they are, with the checksums put right, and as
//! the plain content of chunks, which are compressed and ended properly here.

use std::cell::RefCell;
use std::io::Cursor;
use std::os::fd::AsFd;

use sha2::{Digest as _, Sha256};

use super::{NEVER, scratch};
use crate::layer::split::{Reassembled, reassemble};

const MAGIC: &[u8] = b"TFSPLIT1";
/// Bytes in front of a chunk's payload: kind, length, checksum.
const HEADER: usize = 9;

thread_local! {
    static TREE: tempfile::TempDir = tree();
    // Made once: the fuzzer counts in executions a second.
    static COMPRESSOR: RefCell<zstd::bulk::Compressor<'static>> =
        RefCell::new(zstd::bulk::Compressor::new(1).unwrap());
}

fn tree() -> tempfile::TempDir {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    std::fs::write(dir.path().join("d/b"), vec![7; 3000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("l")).unwrap();
    dir
}

/// Panics if a tar comes out that isn't the one on record.
pub fn run(data: &[u8]) {
    for record in [data.to_vec(), with_checksums(data)] {
        let (result, out) = tar_of(record);
        if let Some(done) = result {
            assert_eq!(done.tar_size, out.len() as u64);
        }
    }
    let Some((&contents, data)) = data.split_first() else { return };
    let (wrong, out) = tar_of(with_end(data, [0; 32], 0, contents));
    assert!(wrong.is_none(), "a digest of zeros was believed");
    let digest: [u8; 32] = Sha256::digest(&out).into();
    if let (Some(done), again) = tar_of(with_end(data, digest, out.len() as u64, contents)) {
        assert!(again == out, "the same record gave another tar");
        assert_eq!(*done.diff_id.as_bytes(), digest);
    }
}

fn tar_of(record: Vec<u8>) -> (Option<Reassembled>, Vec<u8>) {
    let root = TREE.with(|tree| std::fs::File::open(tree.path()).unwrap());
    let mut out = Vec::new();
    (reassemble(Cursor::new(record), root.as_fd(), &mut out, &NEVER).ok(), out)
}

/// Cuts the bytes into chunks and gives each its checksum.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut record = data.to_vec();
    let mut at = MAGIC.len();
    while at + HEADER <= record.len() {
        let length = u32::from_le_bytes(record[at + 1..at + 5].try_into().unwrap()) as usize;
        let end = (at + HEADER).saturating_add(length).min(record.len());
        let checksum = crc32c::crc32c(&record[at + HEADER..end]);
        record[at + 5..at + HEADER].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
    record
}

/// A record of chunks that are each given as kind, length (one byte, times four) and content.
fn with_end(data: &[u8], digest: [u8; 32], tar_size: u64, contents: u8) -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    let mut rest = data;
    while let [kind, length, behind @ ..] = rest {
        let (content, next) = behind.split_at((usize::from(*length) * 4).min(behind.len()));
        match kind % 2 {
            0 => chunk(&mut record, 1, &compressed(content)),
            _ => {
                let number = content.first().copied().unwrap_or_default();
                let mut payload = u64::from(number % 8).to_le_bytes().to_vec();
                payload.extend_from_slice(&compressed(content));
                chunk(&mut record, 2, &payload);
            }
        }
        rest = next;
    }
    let mut end = digest.to_vec();
    end.extend_from_slice(&tar_size.to_le_bytes());
    end.extend_from_slice(&u64::from(contents % 16).to_le_bytes());
    chunk(&mut record, 3, &end);
    record
}

fn compressed(content: &[u8]) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|compressor| compressor.compress(content).unwrap())
}

fn chunk(record: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    record.push(kind);
    record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    record.extend_from_slice(payload);
}
