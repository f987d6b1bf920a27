//! Files without a name, and how few descriptors are held for those with one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;
use crate::fs::testing::{key, ns};

/// How many files below the rig's directory this process has open. (Others are those of tests beside this one.)
fn descriptors(mounted: &Mounted) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.starts_with(mounted.rig.dir.path())).count()
}

#[test]
fn open_file_without_a_name_works_on() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(root.join("f"))
            .unwrap();
        fs::remove_file(root.join("f")).unwrap();
        file.write_all(b"content").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        file.set_len(4).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len(), meta.mode() & 0o777), (0, 4, 0o640));
        let mut again =
            fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)))
                .unwrap();
        let mut text = String::new();
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "cont");
    }
}

#[test]
fn replaced_file_works_on_for_whoever_has_it_open() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "old").unwrap();
    let old = fs::File::open(root.join("f")).unwrap();
    fs::write(root.join("g"), "new").unwrap();
    fs::rename(root.join("g"), root.join("f")).unwrap();
    let mut back = [0; 3];
    old.read_exact_at(&mut back, 0).unwrap();
    assert_eq!((&back, old.metadata().unwrap().nlink()), (b"old", 0));
    assert_eq!(fs::read(root.join("f")).unwrap(), b"new");
}

#[test]
fn removed_directory_that_somebody_stands_in_is_empty() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::create_dir(root.join("d")).unwrap();
    let directory = fs::File::open(root.join("d")).unwrap();
    fs::remove_dir(root.join("d")).unwrap();
    assert_eq!(directory.metadata().unwrap().nlink(), 0);
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let made = rustix::fs::openat(&directory, "f", flags, rustix::fs::Mode::from(0o600));
    assert_eq!(made.unwrap_err(), rustix::io::Errno::NOENT);
}

#[test]
fn nothing_is_held_for_removed_files_once_they_are_forgotten() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let before = descriptors(&mounted);
    for n in 0..500 {
        fs::write(root.join(format!("{n}")), "").unwrap();
    }
    for n in 0..500 {
        fs::remove_file(root.join(format!("{n}"))).unwrap();
    }
    wait_until("descriptors are closed", || descriptors(&mounted) <= before + 4);
}

#[test]
fn descriptors_stay_bounded_when_many_files_are_known() {
    let mounted = Mounted::with(Rig::in_memory(20_000), true);
    let root = mounted.empty("a");
    for n in 0..6000 {
        fs::create_dir(root.join(format!("{n}"))).unwrap();
        fs::write(root.join(format!("{n}/f")), "").unwrap();
    }
    for n in 0..6000 {
        fs::set_permissions(root.join(format!("{n}/f")), fs::Permissions::from_mode(0o600))
            .unwrap();
    }
    assert!(descriptors(&mounted) < 4096 + 200, "{}", descriptors(&mounted));
}

#[test]
fn commit_right_after_removing_an_open_file_waits_for_the_kernel_to_forget_it() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let file = fs::File::create(root.join("f")).unwrap();
    fs::remove_file(root.join("f")).unwrap();
    drop(file);
    mounted.rig.snapshots.commit(&ns(), &key("done"), &key("a"), Default::default(), None).unwrap();
}
