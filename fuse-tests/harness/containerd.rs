//! A containerd of our own: private socket, root, state, runc root and cgroup, no network, no cri plugin.
//!
//! It shares nothing with a containerd that the machine may run already but the directory of shim sockets
//! (/run/containerd/s, fixed in containerd 1.6; the names in it are hashes that include our socket's path).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::golang::{self, Program};
use super::proc::{Output, kill, run_command};
use super::{invariants, require_mounts, work_dir};

/// The containerd namespace of every test.
pub const NAMESPACE: &str = "thinfs-test";

/// The name under which the configuration knows the daemon under test.
pub const THINFS: &str = "thinfs";

/// One private containerd; stopped, checked for leftovers and removed by `finish`, torn down when dropped before.
#[derive(Debug)]
pub struct Containerd {
    root: PathBuf,
    child: Option<Child>,
    finished: bool,
}

/// A snapshot as its keeper lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub parent: String,
    pub kind: String,
}

impl Containerd {
    /// Starts containerd with the snapshotter plugins that it has, and with `thinfs` where its socket is given.
    #[track_caller]
    pub fn start(thinfs: Option<&Path>) -> Containerd {
        require_mounts();
        let root = tempfile::Builder::new().prefix("ctrd-").tempdir_in(work_dir()).expect("make a root").keep();
        fs::write(root.join("config.toml"), configuration(&root, thinfs)).expect("write the configuration");
        let mut containerd = Containerd { root, child: None, finished: false };
        containerd.spawn();
        containerd
    }

    fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.root.join("log")).expect("open the log");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.root.join("config.toml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        self.child = Some(command.spawn().expect("start containerd (Debian: containerd, runc)"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ctr(["version"]).code != Some(0) {
            assert!(Instant::now() < deadline, "containerd did not start\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn address(&self) -> PathBuf {
        self.root.join("c.sock")
    }

    /// A directory for a test's own files.
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// All that containerd and its shims logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Runs ctr.
    #[track_caller]
    pub fn ctr<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.address()).args(["--namespace", NAMESPACE]).args(args);
        run_command(command, Duration::from_secs(600))
    }

    /// Runs our own client.
    #[track_caller]
    pub fn tool(&self, args: &[&str]) -> String {
        let mut command = Command::new(golang::program(Program::Tool));
        command.arg(self.address()).arg(NAMESPACE).args(args);
        run_command(command, Duration::from_secs(600)).ok().trim().to_owned()
    }

    /// Imports an archive and unpacks it.
    #[track_caller]
    pub fn import(&self, snapshotter: &str, archive: &Path) {
        self.ctr(["images", "import", "--snapshotter", snapshotter, text(archive)]).ok();
    }

    /// Runs a command in a new container; `flags` are more flags of `ctr run`.
    #[track_caller]
    pub fn run(&self, snapshotter: &str, image: &str, id: &str, flags: &[&str], command: &[&str]) -> Output {
        let cgroup = format!("/{}/{id}", self.cgroup());
        let (runc, fifos) = (self.root.join("runc"), self.root.join("fifos"));
        let mut args = vec!["run", "--snapshotter", snapshotter, "--cgroup", &cgroup, "--runc-root", text(&runc), "--fifo-dir", text(&fifos)];
        // Without it runc sets no_new_privs, and set-user-id programs and capabilities do nothing.
        args.push("--allow-new-privs");
        args.extend(flags);
        args.extend([image, id]);
        args.extend(command);
        self.ctr(args)
    }

    /// Runs a command in a running container.
    #[track_caller]
    pub fn exec(&self, id: &str, user: &str, command: &[&str]) -> Output {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let exec_id = format!("exec-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let fifos = self.root.join("fifos");
        let mut args = vec!["tasks", "exec", "--exec-id", &exec_id, "--user", user, "--fifo-dir", text(&fifos), id];
        args.extend(command);
        self.ctr(args)
    }

    /// Kills a container's task and waits until it is gone; its snapshot stays.
    #[track_caller]
    pub fn stop_task(&self, id: &str) {
        self.ctr(["tasks", "kill", "--signal", "SIGKILL", id]);
        super::eventually(&format!("the task {id} ends"), || {
            let tasks = self.ctr(["tasks", "ls"]).ok();
            let task = tasks.lines().find(|l| l.split_whitespace().next() == Some(id));
            task.is_none_or(|l| l.contains("STOPPED")) && self.ctr(["tasks", "delete", "--force", id]).code.is_some()
        });
    }

    /// Removes a container with its task; containerd removes its snapshot with it.
    #[track_caller]
    pub fn remove_container(&self, id: &str) {
        self.stop_task(id);
        self.ctr(["containers", "delete", id]).ok();
    }

    /// Removes every image and container, and waits for containerd's collector to go through.
    #[track_caller]
    pub fn remove_everything(&self) {
        for id in self.ctr(["containers", "ls", "--quiet"]).ok().split_whitespace() {
            self.remove_container(id);
        }
        let images = self.ctr(["images", "ls", "--quiet"]).ok();
        for image in images.split_whitespace() {
            self.ctr(["images", "rm", image]).ok();
        }
        self.collect();
    }

    /// Runs containerd's garbage collector and waits for it: removing a lease synchronously is its door to that.
    #[track_caller]
    pub fn collect(&self) {
        self.ctr(["leases", "create", "--id", "collect"]).ok();
        self.ctr(["leases", "delete", "--sync", "collect"]).ok();
    }

    /// The snapshots that containerd's own metadata knows.
    #[track_caller]
    pub fn snapshots(&self, snapshotter: &str) -> BTreeMap<String, Listed> {
        parse_snapshots(&self.ctr(["snapshots", "--snapshotter", snapshotter, "ls"]).ok())
    }

    /// Unpacks an image where it isn't yet, and mounts a read-only view of it.
    #[track_caller]
    pub fn view(&self, snapshotter: &str, image: &str) -> Mounted<'_> {
        let key = self.tool(&["view", snapshotter, image]);
        self.mounted(snapshotter, &key, true)
    }

    /// Mounts a container's snapshot a second time.
    #[track_caller]
    pub fn mount(&self, snapshotter: &str, key: &str) -> Mounted<'_> {
        self.mounted(snapshotter, key, false)
    }

    /// Mounts a snapshot at a directory of our own, as containerd tells.
    #[track_caller]
    fn mounted(&self, snapshotter: &str, key: &str, remove: bool) -> Mounted<'_> {
        let target = self.root.join("mounts").join(format!("{snapshotter}-{key}"));
        fs::create_dir_all(&target).expect("make a mount point");
        let command = self.ctr(["snapshots", "--snapshotter", snapshotter, "mounts", text(&target), key]).ok();
        super::sh(&command).ok();
        Mounted { containerd: self, snapshotter: snapshotter.to_owned(), key: key.to_owned(), path: target, remove }
    }

    fn cgroup(&self) -> String {
        let name = self.root.file_name().expect("a root has a name").to_string_lossy();
        format!("thinfs-{name}")
    }

    /// Stops containerd and checks that nothing of it is left: the end of every test.
    #[track_caller]
    pub fn finish(mut self) {
        let shims = self.processes();
        assert!(shims.is_empty(), "shims left: {shims:?}\n{}", self.log());
        self.terminate();
        let mounts = invariants::mounts_below(&self.root);
        assert!(mounts.is_empty(), "mounts left: {mounts:?}");
        self.remove_cgroups();
        fs::remove_dir_all(&self.root).expect("remove the root");
        self.finished = true;
    }

    fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Shims and their children, found by our root's path in their arguments: shims live on when containerd ends.
    fn processes(&self) -> Vec<u32> {
        let own = self.child.as_ref().map(Child::id);
        let pids = fs::read_dir("/proc").expect("list processes").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let ours = pids.filter(|pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            Some(*pid) != own && String::from_utf8_lossy(&arguments).contains(text(&self.root))
        });
        ours.filter(|pid| *pid != std::process::id()).collect()
    }

    /// Processes of containers, found by our cgroup.
    fn contained(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for dir in self.cgroups() {
            for leaf in fs::read_dir(dir).into_iter().flatten().flatten() {
                let listed = fs::read_to_string(leaf.path().join("cgroup.procs")).unwrap_or_default();
                pids.extend(listed.lines().filter_map(|l| l.parse::<u32>().ok()));
            }
        }
        pids
    }

    /// Our cgroup in each hierarchy: /sys/fs/cgroup itself in version 2, a directory for each controller in version 1.
    fn cgroups(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
        hierarchies.chain([top.to_owned()]).map(|h| h.join(self.cgroup())).filter(|p| p.is_dir()).collect()
    }

    fn remove_cgroups(&self) {
        for dir in self.cgroups() {
            for leaf in fs::read_dir(&dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
                let _ = fs::remove_dir(leaf.path());
            }
            let _ = fs::remove_dir(dir);
        }
    }

    /// Sockets of shims, as their bundles name them.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let bundles = self.root.join("state/io.containerd.runtime.v2.task").join(NAMESPACE);
        let addresses = fs::read_dir(bundles).into_iter().flatten().flatten().filter_map(|e| fs::read_to_string(e.path().join("address")).ok());
        addresses.filter_map(|a| a.strip_prefix("unix://").map(PathBuf::from)).collect()
    }
}

