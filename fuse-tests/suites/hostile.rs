//! Untrusted content: whatever a snapshot holds, the daemon stays inside it, and gives back what was put in.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{CWD, Dev, FileType, Mode, XattrFlags, mknodat};

use super::rounds;
use crate::harness::random::random;
use crate::harness::tree::listing;
use crate::harness::{Client, Daemon, sh, work_dir};

/// Links that lead out in every way, and what a careless daemon would do through them.
#[test]
fn links_names_and_mounts_in_a_snapshot_lead_the_daemon_nowhere() {
    let outside = tempfile::tempdir_in(work_dir()).unwrap();
    let secret = outside.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "untouched").unwrap();
    fs::set_permissions(secret.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = (listing(outside.path()), times(&secret), times(&secret.join("file")));

    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("evil", "").unwrap();
    let at = d.active("evil");
    symlink(&secret, at.join("absolute")).unwrap();
    symlink(secret.join("file"), at.join("to-file")).unwrap();
    symlink("../../../../../../../../../../../../etc", at.join("up")).unwrap();
    symlink("loop", at.join("loop")).unwrap();
    symlink("/proc/self/root", at.join("magic")).unwrap();
    symlink("/dev/zero", at.join("endless")).unwrap();
    // Names that mean something to somebody: to a layer, to a shell, to a terminal, to `..` without being it.
    for name in [
        ".wh.file",
        ".wh..wh..opq",
        "-rf",
        "a\nb",
        "\u{1b}[2J",
        "...",
        "%2e%2e",
        "..%2f..",
        "lost+found",
    ] {
        fs::write(at.join(name), name).unwrap();
    }
    sh(&format!(
        "cd '{}' && mkfifo fifo && mknod disk b 254 0 && mknod mem c 1 1 && mkdir mounted",
        at.display()
    ))
    .ok();

    let mounted = at.join("mounted");
    sh(&format!("mount -t tmpfs guest '{0}' && echo inside > '{0}/inside'", mounted.display()))
        .ok();
    let unmount = Unmount(mounted);
    d.cli(&["usage", "evil"]).ok();
    d.cli(&["prepare", "empty"]).ok();
    assert!(
        !d.cli(&["diff", "empty", "evil"]).ok().contains("inside"),
        "a mount is not the snapshot's"
    );
    client.commit("evil", "base").unwrap();
    client.prepare("child", "base").unwrap();
    let child = d.active("child");
    assert!(!child.join("mounted/inside").exists(), "a mount is not the snapshot's");
    assert_eq!(fs::read_link(child.join("absolute")).unwrap(), secret);
    assert_eq!(fs::read_link(child.join("magic")).unwrap(), Path::new("/proc/self/root"));
    assert!(fs::symlink_metadata(child.join("up")).unwrap().is_symlink());
    // A directory becomes a link to the outside, which makes everything below it "deleted".
    fs::remove_dir(child.join("mounted")).unwrap();
    symlink(&secret, child.join("mounted")).unwrap();
    assert!(d.cli(&["diff", "base", "child"]).ok().contains("mounted"));
    client.commit("child", "grandchild").unwrap();
    drop(unmount);
    for key in ["grandchild", "base", "empty"] {
        client.remove(key).unwrap();
    }
    assert_eq!(client.gc().failed, Vec::<String>::new());
    assert_eq!(before, (listing(outside.path()), times(&secret), times(&secret.join("file"))));
    d.finish();
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Nobody has looked inside, and nobody has changed it.
fn times(path: &Path) -> [i64; 4] {
    let metadata = path.symlink_metadata().unwrap();
    [metadata.atime(), metadata.atime_nsec(), metadata.ctime(), metadata.ctime_nsec()]
}

/// One thing in a random tree; where it goes is chosen among the directories made before it.
#[derive(Debug, Clone)]
struct Thing {
    within: prop::sample::Index,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    seconds: i64,
    xattr: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Sparse(u32),
    Link(Vec<u8>),
    Hard(prop::sample::Index),
    Fifo,
    Socket,
    Character(u32, u32),
}

fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((1u8..=255).prop_filter("no slash", |byte| *byte != b'/'), 1..=longest)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => bytes(12), 1 => bytes(255)]
        .prop_filter("a name", |name| name != b"." && name != b"..")
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Directory),
        5 => prop::collection::vec(any::<u8>(), 0..9000).prop_map(Kind::File),
        1 => (0u32..50_000_000).prop_map(Kind::Sparse),
        2 => bytes(300).prop_map(Kind::Link),
        3 => any::<prop::sample::Index>().prop_map(Kind::Hard),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => (0u32..4000, 0u32..900_000).prop_map(|(major, minor)| Kind::Character(major, minor)),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let owner = prop_oneof![
        Just((0, 0)),
        (any::<u32>(), any::<u32>()).prop_filter("not -1", |o| o.0 != u32::MAX && o.1 != u32::MAX)
    ];
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..2000));
    (
        any::<prop::sample::Index>(),
        name(),
        kind(),
        0u32..0o10000,
        owner,
        -2_000_000_000i64..8_000_000_000,
        xattr,
    )
        .prop_map(|(within, name, kind, mode, owner, seconds, xattr)| Thing {
            within,
            name,
            kind,
            mode,
            owner,
            seconds,
            xattr,
        })
}

