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

#[test]
fn copy_keeps_everything() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    everything(&from);
    let before = manifest(&from);
    let copied = copy_quietly(&from, &to).unwrap();
    let (after, source) = (manifest(&to), manifest(&from));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (path, entry) in &before {
        assert_eq!(&after[path], entry, "{}", path.display());
    }
    assert!(source.keys().eq(before.keys()));
    assert_eq!(copied.method, Some(Method::FullCopy));
    assert_eq!(copied.total.inodes, usage(dir(&to).as_fd(), &NEVER).unwrap().inodes);
    assert_eq!(differences(&from, &to, DiffOptions::default()), [""; 0]);
}

#[test]
fn copy_does_not_touch_the_access_times_of_its_source() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    everything(&from);
    let times = |path: &str| fs::symlink_metadata(from.join(path)).unwrap().atime();
    let before = ["", "a", "a/file", "sparse"].map(times);
    copy_quietly(&from, &to).unwrap();
    assert_eq!(["", "a", "a/file", "sparse"].map(times), before);
}

#[test]
fn copy_keeps_holes() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    let mut file = File::create(from.join("sparse")).unwrap();
    for at in [0_u64, 10 << 20, 20 << 20] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[1; 8192]).unwrap();
    }
    file.set_len(100 << 20).unwrap();
    copy_quietly(&from, &to).unwrap();
    let stat = fs::metadata(to.join("sparse")).unwrap();
    assert_eq!(stat.size(), 100 << 20);
    assert!(stat.blocks() * 512 <= 64 << 10, "{} blocks", stat.blocks());
    assert_eq!(
        differences(&from, &to, DiffOptions { content: true, ..Default::default() }),
        [""; 0]
    );
}

#[test]
fn copy_on_xfs_shares_blocks_and_keeps_everything() {
    let scratch = Scratch::xfs();
    let (from, to) = two_dirs(&scratch.path());
    everything(&from);
    let before = manifest(&from);
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::Reflink));
    assert_eq!(manifest(&to), before);

    let (from, to) = two_dirs(&to);
    fs::write(from.join("large"), vec![3; 100 << 20]).unwrap();
    let free = || {
        rustix::fs::syncfs(dir(&from)).unwrap();
        rustix::fs::statvfs(scratch.path()).unwrap().f_bfree * 4096
    };
    let before = free();
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::Reflink));
    assert!(before - free() < 10 << 20);
    assert_eq!(fs::metadata(to.join("large")).unwrap().size(), 100 << 20);
}

#[test]
fn copy_between_filesystems_falls_back() {
    let scratch = Scratch::xfs();
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    let to = scratch.path().join("to");
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    everything(&from);
    let before = manifest(&from);
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::FullCopy));
    assert_eq!(manifest(&to), before);
}

#[test]
fn links_out_of_the_tree_are_no_links_in_the_copy() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    fs::write(from.join("x"), "x").unwrap();
    fs::hard_link(from.join("x"), base.path().join("outside")).unwrap();
    // The name that staging would like to have.
    fs::create_dir(from.join(".thinfs-links-0")).unwrap();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(fs::metadata(to.join("x")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
}

#[test]
fn a_new_root_inherits_no_acl() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("from"), base.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("sub/file"), "").unwrap();
    set_xattr(base.path(), "system.posix_acl_default", ACL);
    fs::create_dir(&to).unwrap();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(manifest(&to), manifest(&from));
}

#[test]
fn ten_thousand_levels_are_copied_compared_counted_and_removed() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    let bottom = nest(&from, "d", 10_000);
    mknodat(&bottom, "file", FileType::RegularFile, Mode::RUSR, 0).unwrap();
    drop(bottom);
    let before = open_descriptors();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(usage(dir(&to).as_fd(), &NEVER).unwrap().inodes, 10_002);
    assert_eq!(differences(&from, &to, DiffOptions::default()), [""; 0]);
    remove_all(base.path(), "one").unwrap();
    remove_all(base.path(), "two").unwrap();
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    assert!(open_descriptors() <= before);
}

fn open_descriptors() -> usize {
    // Other tests of this process may open some too, but hardly a thousand.
    fs::read_dir("/proc/self/fd").unwrap().count() / 1000
}

