//! The snapshot rules as a user of the directory tree meets them: mkdir, mv, rmdir, and the errno of what is forbidden.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;

use crate::harness::{Daemon, errno, eventually, is_thin, sh};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0u8; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value)
        .unwrap_or_else(|e| panic!("getxattr {name}: {e}"));
    String::from_utf8(value[..len].to_vec()).unwrap()
}

#[test]
fn mkdir_prepares_mv_commits_and_rmdir_removes() {
    let d = Daemon::start();
    assert_eq!(
        names(&d.mount()).iter().filter(|n| !n.starts_with('.')).collect::<Vec<_>>(),
        ["active", "committed", "images", "view"]
    );

    fs::create_dir(d.active("work")).unwrap();
    assert_eq!(names(&d.active("work")), [""; 0], "a new snapshot is empty, without lost+found");
    let root = fs::metadata(d.active("work")).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
    fs::write(d.active("work").join("file"), "one").unwrap();

    fs::rename(d.active("work"), d.committed("base")).unwrap();
    assert_eq!(names(&d.mount().join("active")), [""; 0]);
    assert_eq!(fs::read_to_string(d.committed("base").join("file")).unwrap(), "one");
    assert_eq!(
        errno(fs::write(d.committed("base").join("file"), "two")),
        Errno::ROFS.raw_os_error()
    );

    fs::remove_dir(d.committed("base")).unwrap();
    assert_eq!(names(&d.mount().join("committed")), [""; 0]);
    d.finish();
}

#[test]
fn a_child_sees_its_parent_and_changes_nothing_in_it() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("kept"), "parent").unwrap();
    fs::write(d.active("a").join("gone"), "parent").unwrap();
    d.cli(&["commit", "a", "base"]).ok();

    let path = d.cli(&["prepare", "child", "--parent", "base"]).ok();
    let child = Path::new(path.trim());
    assert_eq!(child, d.active("child"), "prepare prints the directory");
    fs::write(child.join("kept"), "child").unwrap();
    fs::remove_file(child.join("gone")).unwrap();
    fs::write(child.join("new"), "child").unwrap();

    d.cli(&["view", "look", "--parent", "base"]).ok();
    for parent in [d.committed("base"), d.viewed("look")] {
        assert_eq!(names(&parent), ["gone", "kept"]);
        assert_eq!(fs::read_to_string(parent.join("kept")).unwrap(), "parent");
    }
    assert_eq!(names(child), ["kept", "new"]);
    d.finish();
}

#[test]
fn inode_numbers_differ_between_snapshots_and_hold_within_one() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "x").unwrap();
    let before = fs::metadata(d.active("a").join("f")).unwrap().ino();
    d.cli(&["commit", "a", "base"]).ok();
    d.cli(&["prepare", "b", "--parent", "base"]).ok();
    d.cli(&["view", "v", "--parent", "base"]).ok();
    let committed = fs::metadata(d.committed("base").join("f")).unwrap().ino();
    let child = fs::metadata(d.active("b").join("f")).unwrap().ino();
    let view = fs::metadata(d.viewed("v").join("f")).unwrap().ino();
    assert_eq!(before, committed, "commit keeps inode numbers");
    assert_ne!(committed, child, "containerd's differ takes equal inode numbers for unchanged");
    assert_ne!(committed, view);
    assert_eq!(
        fs::metadata(d.committed("base")).unwrap().dev(),
        fs::metadata(d.active("b")).unwrap().dev()
    );
    d.finish();
}

