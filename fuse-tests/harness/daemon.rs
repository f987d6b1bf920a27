//! One `thinfs serve` on a root of its own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::proc::{Output, run};
use super::{invariants, require_mounts, work_dir};

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More flags for `serve`.
    pub flags: Vec<String>,
    /// Leaves out `--backend`, so that the daemon chooses.
    pub auto: bool,
}

/// A daemon that is stopped, and checked for leftovers, when dropped.
#[derive(Debug)]
pub struct Daemon {
    root: PathBuf,
    options: Options,
    child: Option<Child>,
    /// Killed, but stuck in the kernel: the next daemon must help it to its end.
    dying: Option<Child>,
    /// Set by tests that end the daemon in their own way.
    finished: bool,
    /// The crash point of the next daemon.
    armed: Option<String>,
}

/// What a daemon says when it kills itself.
const KILLED: &str = "killed at its crash point";

impl Daemon {
    /// Starts a daemon on a fresh root.
    #[track_caller]
    pub fn start() -> Daemon {
        Self::start_with(Options::default())
    }

    /// Starts a daemon on a fresh root with options.
    #[track_caller]
    pub fn start_with(options: Options) -> Daemon {
        require_mounts();
        let root = tempfile::Builder::new()
            .prefix("thinfs-")
            .tempdir_in(work_dir())
            .expect("make a root")
            .keep();
        Self::start_at(root, options)
    }

    /// Starts a daemon on this root, fresh or not.
    #[track_caller]
    pub fn start_at(root: PathBuf, options: Options) -> Daemon {
        std::fs::create_dir_all(root.join("mnt")).expect("make the mount point");
        let mut daemon = Self::on(root, options);
        daemon.restart();
        daemon
    }

    fn on(root: PathBuf, options: Options) -> Daemon {
        Daemon { root, options, child: None, dying: None, finished: false, armed: None }
    }

    /// None at all, to take the place of one that was moved away.
    pub fn nobody() -> Daemon {
        let mut nobody = Self::on(PathBuf::new(), Options::default());
        nobody.finished = true;
        nobody
    }

    /// Starts a daemon on a fresh root that kills itself at this crash point while it starts.
    #[track_caller]
    pub fn start_doomed(point: &str, options: Options) -> Daemon {
        require_mounts();
        let root = tempfile::Builder::new().prefix("thinfs-").tempdir_in(work_dir());
        let root = root.expect("make a root").keep();
        std::fs::create_dir_all(root.join("mnt")).expect("make the mount point");
        let mut daemon = Self::on(root, options);
        assert!(!daemon.start_armed(point), "{point} was not reached\n{}", daemon.log());
        daemon
    }

