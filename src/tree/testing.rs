//! For tests: a tree written down in full by other means than the code under test, and scratch
//! filesystems.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat,
};
use sha2::{Digest, Sha256};

/// All that can be seen of one entry, but for change time and inode number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    times: (i64, i64, i64, i64),
    device: u64,
    /// Digest of a file's bytes, or a symlink's target.
    content: String,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// First path of the same file, and number of links.
    links: (PathBuf, u64),
}

/// Writes down a tree; paths are relative, the root's is empty.
pub(crate) fn manifest(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        if stat.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|e| path.join(e.unwrap().file_name())));
        }
        let name = first.entry(stat.ino()).or_insert_with(|| path.clone()).clone();
        let links = if stat.is_dir() { (PathBuf::new(), 0) } else { (name, stat.nlink()) };
        entries.insert(path, entry(&full, &stat, links));
        // Looking moved the access time, which a later copy would then keep.
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.atime(), tv_nsec: stat.atime_nsec() },
            last_modification: Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() },
        };
        utimensat(CWD, &full, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    // The walk's order isn't the paths'.
    let mut least = BTreeMap::new();
    for (path, entry) in &entries {
        least.entry(entry.links.0.clone()).or_insert_with(|| path.clone());
    }
    for entry in entries.values_mut().filter(|entry| entry.links.1 > 0) {
        entry.links.0 = least[&entry.links.0].clone();
    }
    entries
}

fn entry(full: &Path, stat: &fs::Metadata, links: (PathBuf, u64)) -> Entry {
    let kind = stat.file_type();
    let content = if kind.is_file() {
        format!("{:x}", Sha256::digest(fs::read(full).unwrap()))
    } else if kind.is_symlink() {
        format!("{:?}", fs::read_link(full).unwrap())
    } else {
        String::new()
    };
    let device = if kind.is_block_device() || kind.is_char_device() { stat.rdev() } else { 0 };
    let times = (stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec());
    let owner = (stat.uid(), stat.gid());
    Entry { mode: stat.mode(), owner, times, device, content, xattrs: xattrs(full), links }
}

fn xattrs(full: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let length = llistxattr(full, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL"));
    let mut found: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(full, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub(crate) fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{program} {arguments:?}: {status:?}");
}

/// Opens a directory.
pub(crate) fn dir(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A filesystem of its own in a file, gone when dropped. Needs root and loop devices.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn xfs() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        run("mkfs.xfs", &["-q".as_ref(), "-m".as_ref(), "reflink=1".as_ref(), image.as_ref()]);
        Self::mount(dir, &["-o".as_ref(), "loop".as_ref(), image.as_ref()])
    }

    /// Without reflinks, and soon full.
    pub(crate) fn ext4(megabytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), image.as_ref()]);
        Self::mount(dir, &["-o".as_ref(), "loop".as_ref(), image.as_ref()])
    }

    pub(crate) fn ramfs() -> Self {
        Self::mount(tempfile::tempdir().unwrap(), &["-t", "ramfs", "none"].map(OsStr::new))
    }

    fn mount(dir: tempfile::TempDir, what: &[&OsStr]) -> Self {
        let scratch = Self { dir };
        fs::create_dir(scratch.path()).unwrap();
        run("mount", &[what, &[scratch.path().as_os_str()]].concat());
        scratch
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Detaches the loop device too.
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.path().display());
        }
    }
}