#[test]
fn forbidden_calls_answer_the_fitting_errno() {
    let d = Daemon::start();
    let m = d.mount();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "x").unwrap();
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    d.cli(&["prepare", "child", "--parent", "base"]).ok();
    d.cli(&["view", "look", "--parent", "base"]).ok();
    fs::create_dir(d.active("other")).unwrap();
    fs::write(d.active("other").join("f"), "x").unwrap();

    let cases: Vec<(&str, std::io::Result<()>, Errno)> = vec![
        ("prepare of a key that is taken", fs::create_dir(d.active("child")), Errno::EXIST),
        (
            "prepare of a key that a committed snapshot has",
            fs::create_dir(d.active("base")),
            Errno::EXIST,
        ),
        (
            "commit to a name that is taken",
            fs::rename(d.active("child"), d.committed("base")),
            Errno::EXIST,
        ),
        (
            "commit to a name that a key has",
            fs::rename(d.active("child"), d.committed("other")),
            Errno::EXIST,
        ),
        ("removing a parent", fs::remove_dir(d.committed("base")), Errno::BUSY),
        ("un-committing", fs::rename(d.committed("base"), d.active("again")), Errno::PERM),
        ("committing a view", fs::rename(d.viewed("look"), d.committed("v")), Errno::PERM),
        ("renaming a key", fs::rename(d.active("child"), d.active("renamed")), Errno::PERM),
        ("a file in the root", fs::write(m.join("file"), "x"), Errno::PERM),
        ("a file among the snapshots", fs::write(m.join("active/file"), "x"), Errno::PERM),
        ("a directory in the root", fs::create_dir(m.join("dir")), Errno::PERM),
        ("a directory in committed/", fs::create_dir(d.committed("dir")), Errno::PERM),
        ("removing active/", fs::remove_dir(m.join("active")), Errno::PERM),
        ("unlinking a snapshot", fs::remove_file(d.active("child")), Errno::ISDIR),
        ("a name that is no canonical escape", fs::create_dir(d.active("%zz")), Errno::INVAL),
        (
            "a file in a committed snapshot",
            fs::write(d.committed("base").join("g"), "x"),
            Errno::ROFS,
        ),
        ("a file in a view", fs::write(d.viewed("look").join("g"), "x"), Errno::ROFS),
        ("unlink in a view", fs::remove_file(d.viewed("look").join("f")), Errno::ROFS),
        (
            "rename in a view",
            fs::rename(d.viewed("look").join("f"), d.viewed("look").join("g")),
            Errno::ROFS,
        ),
        (
            "chmod in a view",
            fs::set_permissions(d.viewed("look").join("f"), fs::Permissions::from_mode(0o600)),
            Errno::ROFS,
        ),
        (
            "truncate in a committed snapshot",
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(d.committed("base").join("f"))
                .map(drop),
            Errno::ROFS,
        ),
        (
            "symlink in a view",
            std::os::unix::fs::symlink("x", d.viewed("look").join("l")),
            Errno::ROFS,
        ),
        ("mkdir in a view", fs::create_dir(d.viewed("look").join("d")), Errno::ROFS),
        (
            "hard link between snapshots",
            fs::hard_link(d.active("other").join("f"), d.active("child").join("g")),
            Errno::XDEV,
        ),
        (
            "rename between snapshots",
            fs::rename(d.active("other").join("f"), d.active("child").join("g")),
            Errno::XDEV,
        ),
        (
            "a snapshot that doesn't exist",
            fs::metadata(d.active("nowhere")).map(drop),
            Errno::NOENT,
        ),
        ("removing what doesn't exist", fs::remove_dir(d.committed("nowhere")), Errno::NOENT),
    ];
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(what, result, expected)| match result {
            Ok(()) => Some(format!("{what}: succeeded, expected {expected:?}")),
            Err(e) if e.raw_os_error() == Some(expected.raw_os_error()) => None,
            Err(e) => Some(format!("{what}: {e}, expected {expected:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    d.finish();
}

#[test]
fn keys_of_every_shape_become_one_directory_name_each() {
    let d = Daemon::start();
    let long = format!("k8s.io/7/{}", "x".repeat(900));
    let keys = [
        "default/12/extract-123-AbC sha256:0a1b",
        "/absolute/path",
        "ünïcode-❄",
        "100%",
        ".",
        "..",
        "a\nb",
        "-dash",
        "%41",
        long.as_str(),
    ];
    for key in keys {
        d.cli(&["prepare", "--", key]).ok();
    }
    let shown = names(&d.mount().join("active"));
    assert_eq!(shown.len(), keys.len(), "{shown:?}");
    let mut found: Vec<String> =
        shown.iter().map(|name| xattr(&d.active(name), "thinfs.key")).collect();
    found.sort();
    let mut expected: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    for name in &shown {
        fs::write(d.active(name).join("f"), "x").unwrap();
        fs::remove_dir(d.active(name)).unwrap();
    }
    assert_eq!(names(&d.mount().join("active")), [""; 0]);
    d.finish();
}

#[test]
fn virtual_xattrs_tell_the_record_and_stay_hidden() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), vec![7u8; 100_000]).unwrap();
    d.cli(&["commit", "a", "base"]).ok();
    d.cli(&["prepare", "child", "--parent", "base", "--label", "team=storage"]).ok();
    let child = d.active("child");
    assert_eq!(xattr(&child, "thinfs.key"), "child");
    assert_eq!(xattr(&child, "thinfs.kind"), "active");
    assert_eq!(xattr(&child, "thinfs.parent"), "base");
    assert_eq!(xattr(&child, "thinfs.labels.team"), "storage");
    assert!(xattr(&child, "thinfs.id").parse::<u32>().is_ok());
    assert!(xattr(&child, "thinfs.created").contains('T'));
    assert!(xattr(&d.committed("base"), "thinfs.usage.size").parse::<u64>().unwrap() >= 100_000);
    assert!(xattr(&d.committed("base"), "thinfs.usage.inodes").parse::<u64>().unwrap() >= 1);
    let mut list = vec![0u8; 4096];
    let len = rustix::fs::listxattr(&child, &mut list).unwrap();
    assert!(!String::from_utf8_lossy(&list[..len]).contains("thinfs"), "hidden from listxattr");
    assert_eq!(
        errno(rustix::fs::getxattr(&child, "thinfs.nonsense", &mut list).map_err(Into::into)),
        Errno::NODATA.raw_os_error()
    );
    assert!(
        rustix::fs::setxattr(&child, "thinfs.key", b"x", rustix::fs::XattrFlags::empty()).is_err()
    );
    d.finish();
}

