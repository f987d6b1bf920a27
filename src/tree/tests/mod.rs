//! Trees to work on; the tests are in the files beside.

mod copy;
mod diff;
mod remove;
mod usage;

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, ioctl_getflags,
    ioctl_setflags, makedev, mkdirat, mknodat, openat, utimensat,
};

use super::testing::{Scratch, dir, manifest, set_xattr};
use super::*;

pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

fn copy_quietly(from: &Path, to: &Path) -> Result<Copied> {
    let control = Control { cancel: &NEVER, progress: &|_| {} };
    copy(dir(from).as_fd(), dir(to).as_fd(), control)
}

fn differences(old: &Path, new: &Path, options: DiffOptions) -> Vec<String> {
    let mut found = Vec::new();
    diff(dir(old).as_fd(), dir(new).as_fd(), options, &NEVER, &mut |change| {
        let letter = format!("{:?}", change.kind);
        found.push(format!("{} {}", &letter[..1], change.path.display()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn remove_all(parent: &Path, name: &str) -> Result<()> {
    remove(dir(parent).as_fd(), &CString::new(name).unwrap(), &NEVER)
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let access = Timespec { tv_sec: seconds + 7, tv_nsec: nanoseconds / 2 };
    let times = Timestamps { last_access: access, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// user::rwx, user:1000:r-x, group::r-x, mask::rwx, other::r-x
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255,
    255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
];

/// A tree with one of everything. Needs root.
fn everything(root: &Path) {
    fs::create_dir_all(root.join("a/deep/er")).unwrap();
    fs::create_dir(root.join("empty dir")).unwrap();
    fs::write(root.join("a/file"), "content").unwrap();
    fs::write(root.join("a/empty"), "").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"na\xffme\n")), "not UTF-8").unwrap();
    fs::write(root.join("setuid"), "#!/bin/sh").unwrap();
    std::os::unix::fs::chown(root.join("setuid"), Some(1234), Some(70000)).unwrap();
    chmod(&root.join("setuid"), 0o6755);
    chmod(&root.join("a/deep"), 0o2770);
    chmod(&root.join("empty dir"), 0o1777);
    symlink("/nowhere/at all", root.join("a/link")).unwrap();
    std::os::unix::fs::lchown(root.join("a/link"), Some(5), Some(6)).unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/deep/er/same")).unwrap();
    fs::hard_link(root.join("a/file"), root.join("same")).unwrap();
    fs::hard_link(root.join("a/link"), root.join("a/deep/link too")).unwrap();
    let node = |name, kind, device| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
        chmod(&root.join(name), 0o4642);
    };
    node("fifo", FileType::Fifo, 0);
    node("char", FileType::CharacterDevice, makedev(5, 300));
    node("whiteout", FileType::CharacterDevice, makedev(0, 0));
    node("block", FileType::BlockDevice, makedev(7, 1));
    // A socket's path has 108 bytes of room: bound through a short one.
    let short = dir(root);
    drop(UnixListener::bind(format!("/proc/self/fd/{}/socket", short.as_raw_fd())));
    assert!(root.join("socket").exists());
    let mut sparse = File::create(root.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(300 << 10)).unwrap();
    sparse.write_all(&[7; 5000]).unwrap();
    sparse.set_len(900 << 10).unwrap();
    set_xattr(&root.join("a/file"), "user.text", b"value");
    set_xattr(&root.join("a/file"), "trusted.big", &[9; 2000]);
    set_xattr(&root.join("a/deep"), "user.dir", b"");
    set_xattr(&root.join("fifo"), "trusted.fifo", b"1");
    set_xattr(&root.join("a/link"), "trusted.link", b"2");
    // cap_net_raw+ep, as setcap writes it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&root.join("setuid"), "security.capability", &capability);
    set_xattr(&root.join("a/deep"), "system.posix_acl_default", ACL);
    set_xattr(&root.join("a/file"), "system.posix_acl_access", ACL);
    fs::write(root.join("a/deep/inherits"), "").unwrap();
    chmod(root, 0o751);
    set_xattr(root, "user.root", b"r");
    let mut paths: Vec<_> = manifest(root).into_keys().collect();
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for (number, path) in paths.iter().enumerate() {
        set_times(&root.join(path), 1_000_000_000 + number as i64, 123_456_789 - number as i64);
    }
}

/// A chain of directories.
fn nest(root: &Path, name: &str, depth: usize) -> OwnedFd {
    let mut at: OwnedFd = dir(root).into();
    for _ in 0..depth {
        mkdirat(&at, name, Mode::RWXU).unwrap();
        at = openat(&at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    at
}

fn two_dirs(base: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (a, b) = (base.join("one"), base.join("two"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    (a, b)
}
