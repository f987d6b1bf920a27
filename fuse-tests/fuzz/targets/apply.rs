//! Layers of hostile entries on one another: whiteouts, links up and out, names with dots, files
//! that become directories. No panic; nothing outside the tree changes; each layer that was
//! unpacked comes back byte for byte; the order of a whiteout and an entry of its own layer doesn't
//! matter.
#![no_main]

use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use thinfs_fuzz::layer::split::{Recorder, reassemble};
use thinfs_fuzz::layer::tar::{Entry, Kind, Time, write};
use thinfs_fuzz::layer::{Limits, Options, apply};

const PARTS: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    ".wh.a",
    ".wh.b",
    ".wh.c",
    ".wh..wh..opq",
    "..",
    ".",
    "",
    ".wh.",
    ".wh...",
    ".wh..",
    ".wh..wh.a",
    "out",
];

#[derive(Debug, Clone, Arbitrary)]
struct Made {
    kind: u8,
    path: [u8; 3],
    depth: u8,
    absolute: bool,
    link: [u8; 3],
    content: u8,
}

fn path(parts: &[u8; 3], depth: u8, absolute: bool) -> Vec<u8> {
    let parts = &parts[..usize::from(depth % 3) + 1];
    let parts: Vec<&str> = parts.iter().map(|part| PARTS[usize::from(part % 16)]).collect();
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")).into_bytes()
}

fn tar(entries: &[Made]) -> Vec<u8> {
    let mut tar = Vec::new();
    for made in entries {
        let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::Fifo]
            [usize::from(made.kind % 5)];
        let content =
            vec![made.content; if kind == Kind::File { usize::from(made.content) } else { 0 }];
        let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
        tar.extend(write::header(&Entry {
            kind,
            path: path(&made.path, made.depth, made.absolute),
            link: if is_link {
                path(&made.link, made.depth / 3, made.content > 127)
            } else {
                vec![]
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            device: (0, 0),
            mtime: Time { seconds: 1, nanoseconds: 0 },
            atime: None,
            size: content.len() as u64,
            extents: None,
            xattrs: Vec::new(),
        }));
        tar.extend_from_slice(&content);
        tar.extend_from_slice(write::padding(content.len() as u64));
    }
    tar.extend_from_slice(&write::END);
    tar
}

/// Everything beside the tree: what escaped.
fn beside(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "root")
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

fuzz_target!(|layers: Vec<Vec<Made>>| {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    for name in ["a", "b", "out"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let before = beside(dir.path());
    let (never, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let tree = File::open(&root).unwrap();
    for entries in layers.iter().take(4) {
        let tar = tar(&entries[..entries.len().min(24)]);
        let mut recorder = Recorder::new(Vec::new()).unwrap();
        let options = Options { limits: Limits::default(), cancel: &never, done: &done };
        let applied = apply(tree.as_fd(), &tar[..], &mut recorder, options);
        assert!(beside(dir.path()) == before, "something outside the tree changed");
        // A half-unpacked layer is to be discarded.
        let Ok(applied) = applied else { return };
        let record = recorder.finish(applied.diff_id, applied.tar_size).unwrap();
        let mut back = Vec::new();
        reassemble(Cursor::new(&record), tree.as_fd(), &mut back, &never)
            .unwrap_or_else(|error| panic!("{error:?}: {entries:?}"));
        assert!(back == tar, "another tar came back: {entries:?}");
    }
});
