//! A containerd of our own: private socket, root, state, runc root and cgroup, no network, no cri plugin.
//!
//! It shares nothing with a containerd that the machine may run already but the directory of shim sockets
//! (/run/containerd/s, fixed in containerd 1.6; the names in it are hashes that include our socket's path).

mod leftovers;
mod listing;

pub use listing::{Listed, as_containerd_sees, snapshots_on};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::golang::{self, Program};
use super::proc::{Output, run_command};
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

impl Containerd {
    /// Starts containerd with the snapshotter plugins that it has, and with `thinfs` where its socket is given.
    #[track_caller]
    pub fn start(thinfs: Option<&Path>) -> Containerd {
        require_mounts();
        let root = tempfile::Builder::new()
            .prefix("ctrd-")
            .tempdir_in(work_dir())
            .expect("make a root")
            .keep();
        fs::write(root.join("config.toml"), configuration(&root, thinfs))
            .expect("write the configuration");
        let mut containerd = Containerd { root, child: None, finished: false };
        containerd.spawn();
        containerd
    }

    fn spawn(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join("log"))
            .expect("open the log");
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
        command.arg("--address").arg(self.address()).args(["--namespace", NAMESPACE]);
        // The guest is slow, and fifty clients at once are many for two cores.
        command.args(["--connect-timeout", "120s"]).args(args);
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
    pub fn run(
        &self,
        snapshotter: &str,
        image: &str,
        id: &str,
        flags: &[&str],
        command: &[&str],
    ) -> Output {
        let cgroup = format!("/{}/{id}", leftovers::cgroup(&self.root));
        let (runc, fifos) = (self.root.join("runc"), self.root.join("fifos"));
        let mut args = vec![
            "run",
            "--snapshotter",
            snapshotter,
            "--cgroup",
            &cgroup,
            "--runc-root",
            text(&runc),
            "--fifo-dir",
            text(&fifos),
        ];
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
        let mut args = vec![
            "tasks",
            "exec",
            "--exec-id",
            &exec_id,
            "--user",
            user,
            "--fifo-dir",
            text(&fifos),
            id,
        ];
        args.extend(command);
        self.ctr(args)
    }

    /// Writes a program `ctr` into a new directory that calls the real one for this containerd, and keeps what it makes
    /// below our root and cgroup.
    #[track_caller]
    pub fn write_ctr(&self, dir: &Path) {
        fs::create_dir(dir).expect("make a directory");
        let (root, cgroup) = (self.root.display(), leftovers::cgroup(&self.root));
        let ctr = super::sh("command -v ctr").ok();
        let ctr = ctr.trim();
        let script = format!(
            "#!/bin/bash\n\
             case \"$1 $2\" in\n\
             run\\ *) set -- run --cgroup '/{cgroup}/readme' --runc-root '{root}/runc' --fifo-dir '{root}/fifos' \"${{@:2}}\" ;;\n\
             'tasks exec' | 'tasks start') set -- \"$1\" \"$2\" --fifo-dir '{root}/fifos' \"${{@:3}}\" ;;\n\
             esac\n\
             exec '{ctr}' --address '{root}/c.sock' --namespace {NAMESPACE} --connect-timeout 120s \"$@\"\n"
        );
        let path = dir.join("ctr");
        fs::write(&path, script).expect("write a script");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("make it executable");
    }

    /// Waits until a task that was killed has ended.
    #[track_caller]
    pub fn wait_stopped(&self, id: &str) {
        super::eventually(&format!("the task {id} ends"), || {
            let tasks = self.ctr(["tasks", "ls"]).ok();
            let task = tasks.lines().find(|l| l.split_whitespace().next() == Some(id));
            task.is_none_or(|l| l.contains("STOPPED"))
        });
    }

    /// Kills a container's task and waits until it is gone; its snapshot stays.
    #[track_caller]
    pub fn stop_task(&self, id: &str) {
        self.ctr(["tasks", "kill", "--signal", "SIGKILL", id]);
        super::eventually(&format!("the task {id} ends"), || {
            let tasks = self.ctr(["tasks", "ls"]).ok();
            let task = tasks.lines().find(|l| l.split_whitespace().next() == Some(id));
            task.is_none_or(|l| l.contains("STOPPED"))
                && self.ctr(["tasks", "delete", "--force", id]).code.is_some()
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
        listing::parse_snapshots(&self.ctr(["snapshots", "--snapshotter", snapshotter, "ls"]).ok())
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
        let command = self
            .ctr(["snapshots", "--snapshotter", snapshotter, "mounts", text(&target), key])
            .ok();
        super::sh(&command).ok();
        Mounted {
            containerd: self,
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            path: target,
            remove,
        }
    }

    /// Stops containerd and checks that nothing of it is left: the end of every test.
    #[track_caller]
    pub fn finish(mut self) {
        let own = self.child.as_ref().map(Child::id);
        super::eventually("every shim has ended", || {
            leftovers::processes(&self.root).iter().all(|pid| Some(*pid) == own)
        });
        self.terminate();
        let mounts = invariants::mounts_below(&self.root);
        assert!(mounts.is_empty(), "mounts left: {mounts:?}");
        leftovers::remove_cgroups(&self.root);
        fs::remove_dir_all(&self.root).expect("remove the root");
        self.finished = true;
    }

    fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        );
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Containerd {
    /// After a failed test.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let log = self.log();
        eprintln!(
            "--- containerd's log, its last lines\n{}",
            log.lines()
                .rev()
                .take(40)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n")
        );
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        leftovers::clean_up(&self.root);
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

/// The configuration that people are told to use.
const EXAMPLE: &str = include_str!("../../../scripts/containerd-config.toml");

/// The example's, with the paths of this test.
fn configuration(root: &Path, thinfs: Option<&Path>) -> String {
    let root = text(root);
    let plugin = match thinfs {
        Some(socket) => EXAMPLE.replace("/var/lib/thinfs/thinfs.sock", text(socket)),
        None => "version = 2\n".to_owned(),
    };
    format!(
        "root = \"{root}/root\"\n\
         state = \"{root}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         {plugin}\n\
         [grpc]\n  address = \"{root}/c.sock\"\n"
    )
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