/// Builds the tree. Answers what was made, so that both sides can be seen to agree on what is possible.
fn build(root: &Path, things: &[Thing]) -> usize {
    let (mut directories, mut files) = (vec![root.to_path_buf()], Vec::<PathBuf>::new());
    let mut made = 0;
    for thing in things {
        let path = thing.within.get(&directories).join(OsString::from_vec(thing.name.clone()));
        if !make(&path, thing, &files) {
            continue;
        }
        made += 1;
        match thing.kind {
            Kind::Directory => directories.push(path),
            Kind::File(_) | Kind::Sparse(_) => files.push(path),
            _ => {}
        }
    }
    // Last, for each thing made in a directory changes the directory's time.
    directories.iter().skip(1).for_each(|path| set_time(path, 1_234_567_890));
    made
}

fn make(path: &Path, thing: &Thing, files: &[PathBuf]) -> bool {
    if path.symlink_metadata().is_ok() {
        return false;
    }
    let node = |file_type, device: Dev| {
        mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device)
            .map_err(std::io::Error::from)
    };
    let made = match &thing.kind {
        Kind::Directory => fs::create_dir(path),
        Kind::File(content) => fs::write(path, content),
        Kind::Sparse(len) => fs::File::create(path).and_then(|file| file.set_len((*len).into())),
        Kind::Link(target) => symlink(OsString::from_vec(target.clone()), path),
        Kind::Hard(_) if files.is_empty() => return false,
        Kind::Hard(which) => return fs::hard_link(which.get(files), path).is_ok(),
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::Socket => node(FileType::Socket, 0),
        Kind::Character(major, minor) => {
            node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
        }
    };
    if let Err(error) = made {
        // Too long a path is no fault; the other side must refuse it too.
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()),
            "{path:?}: {error}"
        );
        return false;
    }
    std::os::unix::fs::lchown(path, Some(thing.owner.0), Some(thing.owner.1)).unwrap();
    if !matches!(thing.kind, Kind::Link(_)) {
        fs::set_permissions(path, fs::Permissions::from_mode(thing.mode)).unwrap();
    }
    if let Some(value) = &thing.xattr {
        rustix::fs::lsetxattr(path, "trusted.value", value, XattrFlags::empty()).unwrap();
    }
    set_time(path, thing.seconds);
    true
}

fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The same tree in a plain directory and in a snapshot: equal there, after the commit, and in a child.
#[test]
fn random_trees_are_the_same_in_a_snapshot() {
    let d = Daemon::start();
    let count = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(random(rounds(8, 2) as u32, 40));
    let tested = runner.run(&prop::collection::vec(thing(), 1..60), |things| {
        count.set(count.get() + 1);
        same(&d, count.get(), &things);
        Ok(())
    });
    tested.unwrap_or_else(|failure| panic!("{failure}"));
    d.finish();
}

fn same(d: &Daemon, case: u32, things: &[Thing]) {
    let mut client = Client::connect(&d.socket());
    let plain = tempfile::tempdir_in(work_dir()).unwrap();
    let (key, name, child) =
        (format!("t{case}"), format!("t{case}-done"), format!("t{case}-child"));
    client.prepare(&key, "").unwrap();
    assert_eq!(build(&d.active(&key), things), build(plain.path(), things));
    let expected = listing(plain.path());
    agree(&listing(&d.active(&key)), &expected, "where it was made");
    client.commit(&key, &name).unwrap();
    client.prepare(&child, &name).unwrap();
    agree(&listing(&d.active(&child)), &expected, "in a child");
    assert_eq!(d.cli(&["diff", &name, &child]).ok(), "");
    client.remove(&child).unwrap();
    client.remove(&name).unwrap();
}

fn agree(
    seen: &std::collections::BTreeMap<String, String>,
    expected: &std::collections::BTreeMap<String, String>,
    place: &str,
) {
    let (seen, expected): (BTreeSet<_>, BTreeSet<_>) =
        (seen.iter().collect(), expected.iter().collect());
    let differ: Vec<_> = seen.symmetric_difference(&expected).collect();
    assert!(differ.is_empty(), "{place}: {differ:#?}");
}