#[test]
fn a_snapshot_with_files_open_for_writing_is_not_committed() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    let file = fs::File::create(d.active("a").join("log")).unwrap();
    assert_eq!(errno(fs::rename(d.active("a"), d.committed("base"))), Errno::BUSY.raw_os_error());
    fs::write(d.active("a").join("more"), "still writable").unwrap();
    drop(file);
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    d.finish();
}

/// Maps a file, closes it, and at each line that it is told changes a byte; gives the mapping back at the third.
const MAPPER: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
fd = os.open(sys.argv[1], os.O_RDWR)
at = libc.mmap(None, 4096, 3, 1, fd, 0)
os.close(fd)
for n in range(2):
    print("mapped", flush=True)
    sys.stdin.readline()
    ctypes.memset(at + n, ord("Z"), 1)
libc.munmap(at, 4096)
print("unmapped", flush=True)
sys.stdin.readline()
"#;

/// The mapping outlives the descriptor, and where the kernel reads and writes the file by itself nobody tells us of it.
#[test]
fn a_snapshot_with_a_file_mapped_for_writing_is_not_committed() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "aaa").unwrap();
    let mut mapper = Command::new("python3")
        .args(["-c", MAPPER])
        .arg(d.active("a").join("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = mapper.stdin.take().unwrap();
    let mut says = BufReader::new(mapper.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..2 {
        assert_eq!(says.next().as_deref(), Some("mapped"));
        let busy = errno(fs::rename(d.active("a"), d.committed("base")));
        assert_eq!(busy, Errno::BUSY.raw_os_error());
        told.write_all(b"\n").unwrap();
    }
    assert_eq!(says.next().as_deref(), Some("unmapped"));
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    assert_eq!(fs::read(d.committed("base").join("f")).unwrap(), b"ZZa");
    drop(told);
    assert!(mapper.wait().unwrap().success());
    d.finish();
}

#[test]
fn a_reader_goes_on_over_commit_and_removal() {
    use std::io::Read;
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "content").unwrap();
    // This one reads it by the way on which it was made.
    let making = fs::File::create_new(d.active("a").join("made")).unwrap();
    let beside = fs::File::open(d.active("a").join("made")).unwrap();
    drop(making);
    let mut over_commit = fs::File::open(d.active("a").join("f")).unwrap();
    let mut over_removal = fs::File::open(d.active("a").join("f")).unwrap();
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    let mut text = String::new();
    over_commit.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    drop((over_commit, beside));
    fs::remove_dir(d.committed("base")).unwrap();
    text.clear();
    over_removal.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    drop(over_removal);
    d.cli(&["gc"]).ok();
    d.finish();
}

#[test]
fn a_bind_mount_survives_the_commit_read_only() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "x").unwrap();
    let at = d.root().join("bind");
    fs::create_dir(&at).unwrap();
    sh(&format!("mount --bind {} {}", d.active("a").display(), at.display())).ok();
    fs::write(at.join("g"), "through the bind mount").unwrap();
    d.cli(&["commit", "a", "base"]).ok();
    let read = fs::read_to_string(at.join("g"));
    let write = fs::write(at.join("h"), "x");
    sh(&format!("umount {}", at.display())).ok();
    assert_eq!(read.unwrap(), "through the bind mount");
    assert_eq!(errno(write), Errno::ROFS.raw_os_error());
    d.finish();
}

