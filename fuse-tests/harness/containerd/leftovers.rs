//! What a containerd leaves when a test fails: shims and containers go on without it, and so do
//! their cgroups and sockets. All of it is found by the root's path or name, which nothing else has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::NAMESPACE;
use crate::harness::invariants;

/// The cgroup below which a root's containers run.
pub(super) fn cgroup(root: &Path) -> String {
    let name = root.file_name().expect("a root has a name").to_string_lossy();
    format!("thinfs-{name}")
}

/// Processes that name the root in their arguments: shims, runc and ctr, and containerd itself.
pub(super) fn processes(root: &Path) -> Vec<u32> {
    let root = root.to_str().expect("test paths are UTF-8");
    let all = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(root)
        })
        .collect()
}

/// Kills and removes everything of a root, in the order in which one holds the other: shims before
/// containers (a shim starts nothing new then), containers before mounts, mounts before files.
pub(super) fn clean_up(root: &Path) {
    let sockets = shim_sockets(root);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let alive = [processes(root), contained(root)].concat();
        if alive.is_empty() || Instant::now() > deadline {
            break;
        }
        alive.into_iter().for_each(crate::harness::kill);
        std::thread::sleep(Duration::from_millis(20));
    }
    for socket in sockets {
        let _ = fs::remove_file(socket);
    }
    remove_cgroups(root);
    // No device: those belong to the daemon, which may still serve.
    for mount in invariants::mounts_below(root) {
        let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
    }
    let _ = fs::remove_dir_all(root);
}

/// Removes the root's cgroups, which must be empty.
pub(super) fn remove_cgroups(root: &Path) {
    for dir in cgroups(root) {
        for container in containers(&dir) {
            let _ = fs::remove_dir(container);
        }
        let _ = fs::remove_dir(dir);
    }
}

/// Processes in the root's cgroups: those of containers.
fn contained(root: &Path) -> Vec<u32> {
    let dirs = cgroups(root).into_iter().flat_map(|dir| containers(&dir));
    let listed = dirs.filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    listed
        .flat_map(|l| l.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// The root's cgroup in each hierarchy: of version 2 there is one, of version 1 one a controller.
fn cgroups(root: &Path) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
    let ours = hierarchies.chain([top.to_owned()]).map(|h| h.join(cgroup(root)));
    ours.filter(|dir| dir.is_dir()).collect()
}

fn containers(cgroup: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|e| e.path());
    inside.filter(|path| path.is_dir()).collect()
}

/// Sockets of shims, as their bundles name them.
fn shim_sockets(root: &Path) -> Vec<PathBuf> {
    let bundles = root.join("state/io.containerd.runtime.v2.task").join(NAMESPACE);
    let addresses = fs::read_dir(bundles).into_iter().flatten().flatten();
    let addresses = addresses.filter_map(|e| fs::read_to_string(e.path().join("address")).ok());
    addresses.filter_map(|a| a.strip_prefix("unix://").map(PathBuf::from)).collect()
}