    /// Starts a daemon that kills itself at this crash point. False if it is reached by the start.
    #[track_caller]
    pub fn start_armed(&mut self, point: &str) -> bool {
        assert!(self.child.is_none(), "the daemon still runs");
        self.armed = Some(point.to_owned());
        self.child = Some(self.spawn());
        self.armed = None;
        self.dying_is_gone();
        let deadline = Instant::now() + Duration::from_secs(120);
        while UnixStream::connect(self.socket()).is_err() {
            if self.is_at_its_point() {
                return false;
            }
            assert!(Instant::now() < deadline, "neither socket nor death\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until the daemon has killed itself.
    #[track_caller]
    pub fn wait_for_its_point(&mut self, point: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.is_at_its_point() {
            if Instant::now() >= deadline {
                // Else whoever waits for its answers would wait for ever.
                self.kill();
                panic!("{point} was never reached\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the daemon has killed itself; it may be stuck in the kernel, as after `kill`.
    #[track_caller]
    fn is_at_its_point(&mut self) -> bool {
        let mut child = self.child.take().expect("the daemon runs");
        let ended = child.try_wait().expect("wait for the daemon");
        let pid = child.id();
        let said = self.log().contains(&format!("{KILLED}, pid {pid},"));
        match (ended, said) {
            (None, false) => self.child = Some(child),
            (Some(status), _) => {
                use std::os::unix::process::ExitStatusExt;
                let (signal, log) = (status.signal(), self.log());
                assert_eq!(signal, Some(9), "the daemon {pid} ended by itself: {status}\n{log}");
            }
            (None, true) if gone_within(&mut child, Duration::from_secs(2)) => {}
            (None, true) => self.dying = Some(child),
        }
        self.child.is_none()
    }

    /// A killed daemon's socket would be taken for the next one's.
    #[track_caller]
    fn dying_is_gone(&mut self) {
        if let Some(mut killed) = self.dying.take() {
            let gone = gone_within(&mut killed, Duration::from_secs(20));
            assert!(gone, "the killed daemon is still there\n{}", self.log());
        }
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("the daemon runs"));
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }

    /// Starts the daemon again on the same root, after `stop` or `kill`.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.child = Some(self.spawn());
        self.dying_is_gone();
        let deadline = Instant::now() + Duration::from_secs(120);
        while UnixStream::connect(self.socket()).is_err() {
            let child = self.child.as_mut().expect("just set");
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                self.child = None;
                panic!("thinfs serve ended at once with {status}\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "the daemon's socket did not appear\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The flags of the next daemon.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.options.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// The `serve` command of this root, not started.
    pub fn serve_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
        command
            .arg("serve")
            .arg("--root")
            .arg(&self.root)
            .arg("--mount")
            .arg(self.mount())
            .arg("--socket")
            .arg(self.socket());
        if !self.options.auto {
            command.args(["--backend", &super::backend()]);
        }
        if super::is_thin()
            && !self.options.flags.iter().any(|f| f.starts_with("--pool") || f.contains("-device"))
        {
            command.args(["--pool-size", "2G"]);
        }
        command.args(&self.options.flags).stdin(Stdio::null());
        command
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("log"))
            .expect("open the log");
        let mut command = self.serve_command();
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        if let Some(point) = &self.armed {
            command.env(thinfs::crashpoint::VARIABLE, point);
        }
        command.spawn().expect("start thinfs serve")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn mount(&self) -> PathBuf {
        self.root.join("mnt")
    }
    pub fn socket(&self) -> PathBuf {
        self.root.join("s")
    }
    /// The directory of an active snapshot.
    pub fn active(&self, key: &str) -> PathBuf {
        self.mount().join("active").join(key)
    }
    /// The directory of a committed snapshot.
    pub fn committed(&self, name: &str) -> PathBuf {
        self.mount().join("committed").join(name)
    }
    /// The directory of a view.
    pub fn viewed(&self, key: &str) -> PathBuf {
        self.mount().join("view").join(key)
    }
    /// The daemon's pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }
    /// All that the daemon logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Runs a client command against this daemon.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let socket = self.socket();
        let mut all = vec!["--socket", socket.to_str().expect("test paths are UTF-8")];
        all.extend(args);
        run(env!("CARGO_BIN_EXE_thinfs"), all)
    }

    /// Runs a client command with `--json` and parses each line that it prints.
    #[track_caller]
    pub fn json_lines(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        let text = self.cli(&all).ok();
        let parse = |line| {
            serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("{args:?} printed no JSON ({e}): {line}"))
        };
        text.lines().map(parse).collect()
    }

    /// The one object that a client command prints with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut lines = self.json_lines(args);
        assert_eq!(lines.len(), 1, "{args:?} prints one object");
        lines.remove(0)
    }

    /// Resident memory of the daemon, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("read the daemon's status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("Linux reports VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<u64>().ok())
            .expect("VmRSS is a number")
            * 1024
    }

    /// kill -9. Some are not gone when this returns: a thread may be stuck in the kernel until the next daemon
    /// aborts the mount.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill the daemon");
        if !gone_within(&mut child, Duration::from_secs(2)) {
            self.dying = Some(child);
        }
    }

    /// SIGTERM; answers the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("signal the daemon");
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                return status.code();
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the daemon did not stop on SIGTERM\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops cleanly, checks every invariant and removes the root: the end of every test.
    #[track_caller]
    pub fn finish(mut self) {
        if self.child.is_some() {
            assert_eq!(self.stop(), Some(0), "a clean stop exits with 0\n{}", self.log());
        }
        invariants::nothing_left(&self.root);
        std::fs::remove_dir_all(&self.root).expect("remove the root");
        self.finished = true;
    }
}

impl Drop for Daemon {
    /// After a failed test: leave the machine clean all the same, and keep the log on the terminal.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        eprintln!("--- the daemon's log\n{}", self.log());
        if self.child.is_some() {
            self.kill();
        }
        invariants::cut_off(&self.root);
        if let Some(mut killed) = self.dying.take() {
            gone_within(&mut killed, Duration::from_secs(10));
        }
        invariants::clean_up(&self.root);
    }
}

fn gone_within(child: &mut Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if child.try_wait().expect("wait for the daemon").is_some() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
