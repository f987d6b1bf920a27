//! Many programs at once on many snapshots, while volumes are evicted and snapshots are committed under them; what
//! they wrote is verified by themselves (stress-ng's `--verify`) and afterwards by digest.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Neighbours, StopOnDrop, activity, with_max_active};
use crate::harness::{Client, Daemon, is_thin, run_command};

/// Stressors of files and names: all at once, two processes each.
const STRESSORS: &[&str] = &[
    "hdd",
    "dentry",
    "dir",
    "fallocate",
    "filename",
    "flock",
    "link",
    "symlink",
    "rename",
    "seek",
    "readahead",
    "sync-file",
    "xattr",
    "utime",
    "chmod",
    "touch",
    "lockofd",
];

#[test]
fn stress_ng_verifies_its_files_while_volumes_are_evicted_and_committed() {
    let d = with_max_active(1);
    Client::connect(&d.socket()).prepare("stress", "").unwrap();
    let neighbours = Neighbours::prepare(&d, 3);
    let (stop, commits) = (AtomicBool::new(false), AtomicUsize::new(0));
    let before = activity(&d).deactivations;
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        scope.spawn(|| neighbours.touch_until(&stop));
        scope.spawn(|| commits.store(commit_until(&d, &stop), Relaxed));
        stress(&d);
        drop(stopping);
    });
    let evictions = activity(&d).deactivations - before;
    eprintln!("{evictions} evictions, {} commits meanwhile", commits.load(Relaxed));
    assert!(evictions > 10 && commits.load(Relaxed) > 1);
    assert!(
        fs::read_dir(d.active("stress")).unwrap().next().is_none(),
        "it cleans up after itself"
    );
    d.finish();
}

/// For a time and not for a number of operations: how many there are depends on the machine, what is verified doesn't.
fn stress(d: &Daemon) {
    let mut command = Command::new("stress-ng");
    for stressor in STRESSORS {
        command.arg(format!("--{stressor}")).arg(if is_thin() { "1" } else { "2" });
    }
    command.args(["--hdd-bytes", "8M", "--fallocate-bytes", "8M", "--sync-file-bytes", "4M"]);
    command.args(["--seek-size", "4M", "--readahead-bytes", "4M"]);
    command.args(["--verify", "--metrics-brief", "--timeout", "20", "--temp-path"]);
    command.arg(d.active("stress"));
    let output = run_command(command, Duration::from_secs(300));
    let said = output.stdout + &output.stderr;
    assert_eq!(output.code, Some(0), "{said}");
    assert!(!said.contains("fail:"), "{said}");
    let ran =
        |stressor: &&str| said.lines().any(|line| line.split_whitespace().any(|w| w == *stressor));
    assert!(STRESSORS.iter().all(ran), "each of them ran: {said}");
}

/// Writes a snapshot and commits it, again and again; then reads back all that was committed.
fn commit_until(d: &Daemon, stop: &AtomicBool) -> usize {
    let mut client = Client::connect(&d.socket());
    let mut written = Vec::new();
    let mut parent = String::new();
    while !stop.load(Relaxed) && written.len() < 60 {
        let n = written.len();
        client.prepare(&format!("chain-{n}"), &parent).unwrap();
        let content: Vec<u8> = (0..200_000).map(|i: usize| (i * (n + 7) % 251) as u8).collect();
        fs::write(d.active(&format!("chain-{n}")).join(format!("f{n}")), &content).unwrap();
        parent = format!("layer-{n}");
        // A writer's release is asynchronous, and the commit waits for it.
        client.commit(&format!("chain-{n}"), &parent).unwrap();
        written.push(Sha256::digest(&content));
    }
    for (n, digest) in written.iter().enumerate() {
        let read = fs::read(d.committed(&parent).join(format!("f{n}"))).unwrap();
        assert_eq!(Sha256::digest(&read), *digest, "f{n} of {parent}");
    }
    written.len()
}
