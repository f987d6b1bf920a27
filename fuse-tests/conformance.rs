//! containerd's own snapshotter suite, through containerd's own gRPC client, against live daemons.
//!
//! The suite is a Go program (fuse-tests/containerd). `THINFS_TEST_SUITE_RUNS` sets how often in a row each form runs
//! (default 1), `THINFS_TEST_SUITE_CASE` a regular expression of cases (default all).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::golang::{Program, program};
use crate::harness::{backend, invariants, is_thin, require_mounts, run_command, work_dir};

#[test]
fn containerds_suite_passes_with_a_fresh_daemon_for_each_case() {
    suite(&[]);
}

#[test]
fn containerds_suite_passes_with_one_daemon_for_all_cases() {
    suite(&[("THINFS_SHARED", "1")]);
}

/// Every snapshot of it mounted as its thin device, with no FUSE in between. Four cases commit what is still mounted.
#[test]
fn in_guest_containerds_suite_passes_on_block_devices() {
    assert!(is_thin(), "block devices are dm-thin's: run this in the guest (scripts/test guest)");
    suite(&[("THINFS_SHARED", "1"), ("THINFS_MOUNT_FORM", "block")]);
}

/// The suite's directory. It mounts snapshots below TMPDIR and starts daemons below THINFS_WORK: both are this one, so
/// that whatever a failed or killed run leaves can be taken down.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        invariants::clean_up(&self.0);
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn suite(environment: &[(&str, &str)]) {
    require_mounts();
    let runs = setting("THINFS_TEST_SUITE_RUNS", "1");
    let cases = format!("TestConformance/{}", setting("THINFS_TEST_SUITE_CASE", ".*"));
    let work = Work(
        tempfile::Builder::new()
            .prefix("suite-")
            .tempdir_in(work_dir())
            .expect("make a directory")
            .keep(),
    );
    let mut command = Command::new(program(Program::Suite));
    command
        .args([
            "-test.v",
            "-test.parallel=8",
            "-test.timeout=1h",
            "-test.count",
            &runs,
            "-test.run",
            &cases,
        ])
        .current_dir(&work.0);
    command
        .env("THINFS_BIN", env!("CARGO_BIN_EXE_thinfs"))
        .env("THINFS_BACKEND", backend())
        .env("THINFS_WORK", &work.0)
        .env("TMPDIR", &work.0);
    if is_thin() {
        command.env("THINFS_TEST_POOL_SIZE", "2G");
    }
    command.envs(environment.iter().copied());
    let output = run_command(command, Duration::from_secs(3700));
    let results = cases_of(&output.stdout);
    eprintln!(
        "{} of {} cases passed",
        results.iter().filter(|(passed, _)| *passed).count(),
        results.len()
    );
    output.stdout.lines().filter(|l| l.contains("daemons served")).for_each(|l| eprintln!("{l}"));
    let failed: Vec<_> =
        results.iter().filter(|(passed, _)| !passed).map(|(_, name)| name).collect();
    assert!(
        output.code == Some(0) && failed.is_empty(),
        "failed: {failed:?}\n{}\n{}",
        output.stdout,
        output.stderr
    );
    assert!(!results.is_empty(), "no case ran:\n{}", output.stdout);
    assert_nothing_left(&work.0);
}

/// Each case of the output with whether it passed: lines such as `    --- PASS: TestConformance/Basic (0.10s)`.
fn cases_of(output: &str) -> Vec<(bool, String)> {
    let of = |line: &str, word: &str| {
        line.strip_prefix(word)?.split_whitespace().next().map(str::to_owned)
    };
    let lines = output.lines().filter(|l| l.starts_with("    ---")).map(str::trim_start);
    lines
        .filter_map(|l| {
            of(l, "--- PASS: ")
                .map(|n| (true, n))
                .or_else(|| of(l, "--- FAIL: ").map(|n| (false, n)))
        })
        .collect()
}

fn assert_nothing_left(work: &Path) {
    let mounts = invariants::mounts_below(work);
    assert!(mounts.is_empty(), "mounts left: {mounts:?}");
    let files: Vec<_> =
        fs::read_dir(work).expect("list the directory").flatten().map(|e| e.path()).collect();
    assert!(files.is_empty(), "files left: {files:?}");
}