#[test]
fn copy_reports_progress_and_can_be_cancelled() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    for number in 0..50 {
        fs::write(from.join(number.to_string()), vec![1; 10_000]).unwrap();
    }
    let cancel = AtomicBool::new(false);
    let last = Mutex::new(Progress::default());
    let progress = |now: Progress| {
        let mut last = last.lock().unwrap();
        last.bytes = last.bytes.max(now.bytes);
        last.inodes = last.inodes.max(now.inodes);
        if now.bytes >= 200_000 {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let control = Control { cancel: &cancel, progress: &progress };
    let result = copy(dir(&from).as_fd(), dir(&to).as_fd(), control);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    let last = *last.lock().unwrap();
    assert!((200_000..500_000).contains(&last.bytes) && last.inodes < 50, "{last:?}");
    remove_all(base.path(), "two").unwrap();
}

#[test]
fn failed_copy_names_the_file() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    fs::create_dir_all(from.join("x/y")).unwrap();
    fs::write(from.join("x/y/file"), "new").unwrap();
    fs::create_dir_all(to.join("x")).unwrap();
    let error = copy_quietly(&from, &to).unwrap_err();
    assert_eq!(error.to_string(), r#"making directory "x""#);
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
}

#[test]
fn usage_counts_blocks_and_each_inode_once() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(root.join("d/file"), root.join("again")).unwrap();
    File::create(root.join("hole")).unwrap().set_len(1 << 30).unwrap();
    symlink("x", root.join("link")).unwrap();
    let blocks = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().blocks() * 512;
    let usage = usage(dir(root).as_fd(), &NEVER).unwrap();
    assert_eq!(usage.inodes, 5);
    assert_eq!(usage.size, ["", "d", "d/file", "hole", "link"].map(blocks).iter().sum());
    assert!(usage.size < 200_000);
}

#[test]
fn usage_is_cancelled() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("x"), "").unwrap();
    let result = usage(dir(base.path()).as_fd(), &AtomicBool::new(true));
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[test]
fn usage_survives_renames_under_way() {
    let base = tempfile::tempdir().unwrap();
    for a in 0..20 {
        fs::create_dir_all(base.path().join(format!("{a}/x/y/z"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(base.path().join("0/x"), base.path().join("1/moved")).unwrap();
                fs::rename(base.path().join("1/moved"), base.path().join("0/x")).unwrap();
            }
        });
        let results: Vec<_> = (0..200).map(|_| usage(dir(base.path()).as_fd(), &NEVER)).collect();
        stop.store(true, Ordering::Relaxed);
        for result in results {
            assert!(result.unwrap().inodes >= 78);
        }
    });
}

#[test]
fn remove_clears_immutable_and_append_only() {
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    fs::create_dir_all(tree.join("frozen/sub")).unwrap();
    fs::write(tree.join("frozen/sub/file"), "x").unwrap();
    fs::write(tree.join("log"), "x").unwrap();
    symlink("x", tree.join("frozen/link")).unwrap();
    chmod(&tree.join("frozen/sub"), 0);
    let flag = |path: &str, flag| {
        let file = dir(&tree.join(path));
        ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | flag).unwrap();
    };
    flag("frozen/sub/file", IFlags::IMMUTABLE);
    flag("frozen/sub", IFlags::APPEND);
    flag("log", IFlags::APPEND);
    flag("frozen", IFlags::IMMUTABLE);
    flag("", IFlags::IMMUTABLE);
    remove_all(base.path(), "tree").unwrap();
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

#[test]
fn remove_takes_anything_and_is_idempotent() {
    let base = tempfile::tempdir().unwrap();
    let outside = base.path().join("outside");
    fs::write(&outside, "stays").unwrap();
    fs::create_dir(base.path().join("tree")).unwrap();
    everything(&base.path().join("tree"));
    symlink(&outside, base.path().join("tree/out")).unwrap();
    symlink(base.path(), base.path().join("link")).unwrap();
    for name in ["tree", "link", "absent", "tree"] {
        remove_all(base.path(), name).unwrap();
    }
    assert_eq!(fs::read(&outside).unwrap(), b"stays");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
}

#[test]
fn cancelled_removal_is_finished_by_the_next() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("tree")).unwrap();
    everything(&base.path().join("tree"));
    let cancelled = remove(dir(base.path()).as_fd(), c"tree", &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    remove_all(base.path(), "tree").unwrap();
    assert!(!base.path().join("tree").exists());
}

