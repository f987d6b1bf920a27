//! The tree without a kernel: what it answers, what it refuses, what it holds.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::testing::{ROOT, Rig, key, ns};
use super::types::{Caller, Changes, FOREVER, Found, NodeId, Rename, SetTime};
use super::{Asked, Error};

const HASTY: Caller = Caller { may_wait: false, ..ROOT };

fn os<T: std::fmt::Debug>(result: super::Result<T>) -> Errno {
    match result.unwrap_err() {
        Error::Os(errno) => errno,
        Error::WouldWait => panic!("would wait"),
    }
}

#[test]
fn whoever_may_not_wait_changes_nothing_and_is_told_so() {
    let rig = Rig::new();
    let info = rig.prepare("k", None);
    let root = NodeId::root_of(info.snapshot.id);
    let would_wait = |result: super::Result<()>| assert_eq!(result.unwrap_err(), Error::WouldWait);
    would_wait(rig.fs.mkdir(&HASTY, root, "d".as_ref(), 0o755).map(drop));
    would_wait(rig.fs.getattr(&Caller { uid: 1, ..HASTY }, root).map(drop));
    would_wait(rig.fs.mkdir(&HASTY, NodeId(2), "new".as_ref(), 0o755).map(drop));
    would_wait(rig.fs.rmdir(&HASTY, NodeId(2), "k".as_ref()));
    let rename = Rename {
        parent: NodeId(2),
        name: "k".into(),
        new_parent: NodeId(4),
        new_name: "n".into(),
        flags: RenameFlags::empty(),
    };
    would_wait(rig.fs.rename(&HASTY, &rename));
    assert_eq!(rig.snapshots.page(&ns(), crate::types::Kind::Active, None, 9).unwrap().len(), 1);
    rig.fs.mkdir(&ROOT, root, "d".as_ref(), 0o755).unwrap();
    // Activated now, so there is nothing to wait for.
    rig.fs.mkdir(&HASTY, root, "e".as_ref(), 0o755).unwrap();
}

#[test]
fn node_ids_lead_back_without_a_table() {
    let rig = Rig::new();
    let info = rig.prepare("k", None);
    fs::create_dir(rig.backing(&info).join("d")).unwrap();
    let ino = fs::metadata(rig.backing(&info).join("d")).unwrap().ino();
    // Never looked up: the number is enough.
    let node = NodeId::new(info.snapshot.id, u32::try_from(ino).unwrap());
    assert_eq!(rig.fs.getattr(&ROOT, node).unwrap().attr.node, node);
    assert_eq!(rig.node("active/k/d"), node);
}

#[test]
fn made_up_node_does_not_lead_out_of_the_volume() {
    let rig = Rig::new();
    let info = rig.prepare("k", None);
    let outside = rig.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    fs::create_dir_all(rig.backing(&info).join("d/e")).unwrap();
    let node = |path: std::path::PathBuf| {
        let ino = fs::metadata(path).unwrap().ino();
        NodeId::new(info.snapshot.id, u32::try_from(ino).unwrap())
    };
    for path in [outside.clone(), outside.join("secret")] {
        assert_eq!(os(rig.fs.lookup(&ROOT, node(path), ".".as_ref())), Errno::STALE);
    }
    assert!(rig.fs.lookup(&ROOT, node(rig.backing(&info).join("d/e")), ".".as_ref()).is_ok());
}

#[test]
fn parent_of_a_directory_is_found() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let child = rig.fs.mkdir(&ROOT, root, "d".as_ref(), 0o755).unwrap().known.attr.node;
    let parent = |node| match rig.fs.lookup(&ROOT, node, "..".as_ref()).unwrap() {
        Found::Entry(entry) => entry.known.attr.node,
        Found::Absent(_) => panic!("no parent"),
    };
    assert_eq!((parent(child), parent(root), parent(NodeId(2))), (root, NodeId(2), NodeId(1)));
}

#[test]
fn names_hold_for_ever_inside_and_absent_ones_not_above() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let absent = |node, name: &str| match rig.fs.lookup(&ROOT, node, name.as_ref()).unwrap() {
        Found::Absent(ttl) => ttl,
        Found::Entry(entry) => panic!("{entry:?}"),
    };
    assert_eq!(absent(rig.node("active/k"), "x"), FOREVER);
    assert_eq!(absent(NodeId(2), "x"), Duration::ZERO);
}

#[test]
fn attributes_of_set_user_id_files_hold_for_no_time() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let asked = Asked(OFlags::RDWR);
    let (entry, opened) = rig.fs.create(&ROOT, root, "f".as_ref(), 0o755, asked).unwrap();
    assert_eq!(entry.known.ttl, FOREVER);
    let changes = Changes {
        mode: Some(0o4755),
        uid: None,
        gid: None,
        size: None,
        atime: SetTime::Keep,
        mtime: SetTime::Keep,
    };
    let known = rig.fs.setattr(&ROOT, entry.known.attr.node, &changes, None).unwrap();
    assert_eq!((known.ttl, known.attr.mode & 0o7777), (Duration::ZERO, 0o4755));
    opened.file.write(&Caller { fsetid: Some(false), ..ROOT }, b"x", 0).unwrap();
    assert_eq!(rig.fs.getattr(&ROOT, entry.known.attr.node).unwrap().attr.mode & 0o7777, 0o755);
    rig.fs.begin_bypass(entry.known.attr.node);
    assert_eq!(rig.fs.getattr(&ROOT, entry.known.attr.node).unwrap().ttl, Duration::ZERO);
    let (node, handle) = (entry.known.attr.node, opened.handle);
    drop(opened);
    rig.fs.release_bypassed(handle);
    assert_eq!(rig.fs.getattr(&ROOT, node).unwrap().ttl, FOREVER);
    assert_eq!(os(rig.fs.file(handle)), Errno::BADF);
}

