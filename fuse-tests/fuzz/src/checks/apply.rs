//! Layers of hostile entries on one another: whiteouts, links up and out, names with dots, files
//! that become directories. No panic; nothing outside the tree changes; each layer that was
//! unpacked comes back byte for byte; and it doesn't matter whether a layer's whiteouts stand in
//! front of its entries or behind them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Cursor;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use super::{NEVER, scratch};
use crate::layer::split::{Recorder, reassemble};
use crate::layer::tar::{Entry, Kind, Time, write};
use crate::layer::{Limits, Options, apply};

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
/// Bytes that make an entry.
const ENTRY: usize = 8;
const MOST_LAYERS: usize = 4;
const MOST_ENTRIES: usize = 24;

/// An entry, as eight bytes say it.
#[derive(Debug, Clone)]
struct Made {
    begins_layer: bool,
    entry: Entry,
    content: Vec<u8>,
}

impl Made {
    fn of(bytes: &[u8; ENTRY]) -> Self {
        let &[kind, shape, a, b, c, to_a, to_b, content] = bytes;
        let begins_layer = kind & 0x80 != 0;
        let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::Fifo]
            [usize::from(kind % 5)];
        let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
        let content = vec![content; if kind == Kind::File { usize::from(content) } else { 0 }];
        let entry = Entry {
            kind,
            path: path(&[a, b, c][..usize::from(shape % 3) + 1], shape & 0x40 != 0),
            link: match is_link {
                true => path(&[to_a, to_b][..usize::from(shape >> 3 & 1) + 1], shape & 0x80 != 0),
                false => Vec::new(),
            },
            mode: if shape & 0x20 == 0 { 0o755 } else { 0o700 },
            uid: 0,
            gid: 0,
            device: (0, 0),
            mtime: Time { seconds: 1, nanoseconds: 0 },
            atime: None,
            size: content.len() as u64,
            extents: None,
            xattrs: Vec::new(),
        };
        Self { begins_layer, entry, content }
    }

    fn is_whiteout(&self) -> bool {
        let name = self.entry.path.rsplit(|&byte| byte == b'/').next();
        name.is_some_and(|name| name.starts_with(b".wh."))
    }
}

fn path(parts: &[u8], absolute: bool) -> Vec<u8> {
    let parts: Vec<&str> = parts.iter().map(|part| PARTS[usize::from(part % 16)]).collect();
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")).into_bytes()
}

fn layers(data: &[u8]) -> Vec<Vec<Made>> {
    let mut layers: Vec<Vec<Made>> = Vec::new();
    for bytes in data.as_chunks::<ENTRY>().0 {
        let made = Made::of(bytes);
        match layers.last_mut() {
            Some(layer) if !made.begins_layer => layer.push(made),
            _ => layers.push(vec![made]),
        }
    }
    layers.truncate(MOST_LAYERS);
    layers.iter_mut().for_each(|layer| layer.truncate(MOST_ENTRIES));
    layers
}

fn tar<'a>(entries: impl Iterator<Item = &'a Made>) -> Vec<u8> {
    let mut tar = Vec::new();
    for Made { entry, content, .. } in entries {
        tar.extend(write::header(entry));
        tar.extend_from_slice(content);
        tar.extend_from_slice(write::padding(entry.size));
    }
    tar.extend_from_slice(&write::END);
    tar
}

/// A tree inside a directory whose other content must never change.
struct Cage {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

thread_local! {
    // Made once: the fuzzer counts in executions a second.
    static CAGES: [Cage; 2] = [Cage::new(), Cage::new()];
}

impl Cage {
    fn new() -> Self {
        let dir = scratch();
        for name in ["a", "b", "out"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("root")).unwrap();
        let before = beside(dir.path());
        Self { dir, before }
    }

    fn clear(&self) {
        fs::remove_dir_all(self.root()).unwrap();
        fs::create_dir(self.root()).unwrap();
    }

    fn check(&self) {
        assert!(beside(self.dir.path()) == self.before, "something outside the tree changed");
    }

    /// Unpacks a layer; false if it was refused.
    fn unpack(&self, tar: &[u8]) -> bool {
        let tree = File::open(self.root()).unwrap();
        let done = AtomicU64::new(0);
        let options = Options { limits: Limits::default(), cancel: &NEVER, done: &done };
        let mut recorder = Recorder::new(Vec::new()).unwrap();
        let applied = apply(tree.as_fd(), tar, &mut recorder, options);
        let Ok(applied) = applied else { return false };
        let record = recorder.finish(applied.diff_id, applied.tar_size).unwrap();
        let mut back = Vec::new();
        reassemble(Cursor::new(&record), tree.as_fd(), &mut back, &NEVER)
            .unwrap_or_else(|error| panic!("it doesn't come back: {error:?}"));
        assert!(back == tar, "another tar came back");
        true
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

/// Everything beside the tree: what escaped.
fn beside(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| !path.ends_with("root"))
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect()
}

/// Mode and content by path: what does not depend on when it was made.
fn tree_of(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut tree = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content =
                if stat.is_file() { fs::read(&path).unwrap() } else { Default::default() };
            if stat.is_dir() {
                ahead.push(path.clone());
            }
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), (stat.mode(), content));
        }
    }
    tree
}

/// Panics if something escapes, if a layer doesn't come back, or if the order of whiteouts matters.
pub fn run(data: &[u8]) {
    CAGES.with(|cages| {
        unpack(&layers(data), cages);
        cages.iter().for_each(Cage::check);
        cages.iter().for_each(Cage::clear);
    });
}

fn unpack(layers: &[Vec<Made>], [as_given, reordered]: &[Cage; 2]) {
    // Through a link, the same path means another place before and after the link is made.
    let no_links = layers.iter().flatten().all(|made| made.entry.link.is_empty());
    for layer in layers {
        // A half-unpacked layer is to be discarded.
        if !as_given.unpack(&tar(layer.iter())) {
            return;
        }
        if no_links {
            let (whiteouts, others): (Vec<_>, Vec<_>) =
                layer.iter().partition(|made| made.is_whiteout());
            if !reordered.unpack(&tar(others.into_iter().chain(whiteouts))) {
                return;
            }
            let (ours, theirs) = (tree_of(&as_given.root()), tree_of(&reordered.root()));
            assert!(
                ours == theirs,
                "the order of whiteouts matters: {ours:?} {theirs:?} {layer:?}"
            );
        }
    }
}