#[test]
fn diff_tells_each_kind_of_change_in_order() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    everything(&old);
    copy_quietly(&old, &new).unwrap();
    chmod(&new.join("a"), 0o700);
    fs::write(new.join("a/file"), "CONTENT").unwrap();
    fs::remove_dir_all(new.join("a/deep")).unwrap();
    fs::create_dir_all(new.join("a/new/sub")).unwrap();
    fs::write(new.join("a/new/sub/x"), "").unwrap();
    fs::remove_file(new.join("a/link")).unwrap();
    symlink("elsewhere", new.join("a/link")).unwrap();
    std::os::unix::fs::lchown(new.join("a/link"), Some(5), Some(6)).unwrap();
    fs::remove_file(new.join("char")).unwrap();
    mknodat(CWD, new.join("char"), FileType::CharacterDevice, Mode::RUSR, makedev(5, 301)).unwrap();
    chmod(&new.join("char"), 0o4642);
    fs::remove_dir(new.join("empty dir")).unwrap();
    fs::write(new.join("empty dir"), "file now").unwrap();
    fs::remove_file(new.join("fifo")).unwrap();
    fs::create_dir(new.join("fifo")).unwrap();
    fs::write(new.join("fifo/inside"), "").unwrap();
    set_xattr(&new.join("sparse"), "user.new", b"");
    std::os::unix::fs::chown(new.join("block"), Some(1), None).unwrap();
    assert_eq!(
        differences(&old, &new, DiffOptions::default()),
        [
            "M a",
            "D a/deep",
            "M a/file",
            "M a/link",
            "A a/new",
            "A a/new/sub",
            "A a/new/sub/x",
            "M block",
            "M char",
            "M empty dir",
            "M fifo",
            "A fifo/inside",
            "M same",
            "M sparse",
        ]
    );
}

#[test]
fn diff_of_equal_times_reads_bytes_when_they_prove_nothing() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for (name, nanoseconds) in [("coarse", 0), ("fine", 5)] {
        fs::write(old.join(name), vec![1; 300_000]).unwrap();
        let mut changed = vec![1; 300_000];
        changed[299_999] = 2;
        fs::write(new.join(name), changed).unwrap();
        set_times(&old.join(name), 1000, nanoseconds);
        set_times(&new.join(name), 1000, nanoseconds);
    }
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M coarse"]);
    let content = DiffOptions { content: true, ..Default::default() };
    assert_eq!(differences(&old, &new, content), ["M coarse", "M fine"]);
    // Equal bytes with other times: touched, not changed.
    fs::write(new.join("fine"), vec![1; 300_000]).unwrap();
    assert_eq!(differences(&old, &new, content), ["M coarse"]);
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M coarse", "M fine"]);
}

#[test]
fn diff_of_one_lineage_skips_unchanged_inodes() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    fs::write(old.join("shared"), "x").unwrap();
    fs::hard_link(old.join("shared"), new.join("shared")).unwrap();
    // Permitted to skip, and sound: the very same inode can't differ.
    let lineage = DiffOptions { same_lineage: true, content: true };
    assert_eq!(differences(&old, &new, lineage), [""; 0]);
    fs::write(new.join("own"), "x").unwrap();
    fs::write(old.join("own"), "y").unwrap();
    assert_eq!(differences(&old, &new, lineage), ["M own"]);
}

#[test]
fn diff_stops_when_told_or_cancelled() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for name in ["1", "2", "3"] {
        fs::write(new.join(name), "").unwrap();
    }
    let mut seen = 0;
    let options = DiffOptions::default();
    let mut stop = |_: Change<'_>| {
        seen += 1;
        ControlFlow::Break(())
    };
    diff(dir(&old).as_fd(), dir(&new).as_fd(), options, &NEVER, &mut stop).unwrap();
    let cancelled = AtomicBool::new(true);
    let result = diff(dir(&old).as_fd(), dir(&new).as_fd(), options, &cancelled, &mut stop);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(seen, 1);
}

#[test]
fn diff_of_roots_is_told_with_an_empty_path() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    chmod(&new, 0o700);
    chmod(&old, 0o755);
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M "]);
}

/// A fifo nobody writes to would block an open for ever, and a symlink or mount would lead out.
#[test]
fn walks_open_no_fifo_and_follow_no_symlink() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for root in [&old, &new] {
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("/proc", root.join("proc")).unwrap();
        set_times(&root.join("fifo"), 1, 0);
    }
    let options = DiffOptions { content: true, ..Default::default() };
    let started = SystemTime::now();
    assert_eq!(differences(&old, &new, options), [""; 0]);
    assert_eq!(usage(dir(&old).as_fd(), &NEVER).unwrap().inodes, 3);
    assert!(open::regular(dir(&old).as_fd(), c"fifo").is_err());
    assert!(open::regular(dir(&old).as_fd(), c"proc").is_err());
    assert!(open::directory(dir(&old).as_fd(), c"proc").is_err());
    assert!(started.elapsed().unwrap() < Duration::from_secs(5));
}
