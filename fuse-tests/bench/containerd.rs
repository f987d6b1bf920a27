//! Layers as containerd makes them, on thinfs and on containerd's own snapshotters: a Go program
//! (fuse-tests/containerd/bench), because those are Go packages.

use std::process::Command;

use super::golang::{Program, program};

/// Runs the program on the host (native) or in the guest (thin), where there is device-mapper.
pub fn run() {
    let guest = std::path::Path::new("/dev/mapper/control").exists();
    let (backend, against) =
        if guest { ("thin", "devmapper,overlayfs") } else { ("native", "overlayfs,native") };
    let work = std::env::var("THINFS_TEST_DIR")
        .unwrap_or_else(|_| std::env::temp_dir().to_string_lossy().into_owned());
    let mut command = Command::new(program(Program::Bench));
    command.args(["-backend", backend, "-against", against, "-work", &work]);
    command.args(["-thinfs", env!("CARGO_BIN_EXE_thinfs")]);
    let rounds = std::env::var("THINFS_BENCH_ROUNDS");
    match std::env::var("THINFS_BENCH_CALLS") {
        Ok(calls) => command.args(["-calls", &calls, "-against", "devmapper"]),
        Err(_) => command.args(rounds.iter().flat_map(|rounds| ["-rounds", rounds])),
    };
    let status = command.status().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    assert!(status.success(), "the benchmark ended with {status}");
}
