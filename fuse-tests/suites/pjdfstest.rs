//! pjdfstest: what POSIX says of each system call on files, case by case. The score to reach is that of a plain ext4
//! on the same machine, in the same minute, with the same configuration; there is no list of expected failures.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::tool;
use crate::harness::{Daemon, errno, is_thin, run_command, work_dir};

const EXT4_MAGIC: i64 = 0xef53;
const EXT4_LINKS: u64 = 65_000;
const LINK_COUNT: &str = "link::link_count_max";

/// Left out: cases that mount the filesystem read-only (it would be the machine's own), which the snapshots'
/// own tests have (`snapshots.rs`).
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
secondary_fs = "/dev/shm"
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// In the guest, where all of them take many minutes (65,000 links alone do): what changes attributes, names and
/// permissions.
const SHORT: &[&str] = &["chmod", "chown", "ftruncate", "symlink", "rename", "unlink", "utimensat"];

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

#[test]
fn pjdfstest_passes_what_ext4_passes() {
    let reference = tempfile::tempdir_in(work_dir()).unwrap();
    let at = rustix::fs::statfs(reference.path()).unwrap();
    assert_eq!(
        at.f_type,
        EXT4_MAGIC,
        "{} is not on ext4, the reference: set THINFS_TEST_DIR to a directory that is",
        reference.path().display()
    );
    let d = Daemon::start();
    d.cli(&["prepare", "pjd"]).ok();
    let patterns = if is_thin() { SHORT } else { &[] };
    let expected = outcomes(reference.path(), &d, patterns);
    let mut seen = outcomes(&d.active("pjd"), &d, patterns);

    let passed = |of: &BTreeMap<String, Outcome>| {
        of.values().filter(|outcome| **outcome == Outcome::Passed).count()
    };
    eprintln!("{} cases, ext4 passes {}, thinfs {}", seen.len(), passed(&expected), passed(&seen));
    assert!(passed(&expected) >= if is_thin() { 100 } else { 380 }, "ext4 itself: {expected:#?}");
    // The C library makes up the limit of links from the filesystem's type and knows none for FUSE, so this one is
    // skipped there, for want of a number: the limit itself is checked below.
    if seen.get(LINK_COUNT) == Some(&Outcome::Skipped) {
        seen.insert(LINK_COUNT.to_owned(), Outcome::Passed);
        links_are_as_many_as_on_ext4(&d.active("pjd"));
    }
    let lost: Vec<_> = expected
        .iter()
        .filter(|(name, outcome)| {
            **outcome == Outcome::Passed && seen.get(*name) != Some(&Outcome::Passed)
        })
        .map(|(name, _)| format!("{name}: {:?}", seen.get(name)))
        .collect();
    assert!(lost.is_empty(), "ext4 passes these, thinfs does not:\n{}", lost.join("\n"));
    d.finish();
}

fn links_are_as_many_as_on_ext4(at: &Path) {
    let dir = at.join("links");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("1"), "").unwrap();
    for n in 2..=EXT4_LINKS {
        std::fs::hard_link(dir.join("1"), dir.join(n.to_string())).unwrap();
    }
    let refused = errno(std::fs::hard_link(dir.join("1"), dir.join("more")));
    assert_eq!(refused, rustix::io::Errno::MLINK.raw_os_error());
    assert_eq!(dir.join("1").metadata().unwrap().nlink(), EXT4_LINKS);
}

/// Runs the suite in a mount namespace of its own, where `at` is bound to a place that all users can reach.
fn outcomes(at: &Path, d: &Daemon, patterns: &[&str]) -> BTreeMap<String, Outcome> {
    let configuration = d.root().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    // In the guest the root is below /mnt itself, and a path is looked up below what is mounted there by then.
    let script = r#"configuration=$(cat "$1") && mount --bind "$2" /mnt && shift 2 &&
        mount -t tmpfs configuration /proc/fs && echo "$configuration" >/proc/fs/toml && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&configuration).arg(at);
    command.arg(tool("pjdfstest")).args(["-c", "/proc/fs/toml", "-p", "/mnt"]).args(patterns);
    command.env("RUST_BACKTRACE", "0");
    let output = run_command(command, Duration::from_secs(900));
    assert!(output.stdout.contains("Summary"), "{}\n{}", output.stdout, output.stderr);
    parse(&output.stdout)
}

/// A line for each case, `name   ok|skipped|FAILED`; what went wrong stands indented below it.
fn parse(text: &str) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, outcome] = words[..] else { continue };
        let outcome = match outcome {
            "ok" => Outcome::Passed,
            "skipped" => Outcome::Skipped,
            "FAILED" => Outcome::Failed(lines.peek().unwrap_or(&"").trim().to_owned()),
            _ => continue,
        };
        outcomes.insert(name.to_owned(), outcome);
    }
    outcomes
}
