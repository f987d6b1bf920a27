//! Any bytes as a tar-split record over a small tree: no panic, and what is written is either the
//! tar with the digest on record, or an error. The checksums of a record would keep the fuzzer out,
//! so they are put right first.
#![no_main]

use std::io::Cursor;
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use thinfs_fuzz::layer::split::reassemble;

/// Bytes in front of a chunk's payload: kind, length, checksum.
const HEADER: usize = 9;

static TREE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    std::fs::write(dir.path().join("d/b"), vec![7; 3000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("l")).unwrap();
    dir
});

/// Cuts the bytes into chunks and gives each its checksum.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut record = data.to_vec();
    let mut at = 8;
    while at + HEADER <= record.len() {
        let length = u32::from_le_bytes(record[at + 1..at + 5].try_into().unwrap()) as usize;
        let end = (at + HEADER).saturating_add(length).min(record.len());
        let checksum = crc32c::crc32c(&record[at + HEADER..end]);
        record[at + 5..at + HEADER].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
    record
}

fuzz_target!(|data: &[u8]| {
    let root = std::fs::File::open(TREE.path()).unwrap();
    let never = AtomicBool::new(false);
    for record in [data.to_vec(), with_checksums(data)] {
        let mut out = Vec::new();
        if let Ok(done) = reassemble(Cursor::new(record), root.as_fd(), &mut out, &never) {
            assert_eq!(done.tar_size, out.len() as u64);
        }
    }
});
