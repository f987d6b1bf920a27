//! The kernel's hold on a file outlives its closing, and nothing that should go stays because of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::*;
use crate::sys::handle::FileHandle;

fn read(path: &Path) {
    assert_eq!(File::open(path).unwrap().read(&mut [0; 8]).unwrap(), 4);
}

fn write(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().write_all(b"file").unwrap();
}

fn registered(mounted: &Mounted) -> u64 {
    mounted.session.stats().registered()
}

#[test]
fn a_file_opened_again_is_not_registered_again() {
    let mounted = Mounted::new();
    let file = mounted.empty("a").join("f");
    fs::write(&file, "file").unwrap();
    read(&file);
    let (before, passed) = (registered(&mounted), mounted.session.stats().passthrough());
    for _ in 0..10 {
        read(&file);
        write(&file);
        OpenOptions::new().read(true).append(true).open(&file).unwrap();
    }
    assert_eq!(registered(&mounted), before);
    assert_eq!(mounted.session.stats().passthrough(), passed + 30);
}

#[test]
fn a_file_that_gets_privileges_is_not_opened_by_an_earlier_hold() {
    let mounted = Mounted::new();
    let file = mounted.empty("a").join("f");
    fs::write(&file, "file").unwrap();
    read(&file);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    wait_until("the file is closed", || mounted.count(Op::Release) >= 2);
    let passed = mounted.session.stats().passthrough();
    read(&file);
    assert_eq!(mounted.session.stats().passthrough(), passed);
}

#[test]
fn a_hold_goes_with_its_volume() {
    let mounted = Mounted::with(Rig::with_limit(1), true);
    let [one, other] = ["a", "b"].map(|key| mounted.empty(key).join("f"));
    fs::write(&one, "file").unwrap();
    read(&one);
    fs::write(&other, "file").unwrap();
    wait_until("the first volume has made room for the second", || {
        mounted.rig.snapshots.volumes().activity().deactivations > 0
    });
    let before = registered(&mounted);
    read(&one);
    assert_eq!(registered(&mounted), before + 1);
}

/// Whether the backing filesystem still has the file, named or not.
fn is_there(mounted: &Mounted, handle: &FileHandle) -> bool {
    let mount = File::open(mounted.rig.dir.path()).unwrap();
    match handle.open(&mount, OFlags::PATH) {
        Ok(_) => true,
        Err(Errno::STALE) => false,
        Err(errno) => panic!("{errno}"),
    }
}

#[test]
fn a_hold_goes_with_the_files_last_name() {
    let mounted = Mounted::new();
    let info = mounted.rig.prepare("a", None);
    let root = mounted.path("active/a");
    for name in ["removed", "replaced"] {
        fs::write(root.join(name), "file").unwrap();
        read(&root.join(name));
    }
    let backing = File::open(mounted.rig.backing(&info)).unwrap();
    let handles = ["removed", "replaced"].map(|name| FileHandle::of(&backing, name).unwrap());
    assert!(handles.iter().all(|handle| is_there(&mounted, handle)));
    fs::remove_file(root.join("removed")).unwrap();
    fs::write(root.join("new"), "").unwrap();
    fs::rename(root.join("new"), root.join("replaced")).unwrap();
    wait_until("their blocks are free", || {
        handles.iter().all(|handle| !is_there(&mounted, handle))
    });
}

/// What the kernel can't do by itself needs a descriptor, which is opened then, whatever the file's name is by now.
#[test]
fn a_reader_without_a_name_gets_its_descriptor_when_it_needs_one() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "file").unwrap();
    let mut reader = File::open(root.join("f")).unwrap();
    fs::rename(root.join("f"), root.join("g")).unwrap();
    fs::remove_file(root.join("g")).unwrap();
    reader.sync_all().unwrap();
    assert_eq!(rustix::fs::seek(&reader, rustix::fs::SeekFrom::Hole(0)).unwrap(), 4);
    let copy = OpenOptions::new().write(true).create_new(true).open(root.join("copy")).unwrap();
    reader.rewind().unwrap();
    assert_eq!(rustix::fs::copy_file_range(&reader, None, &copy, None, 4).unwrap(), 4);
    assert_eq!(fs::read(root.join("copy")).unwrap(), b"file");
    let mut back = [0; 4];
    reader.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"file");
}
