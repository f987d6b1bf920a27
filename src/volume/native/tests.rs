use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::super::Volumes;
use super::*;
use crate::tree::testing::{Scratch, dir, manifest};

static NEVER: AtomicBool = AtomicBool::new(false);

fn start(dir: &Path) -> NativeBackend {
    NativeBackend::start(NativeConfig { dir: dir.to_owned() }).unwrap()
}

fn record(id: u32, state: VolumeState) -> Volume {
    Volume { id: VolumeId(id), state, origin: None, size: 0, backing: Backing::Native }
}

fn names_in(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn freeze(path: &Path) {
    let file = dir(path);
    ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | IFlags::IMMUTABLE).unwrap();
}

#[test]
fn an_empty_volume_is_an_empty_directory_0755_of_root() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(&base.path().join("root/native"));
    let volume = backend.create(VolumeId(1), None, Some(1 << 30)).unwrap();
    assert_eq!(volume, record(1, VolumeState::Live));
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let path = format!("/proc/self/fd/{}/.", mounted.root.as_raw_fd());
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.mode(), stat.uid(), stat.gid()), (0o40755, 0, 0));
    assert_eq!(names_in(path.as_ref()), [""; 0]);
}

/// Whatever the host's umask was, and whatever the modes of what is in the volumes.
#[test]
fn nobody_but_root_gets_into_the_directory() {
    let base = tempfile::tempdir().unwrap();
    let native = base.path().join("native");
    fs::create_dir_all(native.join("volumes")).unwrap();
    for open in [&native, &native.join("volumes")] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    start(&native).create(VolumeId(1), None, None).unwrap();
    for private in ["", "volumes", "tmp", "volumes/1"] {
        let mode = fs::metadata(native.join(private)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700, "{private}");
    }
}

#[test]
fn a_volume_with_an_origin_is_its_copy_and_its_own() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    let (one, two) = (base.path().join("volumes/1/fs"), base.path().join("volumes/2/fs"));
    fs::create_dir(one.join("d")).unwrap();
    fs::write(one.join("d/f"), "old").unwrap();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o1777)).unwrap();
    let before = manifest(&one);
    let copy = backend.create(VolumeId(2), Some(&origin), None).unwrap();
    assert_eq!((copy.id, copy.origin), (VolumeId(2), Some(VolumeId(1))));
    assert_eq!(manifest(&two), before);
    fs::write(two.join("d/f"), "new").unwrap();
    assert_eq!(manifest(&one), before);
}

#[test]
fn on_xfs_copies_share_blocks() {
    let scratch = Scratch::xfs();
    let backend = start(&scratch.path());
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    fs::write(scratch.path().join("volumes/1/fs/large"), vec![1; 200 << 20]).unwrap();
    for id in 2..6 {
        backend.create(VolumeId(id), Some(&origin), None).unwrap();
    }
    let copies = backend.describe().into_iter().find(|(key, _)| key == "copies").unwrap().1;
    assert_eq!(copies, "reflink (blocks are shared)");
    assert!(backend.capacity().unwrap().used < 300 << 20);
}

#[test]
fn a_filesystem_without_reflink_is_described_as_making_full_copies() {
    let scratch = Scratch::ext4(16);
    let copies = |(key, value)| (key == "copies").then_some(value);
    let copies = start(&scratch.path()).describe().into_iter().find_map(copies);
    assert_eq!(copies.unwrap(), "full copies (ext4 has no reflink)");
}

#[test]
fn a_copy_that_does_not_fit_is_no_space_and_leaves_nothing() {
    let scratch = Scratch::ext4(32);
    let backend = start(&scratch.path().join("native"));
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    fs::write(scratch.path().join("native/volumes/1/fs/large"), vec![1; 18 << 20]).unwrap();
    let error = backend.create(VolumeId(2), Some(&origin), None).unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    assert_eq!(error.to_string(), "copying volume 1 to 2: the filesystem is full");
    assert_eq!(names_in(&scratch.path().join("native/tmp")), [""; 0]);
    assert_eq!(names_in(&scratch.path().join("native/volumes")), ["1"]);
}

#[test]
fn a_failed_create_leaves_nothing_and_touches_nothing() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    let absent = record(7, VolumeState::Live);
    let error = backend.create(VolumeId(8), Some(&absent), None).unwrap_err();
    assert!(matches!(error, Error::Missing(VolumeId(7))), "{error:?}");
    // The id is taken, against the rules.
    backend.create(VolumeId(1), None, None).unwrap();
    fs::write(base.path().join("volumes/1/fs/precious"), "").unwrap();
    assert!(backend.create(VolumeId(1), None, None).is_err());
    assert_eq!(names_in(&base.path().join("tmp")), [""; 0]);
    assert_eq!(names_in(&base.path().join("volumes/1/fs")), ["precious"]);
}

#[test]
fn what_a_killed_create_left_does_not_stop_the_next() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    fs::create_dir_all(base.path().join("tmp/1/fs/half")).unwrap();
    backend.create(VolumeId(1), None, None).unwrap();
    assert_eq!(names_in(&base.path().join("volumes/1/fs")), [""; 0]);
    assert_eq!(names_in(&base.path().join("tmp")), [""; 0]);
}

