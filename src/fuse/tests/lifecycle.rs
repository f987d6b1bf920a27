//! Mounting, unmounting, and what a killed daemon leaves.

use std::fs;

use super::*;
use crate::fuse::{Unmounted, clear_stale_mount};

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .contains(&format!(" {} fuse.thinfs ", path.display()))
}

#[test]
fn clean_unmount_leaves_nothing_and_pins_nothing() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "").unwrap();
    let held = fs::File::open(root.join("f")).unwrap();
    fs::remove_file(root.join("f")).unwrap();
    drop(held);
    let Mounted { session, rig, mountpoint } = mounted;
    assert!(session.is_alive() && is_mounted(mountpoint.path()));
    wait_until("the kernel has let go", || session.stats().of(Op::Release) >= 2);
    assert_eq!(session.unmount().unwrap(), Unmounted::Clean);
    assert!(!is_mounted(mountpoint.path()));
    assert!(rig.snapshots.volumes().status().iter().all(|volume| volume.pins == 0));
    rig.snapshots.volumes().stop().unwrap();
}

#[test]
fn busy_mount_goes_out_of_sight_and_is_served_until_it_is_left() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "still here").unwrap();
    let open = fs::File::open(root.join("f")).unwrap();
    let Mounted { session, rig, mountpoint } = mounted;
    assert_eq!(session.unmount().unwrap(), Unmounted::Lazy);
    assert!(!is_mounted(mountpoint.path()));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "still here");
    drop(open);
    drop(rig);
}

#[test]
fn unmount_by_somebody_else_is_noticed() {
    let mounted = Mounted::new();
    rustix::mount::unmount(mounted.mountpoint.path(), rustix::mount::UnmountFlags::empty())
        .unwrap();
    wait_until("the session has ended", || !mounted.session.is_alive());
    assert_eq!(mounted.session.unmount().unwrap(), Unmounted::Clean);
}

#[test]
fn tree_can_be_mounted_again() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "kept").unwrap();
    let Mounted { session, rig, mountpoint } = mounted;
    session.unmount().unwrap();
    let session = Session::mount(rig.fs.clone(), &MountConfig::at(mountpoint.path())).unwrap();
    let mounted = Mounted { session, rig, mountpoint };
    assert_eq!(fs::read(root.join("f")).unwrap(), b"kept");
    mounted.rig.snapshots.remove(&crate::fs::testing::ns(), &crate::fs::testing::key("a")).unwrap();
    assert!(mounted.rig.fs.invalidator().settle(std::time::Duration::from_secs(1)));
    assert!(!root.exists());
}

#[test]
fn mount_left_by_a_killed_daemon_is_cleared() {
    let mountpoint = tempfile::tempdir().unwrap();
    assert!(!clear_stale_mount(mountpoint.path()).unwrap());
    for _ in 0..2 {
        // A device that is closed without having been served: what a killed daemon leaves.
        let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            std::os::fd::AsRawFd::as_raw_fd(&device)
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(
            "x",
            mountpoint.path(),
            "fuse.thinfs",
            flags,
            Some(options.as_c_str()),
        )
        .unwrap();
        drop(device);
    }
    assert_eq!(errno(fs::metadata(mountpoint.path())), libc::ENOTCONN);
    assert!(clear_stale_mount(mountpoint.path()).unwrap());
    assert!(fs::metadata(mountpoint.path()).is_ok() && !is_mounted(mountpoint.path()));
    assert!(!clear_stale_mount(Path::new("/nonexistent/thinfs")).unwrap());
}
