//! Snapshots as directories: made, committed, removed and listed by plain tools, and from elsewhere.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::fs::testing::{key, ns};
use crate::types::{Kind, Labels, Namespace};

impl Mounted {
    fn settle(&self) {
        assert!(self.rig.fs.invalidator().settle(Duration::from_secs(5)));
    }
}

#[test]
fn mkdir_prepares_mv_commits_rmdir_removes() {
    let mounted = Mounted::new();
    let root = mounted.path("active/one two");
    fs::create_dir(&root).unwrap();
    assert_eq!(
        mounted.rig.snapshots.stat(&ns(), &key("one two")).unwrap().snapshot.kind,
        Kind::Active
    );
    assert_eq!(mode(&root), 0o755);
    fs::write(root.join("f"), "content").unwrap();
    fs::rename(&root, mounted.path("committed/layer")).unwrap();
    assert!(!root.exists());
    assert_eq!(fs::read(mounted.path("committed/layer/f")).unwrap(), b"content");
    assert_eq!(
        (names(mounted.path("active")), names(mounted.path("committed"))),
        (vec![], vec!["layer".to_owned()])
    );
    assert_eq!(
        mounted.rig.snapshots.stat(&ns(), &key("layer")).unwrap().snapshot.kind,
        Kind::Committed
    );
    fs::remove_dir(mounted.path("committed/layer")).unwrap();
    assert!(mounted.rig.snapshots.stat(&ns(), &key("layer")).is_err());
    assert_eq!(names(mounted.path("committed")), Vec::<String>::new());
    fs::create_dir(&root).unwrap();
    assert!(!root.join("f").exists());
}