impl Drop for Containerd {
    /// After a failed test: shims before containers, containers before mounts, mounts before files.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let log = self.log();
        eprintln!("--- containerd's log, its last lines\n{}", log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
        let sockets = self.shim_sockets();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.processes().into_iter().chain(self.contained()) {
            kill(pid);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.contained().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
        self.remove_cgroups();
        invariants::clean_up(&self.root);
    }
}

/// A mounted snapshot; unmounted, and removed where it was made for this, when dropped.
#[derive(Debug)]
pub struct Mounted<'a> {
    containerd: &'a Containerd,
    snapshotter: String,
    key: String,
    path: PathBuf,
    remove: bool,
}

impl Mounted<'_> {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        if self.remove {
            self.containerd.ctr(["snapshots", "--snapshotter", &self.snapshotter, "rm", &self.key]);
        }
    }
}

/// What a thinfs daemon's own socket lists. Its service is containerd's, so ctr can ask it directly, with no
/// containerd in between; keys then carry containerd's namespace and number: `ns/7/key`.
#[track_caller]
pub fn snapshots_on(socket: &Path) -> BTreeMap<String, Listed> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["snapshots", "--snapshotter", THINFS, "ls"]);
    parse_snapshots(&run_command(command, Duration::from_secs(60)).ok())
}

/// Reads `ctr snapshots ls`: three columns, whose places the header shows (keys hold spaces, parents may be empty).
fn parse_snapshots(listing: &str) -> BTreeMap<String, Listed> {
    let mut lines = listing.lines();
    let header = lines.next().expect("a listing has a header");
    let (parent, kind) = (header.find("PARENT").expect("a column PARENT"), header.find("KIND").expect("a column KIND"));
    let columns = |line: &str| {
        let (key, rest) = line.split_at(parent);
        let (parent, kind) = rest.split_at(kind - parent);
        (key.trim().to_owned(), Listed { parent: parent.trim().to_owned(), kind: kind.trim().to_owned() })
    };
    lines.map(columns).collect()
}

/// The keys that thinfs was given, without containerd's `ns/number/` in front: containerd's own view of them.
pub fn as_containerd_sees(listed: BTreeMap<String, Listed>) -> BTreeMap<String, Listed> {
    let bare = |key: &str| key.splitn(3, '/').nth(2).unwrap_or(key).to_owned();
    listed.into_iter().map(|(key, l)| (bare(&key), Listed { parent: bare(&l.parent), kind: l.kind })).collect()
}

fn configuration(root: &Path, thinfs: Option<&Path>) -> String {
    let root = text(root);
    let mut config = format!(
        "version = 2\n\
         root = \"{root}/root\"\n\
         state = \"{root}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = \"{root}/c.sock\"\n\
         [debug]\n  level = \"info\"\n"
    );
    if let Some(socket) = thinfs {
        config += &format!("[proxy_plugins]\n  [proxy_plugins.{THINFS}]\n    type = \"snapshot\"\n    address = \"{}\"\n", text(socket));
    }
    config
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