#[test]
fn creating_what_is_there_opens_nothing() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let create =
        |flags| rig.fs.create(&ROOT, root, "f".as_ref(), 0o600, Asked(OFlags::WRONLY | flags));
    create(OFlags::EXCL).unwrap();
    assert_eq!(os(create(OFlags::EXCL)), Errno::EXIST);
    assert_eq!(os(create(OFlags::TRUNC)), Errno::STALE);
}

#[test]
fn names_with_more_than_one_component_are_refused() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    for name in ["", ".", "..", "a/b"] {
        assert_eq!(os(rig.fs.mkdir(&ROOT, root, name.as_ref(), 0o755)), Errno::INVAL, "{name:?}");
        assert_eq!(os(rig.fs.unlink(&ROOT, root, name.as_ref())), Errno::INVAL, "{name:?}");
    }
}

#[test]
fn removed_snapshot_is_stale_and_its_number_never_another() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let child = rig.fs.mkdir(&ROOT, root, "d".as_ref(), 0o755).unwrap().known.attr.node;
    rig.snapshots.remove(&ns(), &key("k")).unwrap();
    rig.prepare("k", None);
    assert_eq!(os(rig.fs.getattr(&ROOT, child)), Errno::STALE);
    assert_eq!(os(rig.fs.getattr(&ROOT, root)), Errno::STALE);
    assert_ne!(rig.node("active/k"), root);
}

#[test]
fn root_is_remembered_when_its_volume_goes_unless_it_has_an_acl() {
    let rig = Rig::with_limit(1);
    let info = rig.prepare("k", None);
    let root = rig.node("active/k");
    fs::set_permissions(rig.backing(&info), fs::Permissions::from_mode(0o711)).unwrap();
    let evict = || {
        for name in ["x", "y"] {
            if rig.snapshots.stat(&ns(), &key(name)).is_err() {
                rig.prepare(name, None);
            }
            rig.fs
                .list(&ROOT, rig.node(format!("active/{name}")), 0, true, &mut |_| false)
                .unwrap();
        }
        let id = info.snapshot.volume;
        super::testing::wait_until("the volume is deactivated", || {
            rig.snapshots.volumes().status().iter().all(|volume| volume.id != id)
        });
    };
    evict();
    let other = Caller { uid: 1000, ..HASTY };
    super::testing::wait_until("the root is remembered", || rig.fs.getattr(&other, root).is_ok());
    assert_eq!(rig.fs.getattr(&other, root).unwrap().attr.mode & 0o7777, 0o711);
    assert_ne!(rig.snapshots.volumes().status()[0].id, info.snapshot.volume);
    rig.fs.list(&ROOT, root, 0, true, &mut |_| false).unwrap();
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\0\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    rig.fs.setxattr(&ROOT, root, "system.posix_acl_access".as_ref(), acl, 0).unwrap();
    evict();
    for _ in 0..100 {
        assert_eq!(rig.fs.getattr(&other, root).unwrap_err(), Error::WouldWait);
        std::thread::yield_now();
    }
}

#[test]
fn file_without_a_name_is_held_until_it_is_forgotten_and_keeps_a_commit_waiting() {
    let rig = Rig::new();
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let (entry, opened) =
        rig.fs.create(&ROOT, root, "f".as_ref(), 0o600, Asked(OFlags::WRONLY)).unwrap();
    rig.fs.release(opened.handle);
    drop(opened);
    let node = entry.known.attr.node;
    rig.fs.unlink(&ROOT, root, "f".as_ref()).unwrap();
    assert_eq!(rig.fs.getattr(&ROOT, node).unwrap().attr.nlink, 0);
    let writers = || rig.snapshots.volumes().status()[0].writers;
    assert_eq!(writers(), 1);
    drop(rig.fs.forget(node, 1));
    assert_eq!(writers(), 0);
    assert_eq!(os(rig.fs.getattr(&ROOT, node)), Errno::STALE);
}

#[test]
fn filesystem_whose_handles_cannot_be_derived_remembers_them_until_forget() {
    let rig = Rig::in_memory(8);
    rig.prepare("k", None);
    let root = rig.node("active/k");
    let node = rig.fs.mkdir(&ROOT, root, "d".as_ref(), 0o755).unwrap().known.attr.node;
    assert_eq!(rig.node("active/k/d"), node);
    rig.fs.getattr(&ROOT, node).unwrap();
    let mut taken = 0;
    rig.fs
        .list(&ROOT, root, 0, true, &mut |line| {
            taken += usize::from(line.entry.is_some());
            false
        })
        .unwrap();
    assert_eq!((taken, rig.fs.cached.nodes.remembered_count()), (1, 1));
    drop(rig.fs.forget(node, 2));
    assert_eq!(rig.fs.cached.nodes.remembered_count(), 1);
    drop(rig.fs.forget(node, 1));
    assert_eq!(rig.fs.cached.nodes.remembered_count(), 0);
}

#[test]
fn listing_goes_on_from_any_cookie() {
    let rig = Rig::new();
    for name in ["a", "b", "c"] {
        rig.prepare(name, None);
    }
    let from = |cookie| {
        let mut names = Vec::new();
        let mut sink = |line: &super::types::Line<'_>| {
            names.push((String::from_utf8(line.name.to_vec()).unwrap(), line.cookie));
            false
        };
        rig.fs.list(&HASTY, NodeId(2), cookie, true, &mut sink).unwrap();
        names
    };
    let all = from(0);
    assert_eq!(
        all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".", "..", "a", "b", "c"]
    );
    for (index, (_, cookie)) in all.iter().enumerate() {
        assert_eq!(from(*cookie), all[index + 1..]);
    }
    assert_eq!(rig.activated(), 0);
}
