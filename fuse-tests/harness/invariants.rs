//! What must hold after every daemon's end: no mount, no loop device, no dm device, no half-made tree; and a pool's
//! metadata is sound.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::proc::run;

/// Panics when a stopped daemon left something outside its root's records.
#[track_caller]
pub fn nothing_left(root: &Path) {
    let mounts = mounts_below(root);
    assert!(mounts.is_empty(), "mounts left: {mounts:?}");
    let loops = loops_below(root);
    assert!(loops.is_empty(), "loop devices left: {loops:?}");
    let devices = dm_devices(root);
    assert!(devices.is_empty(), "device-mapper devices left: {devices:?}");
    let half_made: Vec<_> = std::fs::read_dir(root.join("native/tmp"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(half_made.is_empty(), "half-made trees left: {half_made:?}");
    let metadata = root.join("thin/metadata.img");
    if metadata.exists() {
        run("thin_check", [metadata]).ok();
    }
}

/// Lets a killed daemon end that is stuck in its own mount.
pub fn cut_off(root: &Path) {
    for mount in mounts_below(root) {
        let _ = rustix::mount::unmount(&mount, UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}

/// Takes down whatever a killed daemon of this root left; used when a test failed.
pub fn clean_up(root: &Path) {
    for device in dm_devices(root) {
        // Not by force: that suspends the device, which may wait for the pool for ever.
        let _ = run("dmsetup", ["remove", "--retry", "--noudevsync", &device]);
    }
    for device in loops_below(root) {
        let _ = run("losetup", ["-d".as_ref(), device.as_os_str()]);
    }
    let _ = std::fs::remove_dir_all(root);
}

/// Mount points below a directory.
pub fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(root)).collect()
}

fn loops_below(root: &Path) -> Vec<PathBuf> {
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let names = devices
        .flatten()
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().starts_with("loop"));
    let backed = names.filter(|name| {
        let file = Path::new("/sys/block").join(name).join("loop/backing_file");
        std::fs::read_to_string(file).is_ok_and(|path| Path::new(path.trim_end()).starts_with(root))
    });
    backed.map(|name| Path::new("/dev").join(name)).collect()
}

/// The tests of one run share a machine with no other user of device-mapper, and a daemon's devices
/// all carry the prefix `thinfs-`; in the guest tests run one after another.
fn dm_devices(_root: &Path) -> Vec<String> {
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let names =
        devices.flatten().filter_map(|e| std::fs::read_to_string(e.path().join("dm/name")).ok());
    let ours =
        names.map(|name| name.trim_end().to_owned()).filter(|name| name.starts_with("thinfs-"));
    let mut ours: Vec<_> = ours.collect();
    ours.sort_by_key(|name| name.ends_with("-pool"));
    ours
}