#[test]
fn what_the_rules_forbid_is_refused_with_the_fitting_errno() {
    let mounted = Mounted::new();
    mounted.empty("base");
    mounted.rig.commit("layer", "base");
    mounted.rig.prepare("child", Some("layer"));
    mounted.rig.view("look", "layer");
    mounted.empty("k");
    let at = |path: &str| mounted.path(path);
    for taken in ["active/child", "active/layer", "active/look"] {
        assert_eq!(errno(fs::create_dir(at(taken))), libc::EEXIST, "{taken}");
    }
    assert_eq!(errno(fs::remove_dir(at("committed/layer"))), libc::EBUSY);
    assert_eq!(errno(fs::create_dir(at("view/new"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(at("committed/new"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(at("new"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(at("active/%41"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(at("active/k"), at("active/k2"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at("active/k"), at("committed/k"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at("view/look"), at("committed/look2"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at("committed/layer"), at("active/layer2"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at("active/k"), at("committed/%41"))), libc::EINVAL);
    let taken = errno(fs::rename(at("active/k"), at("committed/layer")));
    assert!([libc::EEXIST, libc::ENOTEMPTY].contains(&taken), "{taken}");
    assert_eq!(errno(fs::write(at("active/file"), "")), libc::EPERM);
    assert_eq!(errno(symlink("x", at("active/link"))), libc::EPERM);
    assert_eq!(
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::empty(), 0).unwrap_err(),
        rustix::io::Errno::PERM
    );
    assert_eq!(errno(fs::remove_dir(at("active"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(at("active/k"))), libc::EISDIR);
    assert_eq!(
        errno(fs::set_permissions(at("active"), fs::Permissions::from_mode(0o777))),
        libc::EPERM
    );
    assert_eq!(errno(fs::metadata(at("active/%6b"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(at("view/k"))), libc::ENOENT);
    assert!(at("active/k").exists());
}

#[test]
fn read_only_kinds_refuse_every_change() {
    let mounted = Mounted::new();
    let root = mounted.empty("base");
    fs::write(root.join("f"), "content").unwrap();
    fs::create_dir(root.join("d")).unwrap();
    mounted.rig.commit("layer", "base");
    mounted.rig.view("look", "layer");
    mounted.settle();
    for root in [mounted.path("committed/layer"), mounted.path("view/look")] {
        let f = root.join("f");
        let mknod = |kind| {
            std::io::Error::from(
                rustix::fs::mknodat(CWD, root.join("n"), kind, Mode::from(0o600), 0).unwrap_err(),
            )
        };
        let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        let failures = [
            ("open for writing", fs::File::options().write(true).open(&f).map(drop)),
            (
                "open and truncate",
                fs::File::options().write(true).truncate(true).open(&f).map(drop),
            ),
            ("create", fs::write(root.join("new"), "")),
            ("mkdir", fs::create_dir(root.join("new"))),
            ("symlink", symlink("x", root.join("new"))),
            ("link", fs::hard_link(&f, root.join("new"))),
            ("fifo", Err(mknod(FileType::Fifo))),
            ("unlink", fs::remove_file(&f)),
            ("rmdir", fs::remove_dir(root.join("d"))),
            ("rename", fs::rename(&f, root.join("g"))),
            ("chmod", fs::set_permissions(&f, fs::Permissions::from_mode(0o600))),
            ("chmod of the root", fs::set_permissions(&root, fs::Permissions::from_mode(0o700))),
            ("chown", std::os::unix::fs::chown(&f, Some(1), None)),
            ("utimens", fs::File::open(&f).unwrap().set_times(times)),
            ("truncate", nix::unistd::truncate(&f, 0).map_err(Into::into)),
            (
                "setxattr",
                rustix::fs::setxattr(&f, "user.x", b"", XattrFlags::empty()).map_err(Into::into),
            ),
            ("removexattr", rustix::fs::removexattr(&f, "user.x").map_err(Into::into)),
        ];
        for (what, result) in failures {
            assert_eq!(errno(result), libc::EROFS, "{what} in {}", root.display());
        }
        assert_eq!(fs::read(&f).unwrap(), b"content");
    }
}

#[test]
fn view_and_parent_are_different_directories_with_one_content() {
    let mounted = Mounted::new();
    let root = mounted.empty("base");
    fs::write(root.join("f"), "content").unwrap();
    mounted.rig.commit("layer", "base");
    mounted.rig.view("look", "layer");
    let (view, layer) = (mounted.path("view/look/f"), mounted.path("committed/layer/f"));
    assert_eq!(fs::read(&view).unwrap(), fs::read(&layer).unwrap());
    assert_ne!(fs::metadata(view).unwrap().ino(), fs::metadata(layer).unwrap().ino());
}

#[test]
fn changes_from_elsewhere_show_once_settled() {
    let mounted = Mounted::new();
    assert_eq!(names(mounted.path("active")), Vec::<String>::new());
    assert!(!mounted.path("active/k").exists());
    mounted.rig.prepare("k", None);
    mounted.settle();
    assert_eq!(names(mounted.path("active")), ["k"]);
    fs::write(mounted.path("active/k/f"), "x").unwrap();
    mounted.rig.commit("n", "k");
    mounted.settle();
    assert!(!mounted.path("active/k").exists());
    assert_eq!(
        (names(mounted.path("active")), names(mounted.path("committed"))),
        (vec![], vec!["n".to_owned()])
    );
    assert_eq!(fs::read(mounted.path("committed/n/f")).unwrap(), b"x");
    mounted.rig.snapshots.remove(&ns(), &key("n")).unwrap();
    mounted.settle();
    assert!(!mounted.path("committed/n").exists());
    assert_eq!(names(mounted.path("committed")), Vec::<String>::new());
    mounted.rig.prepare("k", None);
    mounted.settle();
    assert_eq!(names(mounted.path("active/k")), Vec::<String>::new());
}

#[test]
fn listing_shows_snapshots_that_came_while_nobody_looked() {
    let mounted = Mounted::new();
    for n in 0..50 {
        mounted.rig.prepare(&format!("k{n:02}"), None);
        mounted.settle();
        assert_eq!(names(mounted.path("active")).len(), n + 1);
    }
}

#[test]
fn commit_waits_for_files_just_closed_and_refuses_those_open_for_writing() {
    let mounted = Mounted::new();
    let root = mounted.empty("k");
    let mut file = fs::File::create(root.join("f")).unwrap();
    file.write_all(b"before").unwrap();
    assert_eq!(errno(fs::rename(&root, mounted.path("committed/n"))), libc::EBUSY);
    file.write_all(b", after").unwrap();
    drop(file);
    fs::rename(&root, mounted.path("committed/n")).unwrap();
    assert_eq!(fs::read(mounted.path("committed/n/f")).unwrap(), b"before, after");
}

#[test]
fn readers_go_on_over_commit_and_removal() {
    let mounted = Mounted::new();
    let root = mounted.empty("k");
    fs::write(root.join("f"), "content").unwrap();
    let reader = fs::File::open(root.join("f")).unwrap();
    let directory = fs::File::open(&root).unwrap();
    mounted.rig.commit("n", "k");
    mounted.settle();
    let mut back = [0; 7];
    reader.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"content");
    let flags = rustix::fs::OFlags::RDONLY;
    rustix::fs::openat(&directory, "f", flags, Mode::empty()).unwrap();
    let made = rustix::fs::mkdirat(&directory, "new", Mode::from(0o755));
    assert_eq!(made.unwrap_err(), rustix::io::Errno::ROFS);
    mounted.rig.snapshots.remove(&ns(), &key("n")).unwrap();
    mounted.settle();
    reader.read_exact_at(&mut back, 0).unwrap();
    let again = rustix::fs::openat(&directory, "f", flags, Mode::empty());
    assert!(matches!(again, Err(rustix::io::Errno::STALE | rustix::io::Errno::NOENT)), "{again:?}");
}

#[test]
fn bind_mount_of_a_snapshot_outlives_its_commit_read_only() {
    let mounted = Mounted::new();
    let root = mounted.empty("k");
    fs::write(root.join("f"), "content").unwrap();
    let target = tempfile::tempdir().unwrap();
    rustix::mount::mount_bind(&root, target.path()).unwrap();
    mounted.rig.commit("n", "k");
    mounted.settle();
    let read = fs::read(target.path().join("f"));
    let write = fs::write(target.path().join("g"), "");
    let listed = fs::read_dir(target.path()).unwrap().count();
    rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!((read.unwrap(), errno(write), listed), (b"content".to_vec(), libc::EROFS, 1));
    assert_eq!(fs::read(mounted.path("committed/n/f")).unwrap(), b"content");
}

#[test]
fn namespaces_are_apart_and_those_elsewhere_stand_below_ns() {
    let mounted = Mounted::new();
    let other = Namespace::new("ctr").unwrap();
    mounted.rig.snapshots.prepare(&other, &key("k"), None, Labels::new()).unwrap();
    mounted.empty("k");
    mounted.settle();
    assert_eq!(names(mounted.path(".ns")), ["ctr"]);
    assert_eq!(names(mounted.path(".ns/ctr")), ["active", "committed", "view"]);
    let (ours, theirs) = (mounted.path("active/k"), mounted.path(".ns/ctr/active/k"));
    fs::write(theirs.join("f"), "").unwrap();
    assert!(!ours.join("f").exists());
    assert_ne!(fs::metadata(&ours).unwrap().ino(), fs::metadata(&theirs).unwrap().ino());
    assert!(!mounted.path(".ns/default").exists());
    assert!(!mounted.path(".ns/not..well-formed").exists());
    fs::create_dir(mounted.path(".ns/new/active/first")).unwrap();
    assert_eq!(names(mounted.path(".ns")), ["ctr", "new"]);
    assert_eq!(errno(fs::rename(&ours, mounted.path(".ns/ctr/committed/n"))), libc::EXDEV);
    fs::rename(theirs, mounted.path(".ns/ctr/committed/n")).unwrap();
}

#[test]
fn long_key_is_found_by_its_digest() {
    let mounted = Mounted::new();
    let long = format!("default/7/{}", "layer ☃".repeat(100));
    let info = mounted.rig.prepare(&long, None);
    let root = mounted.path("active").join(crate::fs::names::encode(&info.key));
    fs::write(root.join("f"), "").unwrap();
    let mut value = vec![0; 8192];
    let len = rustix::fs::getxattr(&root, "thinfs.key", &mut value[..]).unwrap();
    assert_eq!(&value[..len], long.as_bytes());
    assert_eq!(fs::read_dir(mounted.path("active")).unwrap().count(), 1);
    let forged = root.to_str().unwrap().replace("layer", "lawyer");
    assert!(!Path::new(&forged).exists());
}

#[test]
fn parent_directory_of_a_snapshot_is_its_kind() {
    let mounted = Mounted::new();
    let root = mounted.empty("k");
    fs::create_dir(root.join("d")).unwrap();
    let ino = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(ino(root.join("..")), ino(mounted.path("active")));
    assert_eq!(ino(root.join("d/..")), ino(root.clone()));
    let listed: HashSet<u64> = raw_inos(&root);
    assert!(listed.contains(&ino(mounted.path("active"))) && listed.contains(&ino(root)));
}

fn raw_inos(path: &Path) -> HashSet<u64> {
    let directory = fs::File::open(path).unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&directory, &mut buffer);
    let mut inos = HashSet::new();
    while let Some(entry) = entries.next() {
        inos.insert(entry.unwrap().ino());
    }
    inos
}

#[test]
fn ten_thousand_snapshots_list_fast_without_activating_one() {
    let mounted = Mounted::with(Rig::in_memory(20_000), true);
    for n in 0..10_000 {
        mounted.rig.prepare(&format!("default/{n}/extract-{n} sha256:{n:08x}"), None);
    }
    mounted.settle();
    let start = Instant::now();
    let listed = fs::read_dir(mounted.path("active")).unwrap().count();
    let took = start.elapsed();
    assert_eq!((listed, mounted.rig.activated()), (10_000, 0));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let start = Instant::now();
    let long =
        std::process::Command::new("ls").arg("-l").arg(mounted.path("active")).output().unwrap();
    assert_eq!(long.stdout.iter().filter(|byte| **byte == b'\n').count(), 10_001);
    assert!(mounted.rig.activated() < 100, "{}", mounted.rig.activated());
    eprintln!("ls: {took:?}, ls -l: {:?}", start.elapsed());
}

#[test]
fn listing_goes_on_while_snapshots_come_and_go() {
    let mounted = Mounted::with(Rig::in_memory(20_000), true);
    for n in 0..2000 {
        mounted.rig.prepare(&format!("keep{n:04}"), None);
        mounted.rig.prepare(&format!("gone{n:04}"), None);
    }
    mounted.settle();
    let mut seen = Vec::new();
    for (n, entry) in fs::read_dir(mounted.path("active")).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if n % 400 == 0 {
            mounted
                .rig
                .snapshots
                .remove(&ns(), &key(&format!("gone{:04}", 1999 - n / 400)))
                .unwrap();
            mounted.rig.prepare(&format!("new{n}"), None);
        }
    }
    let kept: Vec<_> = seen.iter().filter(|name| name.starts_with("keep")).collect();
    assert_eq!(kept.len(), 2000);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
}
