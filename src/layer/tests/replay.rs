//! The fuzzer's corpus, once more: each input that is below `fuse-tests/fuzz/corpus` goes through
//! the same checks as in `scripts/fuzz`, without the fuzzer.

use std::fs;
use std::path::Path;

#[path = "../../../fuse-tests/fuzz/src/checks/mod.rs"]
mod checks;

#[track_caller]
fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuse-tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 3, "{} holds hardly anything", dir.display());
    for input in inputs {
        let data = fs::read(&input).unwrap();
        // The name of the one that fails, which the check itself doesn't know.
        println!("{}", input.display());
        check(&data);
    }
}

#[test]
fn the_tar_readers_corpus_passes() {
    replay("tar_reader", checks::tar_reader::run);
}

#[test]
fn the_records_corpus_passes() {
    replay("record", checks::record::run);
}

#[test]
fn the_whiteouts_corpus_passes() {
    replay("apply", checks::apply::run);
}