#[test]
fn destroy_removes_anything_and_twice_is_fine() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let root = base.path().join("volumes/1/fs");
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "").unwrap();
    freeze(&root.join("d/f"));
    freeze(&root.join("d"));
    // What an interrupted removal left under the name that this one needs.
    fs::create_dir_all(base.path().join("tmp/trash-1/fs/rest")).unwrap();
    backend.destroy(&volume).unwrap();
    backend.destroy(&volume).unwrap();
    assert_eq!(names_in(&base.path().join("volumes")), [""; 0]);
    assert_eq!(names_in(&base.path().join("tmp")), [""; 0]);
    let error = backend.activate(&volume, Access::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error:?}");
}

#[test]
fn reconcile_reaps_the_unnamed_and_reports_the_lost() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    for id in [1, 2, 3, 10] {
        backend.create(VolumeId(id), None, None).unwrap();
    }
    fs::create_dir_all(base.path().join("tmp/77/fs")).unwrap();
    fs::create_dir_all(base.path().join("tmp/trash-3/fs")).unwrap();
    fs::create_dir_all(base.path().join("tmp/trash-5/fs")).unwrap();
    let known = [
        record(1, VolumeState::Live),
        record(2, VolumeState::Tombstone),
        record(4, VolumeState::Live),
        record(5, VolumeState::Tombstone),
    ];
    assert_eq!(
        backend.check(&known).unwrap(),
        [
            "volume 4 has a record but no tree",
            "volume 3 has a tree but no record",
            "volume 10 has a tree but no record",
        ]
    );
    let found = backend.reconcile(&known).unwrap();
    assert_eq!(found, Reconciled { lost: vec![VolumeId(4)], reaped: 5, kept: 0 });
    assert_eq!(names_in(&base.path().join("volumes")), ["1", "2"]);
    assert_eq!(names_in(&base.path().join("tmp")), [""; 0]);
    assert_eq!(backend.reconcile(&known).unwrap().reaped, 0);
}

#[test]
fn what_is_no_volume_is_reported_and_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    fs::write(base.path().join("volumes/notes"), "").unwrap();
    fs::create_dir(base.path().join("volumes/007")).unwrap();
    let mut report = backend.check(&[]).unwrap();
    report.sort();
    assert_eq!(report, ["volumes/007 is not a volume", "volumes/notes is not a volume"]);
    assert_eq!(backend.reconcile(&[]).unwrap(), Reconciled::default());
    assert_eq!(names_in(&base.path().join("volumes")), ["007", "notes"]);
}

#[test]
fn usage_is_the_whole_tree_activated_or_not() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    fs::write(base.path().join("volumes/1/fs/f"), vec![1; 100_000]).unwrap();
    let copy = backend.create(VolumeId(2), Some(&origin), None).unwrap();
    let usage = backend.usage(&copy, Some(&origin), None, &NEVER).unwrap();
    assert_eq!(usage.inodes, 2);
    assert!((100_000..200_000).contains(&usage.size), "{usage:?}");
    let mounted = backend.activate(&copy, Access::ReadOnly).unwrap();
    assert_eq!(backend.usage(&copy, None, Some(&mounted), &NEVER).unwrap(), usage);
    let cancelled = backend.usage(&copy, None, None, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(Error::Cancelled(_))));
}

#[test]
fn a_filesystem_without_file_handles_is_refused_with_the_remedy() {
    let scratch = Scratch::ramfs();
    let dir = scratch.path().join("native");
    let error = NativeBackend::start(NativeConfig { dir: dir.clone() }).unwrap_err();
    let expected = format!(
        "{} is on ramfs, which has no file handles: choose a --root on ext4, xfs or btrfs",
        dir.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_stopped_backend_copies_no_further() {
    let base = tempfile::tempdir().unwrap();
    let backend = start(base.path());
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    fs::write(base.path().join("volumes/1/fs/f"), "x").unwrap();
    backend.stop().unwrap();
    let error = backend.create(VolumeId(2), Some(&origin), None).unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error:?}");
    // What it couldn't remove any more goes at the next start.
    let again = start(base.path());
    again.reconcile(&[origin]).unwrap();
    assert_eq!(names_in(&base.path().join("tmp")), [""; 0]);
    assert_eq!(names_in(&base.path().join("volumes")), ["1"]);
}

/// The life of two snapshots, as `snapshot` will drive it.
#[test]
fn prepared_written_sealed_copied_and_closed() {
    let base = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(start(base.path()));
    let volumes = Volumes::new(backend.clone(), 8);
    let first = backend.create(VolumeId(1), None, None).unwrap();
    let pin = volumes.pin(&first, Access::ReadWrite).unwrap();
    let writer = pin.writer().unwrap();
    fs::write(format!("/proc/self/fd/{}/f", pin.root().as_raw_fd()), "data").unwrap();
    drop(writer);
    let seal = volumes.seal(&first, Duration::from_millis(10)).unwrap();
    drop(seal);
    pin.writer().expect("the batch failed: writing goes on");
    volumes.seal(&first, Duration::from_millis(10)).unwrap().keep();
    assert!(matches!(pin.writer(), Err(Error::ReadOnly(_))));
    let second = backend.create(VolumeId(2), Some(&first), None).unwrap();
    let other = volumes.pin(&second, Access::ReadWrite).unwrap();
    let copied = fs::read(format!("/proc/self/fd/{}/f", other.root().as_raw_fd())).unwrap();
    assert_eq!(copied, b"data");
    assert!(volumes.usage(&second, Some(&first), &NEVER).unwrap().inodes == 2);
    drop(other);
    assert!(volumes.try_close(&second).unwrap());
    backend.destroy(&second).unwrap();
    drop(pin);
    volumes.stop().unwrap();
    assert_eq!(names_in(&base.path().join("volumes")), ["1"]);
}