/// Bytes below a directory; the machine's other users don't count, as they do in the filesystem's free space.
fn disk_usage(dir: &Path) -> u64 {
    let text = sh(&format!("du -sB1 '{}' 2>/dev/null || true", dir.display())).ok();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn removed_space_comes_back_and_the_key_is_free_at_once() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    let mut big = fs::File::create(d.active("a").join("big")).unwrap();
    std::io::Write::write_all(&mut big, &vec![1u8; 32 << 20]).unwrap();
    // syncfs doesn't reach a FUSE daemon, and ext4 takes its blocks late: without this there is no space to come back.
    big.sync_all().unwrap();
    drop(big);
    d.cli(&["gc"]).ok();
    let used = |d: &Daemon| {
        if is_thin() {
            d.json(&["status"])["capacity"]["used"].as_u64().unwrap()
        } else {
            disk_usage(&d.root().join("native"))
        }
    };
    let full = used(&d);
    fs::remove_dir(d.active("a")).unwrap();
    fs::create_dir(d.active("a")).unwrap();
    d.cli(&["gc"]).ok();
    eventually("the space coming back", || used(&d) + (24 << 20) < full);
    d.finish();
}

#[test]
fn df_shows_the_volume_below_a_snapshot_and_the_pool_at_the_root() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    let root = rustix::fs::statvfs(d.mount()).unwrap();
    let snapshot = rustix::fs::statvfs(d.active("a")).unwrap();
    assert!(root.f_blocks * root.f_frsize > 0 && snapshot.f_blocks * snapshot.f_frsize > 0);
    assert!(snapshot.f_files > 0);
    if is_thin() {
        assert_ne!(root.f_blocks * root.f_frsize, snapshot.f_blocks * snapshot.f_frsize);
    }
    sh(&format!("timeout 20 df {} {}", d.mount().display(), d.active("a").display())).ok();
    d.finish();
}

#[test]
fn an_unprivileged_user_cannot_reach_the_store_behind_the_mount() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("secret"), "x").unwrap();
    fs::set_permissions(d.active("a").join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(d.active("a").join("public"), "x").unwrap();
    let as_nobody = |line: &str| {
        sh(&format!("timeout 20 setpriv --reuid=65534 --regid=65534 --clear-groups {line}"))
    };
    // The directories above the test's root may be closed to others (a home directory): the mount itself is judged from inside.
    for private in ["meta", "native", "thin"] {
        let Ok(meta) = fs::metadata(d.root().join(private)) else { continue };
        assert_eq!(meta.mode() & 0o077, 0, "{private} is closed to others");
    }
    let inside =
        format!("bash -c 'cd /proc/self/fd/9 && cat public' 9<{}", d.active("a").display());
    assert_eq!(as_nobody(&inside).ok().trim(), "x");
    let secret =
        format!("bash -c 'cd /proc/self/fd/9 && cat secret' 9<{}", d.active("a").display());
    assert_ne!(as_nobody(&secret).code, Some(0));
    d.finish();
}
