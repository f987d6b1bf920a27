//! Child processes with a time limit: a hung FUSE mount must fail a test, not hang the run.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a shell line under `bash -euo pipefail`.
#[track_caller]
pub fn sh(script: &str) -> Output {
    run("bash", ["-euo", "pipefail", "-c", script])
}

/// Runs a program for at most five minutes (the guest is slow), then kills it and panics.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Output {
    let mut command = Command::new(program.as_ref());
    command.args(args);
    run_command(command, Duration::from_secs(300))
}

/// Runs a command for at most `limit`, then kills it and panics.
#[track_caller]
pub fn run_command(mut command: Command, limit: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child =
        command.spawn().unwrap_or_else(|e| panic!("start {:?}: {e}", command.get_program()));
    let pid = child.id();
    let (send, receive) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let _ = send.send(child.wait_with_output());
    });
    let Ok(output) = receive.recv_timeout(limit) else {
        kill(pid);
        panic!("{command:?} did not end within {limit:?}");
    };
    waiter.join().expect("the waiting thread does not panic");
    let output = output.expect("a spawned child can be waited for");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// kill -9 by pid.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a child's pid is positive");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
