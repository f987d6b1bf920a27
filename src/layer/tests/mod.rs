//! The engine as a whole: archives from many writers, hostile ones, round trips, and containerd's
//! own unpacking beside ours. Needs root (owners, devices), GNU tar, bsdtar, Python and Go.

mod containerd;
mod export;
mod formats;
mod hostile;
mod odd;
mod proptests;
mod replay;
mod tampering;
mod whiteouts;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use self::export::diff;
use super::split::{Reassembled, Recorder, reassemble};
use super::tar::{BLOCK, Entry, Kind, Time, write};
use super::{Applied, Error, Limits, Options, Result};

static NEVER: AtomicBool = AtomicBool::new(false);

/// A directory that owners and devices can be made in.
fn scratch() -> TempDir {
    assert!(rustix::process::geteuid().is_root(), "layer tests need root: they make devices");
    tempfile::Builder::new().prefix("thinfs-layer-").tempdir().unwrap()
}

fn open(dir: &Path) -> File {
    File::open(dir).unwrap()
}

fn options(done: &AtomicU64) -> Options<'_> {
    Options { limits: Limits::default(), cancel: &NEVER, done }
}

/// Unpacks without a record.
fn apply(root: &Path, tar: &[u8]) -> Result<Applied> {
    super::apply(open(root).as_fd(), tar, &mut (), options(&AtomicU64::new(0)))
}

/// Unpacks with a record.
fn apply_recorded(root: &Path, tar: &[u8]) -> Result<(Applied, Vec<u8>)> {
    let mut recorder = Recorder::new(Vec::new())?;
    let applied =
        super::apply(open(root).as_fd(), tar, &mut recorder, options(&AtomicU64::new(0)))?;
    Ok((applied, recorder.finish(applied.diff_id, applied.tar_size)?))
}

fn tar_of(root: &Path, record: &[u8]) -> (Result<Reassembled>, Vec<u8>) {
    let mut tar = Vec::new();
    let result = reassemble(Cursor::new(record), open(root).as_fd(), &mut tar, &NEVER);
    (result, tar)
}

/// Unpacks onto `root`, and demands the same bytes back.
fn round_trip(root: &Path, tar: &[u8]) -> Applied {
    let (applied, record) = apply_recorded(root, tar).unwrap();
    assert_eq!(applied.diff_id.as_bytes()[..], Sha256::digest(tar)[..]);
    assert_eq!(applied.tar_size, tar.len() as u64);
    let (result, back) = tar_of(root, &record);
    let expected = Reassembled { diff_id: applied.diff_id, tar_size: applied.tar_size };
    assert_eq!(result.unwrap(), expected);
    assert!(back == tar, "the tar that comes back differs");
    applied
}

/// All there is to know of a path, but for access and change times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    mtime: (i64, i64),
    /// Digest of the content, or a symlink's target.
    content: Vec<u8>,
    size: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path with the same inode.
    same_as: PathBuf,
}

type Nodes = BTreeMap<PathBuf, Node>;

/// Everything below a directory.
fn nodes(root: &Path) -> Nodes {
    let mut paths = Vec::new();
    walk(root, Path::new(""), &mut paths);
    paths.sort();
    let mut inodes: HashMap<u64, PathBuf> = HashMap::new();
    let node = |path: PathBuf| {
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        let same_as = inodes.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        (path.clone(), self::node(&root.join(&path), &meta, same_as))
    };
    paths.into_iter().map(node).collect()
}

fn node(path: &Path, meta: &fs::Metadata, same_as: PathBuf) -> Node {
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else if kind.is_file() && meta.len() < 64 << 20 {
        Sha256::digest(fs::read(path).unwrap()).to_vec()
    } else {
        Vec::new()
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    Node {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        device: if is_device { meta.rdev() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        content,
        size: if kind.is_dir() { 0 } else { meta.len() },
        xattrs: xattrs(path),
        same_as,
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
    let names = buffer[..length].to_vec();
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, &mut buffer[..]).unwrap();
            (name.to_vec(), buffer[..length].to_vec())
        })
        .collect()
}

fn walk(root: &Path, below: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        paths.push(path.clone());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, paths);
        }
    }
}

/// Fails with the first difference, not with two trees.
#[track_caller]
fn assert_same(ours: &Nodes, theirs: &Nodes) {
    for (path, node) in theirs {
        assert_eq!(ours.get(path), Some(node), "{path:?}");
    }
    for path in ours.keys() {
        assert!(theirs.contains_key(path), "{path:?} is too much");
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Runs a program with the input, and returns its output. It must be there and succeed.
#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let (ok, output, errors) = try_run(command, input);
    assert!(ok, "{command:?} failed: {errors}");
    output
}

#[track_caller]
fn try_run(command: &mut Command, input: &[u8]) -> (bool, Vec<u8>, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs {:?}: {error}", command.get_program()));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A program that doesn't read all its input is none of our business.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), output.stdout, errors)
}

/// An archive made by hand.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

fn entry(kind: Kind, path: &str) -> Entry {
    Entry {
        kind,
        path: path.into(),
        link: Vec::new(),
        mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        device: (0, 0),
        mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        atime: None,
        size: 0,
        extents: None,
        xattrs: Vec::new(),
    }
}

impl Tar {
    fn entry(mut self, entry: &Entry, content: &[u8]) -> Self {
        let entry = Entry { size: content.len() as u64, ..entry.clone() };
        self.0.extend(write::header(&entry));
        self.0.extend(content);
        self.0.extend(write::padding(entry.size));
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(&entry(Kind::File, path), content.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.entry(&entry(Kind::Directory, path), b"")
    }

    fn dir_mode(self, path: &str, mode: u32) -> Self {
        self.entry(&Entry { mode, ..entry(Kind::Directory, path) }, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.into(), ..entry(Kind::Symlink, path) }, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.into(), ..entry(Kind::HardLink, path) }, b"")
    }

    /// One header block as it is, but for the checksum, and content with padding.
    fn raw(mut self, edit: impl FnOnce(&mut [u8; BLOCK]), content: &[u8]) -> Self {
        self.0.extend(raw_header(edit));
        self.0.extend(content);
        self.0.extend(write::padding(content.len() as u64));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn end(self) -> Vec<u8> {
        self.bytes(&write::END).0
    }
}

fn raw_header(edit: impl FnOnce(&mut [u8; BLOCK])) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let header = write::header(&Entry { mtime: Time::EPOCH, ..entry(Kind::File, "raw") });
    block.copy_from_slice(&header);
    edit(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Fills a header's field, the rest of it with NULs.
fn put(block: &mut [u8; BLOCK], at: usize, length: usize, value: &[u8]) {
    block[at..at + length].fill(0);
    block[at..at + value.len()].copy_from_slice(value);
}

#[track_caller]
fn assert_refused(result: Result<Applied>) {
    match result {
        Err(Error::Refused { .. } | Error::Malformed { .. } | Error::Io { .. }) => {}
        other => panic!("{other:?}"),
    }
}
