//! The Go programs below fuse-tests/containerd: compiled with Debian's compiler and containerd sources, without a
//! network, once for each state of their sources.
//!
//! A compiled program lies in cargo's target directory under a name that holds the digest of its sources. The guest
//! sees the same directory, so what the host has compiled is not compiled again there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::proc::run_command;

/// A program of fuse-tests/containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// containerd's conformance suite.
    Suite,
    /// The benchmark of layers.
    Bench,
    /// Writes the awkward image.
    Image,
    /// Runs inside containers; static.
    Probe,
    /// What ctr has no subcommand for.
    Tool,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Suite => "suite",
            Program::Bench => "bench",
            Program::Image => "image",
            Program::Probe => "probe",
            Program::Tool => "tool",
        }
    }

    fn sources(self) -> PathBuf {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuse-tests/containerd");
        if self == Program::Suite { all } else { all.join(self.name()) }
    }

    fn compile(self, output: &Path) -> Command {
        let mut go = Command::new("go");
        // GOPATH mode: Debian's sources are found below /usr/share/gocode, and nothing is ever downloaded.
        go.current_dir(self.sources())
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOFLAGS", "");
        match self {
            Program::Suite => go.args(["test", "-c"]),
            Program::Probe => {
                go.env("CGO_ENABLED", "0").args(["build", "-trimpath", "-ldflags", "-s -w"])
            }
            Program::Image | Program::Tool | Program::Bench => go.arg("build"),
        };
        go.arg("-o").arg(output).arg(".");
        go
    }
}

/// The path of a compiled program.
#[track_caller]
pub fn program(program: Program) -> PathBuf {
    made(program.name(), &digest(&program.sources()), |output| {
        let result = run_command(program.compile(output), Duration::from_secs(1200));
        assert_eq!(
            result.code,
            Some(0),
            "go failed (Debian: golang-go and golang-github-containerd-containerd-dev):\n{}",
            result.stderr
        );
    })
}

/// The path of the awkward image with so many MiB of bulk data.
#[track_caller]
pub fn awkward_image(bulk: u32) -> PathBuf {
    let (writer, probe) = (program(Program::Image), program(Program::Probe));
    let contents =
        format!("{}{}", digest(&Program::Image.sources()), digest(&Program::Probe.sources()));
    made(&format!("awkward-{bulk}"), &hex(&Sha256::digest(contents)), |output| {
        let mut command = Command::new(&writer);
        command.arg("-probe").arg(&probe).args(["-bulk", &bulk.to_string()]).arg("-o").arg(output);
        run_command(command, Duration::from_secs(600)).ok();
    })
}

/// A file made once for a digest; tests in other processes wait for the one that makes it. Older ones are removed.
fn made(name: &str, digest: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
    let path = dir.join(format!("{name}-{digest}"));
    let lock = fs::File::create(dir.join(format!("{name}.lock"))).expect("make a lock file");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("lock");
    if !path.exists() {
        let partial = dir.join(format!("{name}.partial"));
        make(&partial);
        remove_older(&dir, name);
        fs::rename(&partial, &path).expect("name what was made");
    }
    path
}

fn remove_older(dir: &Path, name: &str) {
    let prefix = format!("{name}-");
    for entry in fs::read_dir(dir).expect("list what was made").flatten() {
        let rest = entry.file_name().to_string_lossy().strip_prefix(&prefix).map(str::len);
        if rest == Some(DIGEST_LEN) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

const DIGEST_LEN: usize = 16;

/// A digest of a directory's Go files, names included.
fn digest(sources: &Path) -> String {
    let listed =
        fs::read_dir(sources).unwrap_or_else(|e| panic!("list {}: {e}", sources.display()));
    let mut files: Vec<PathBuf> = listed
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "go"))
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().expect("a listed file has a name").as_encoded_bytes());
        hash.update(fs::read(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display())));
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    text[..DIGEST_LEN].to_owned()
}

/// The guest's tests need the programs too, and its compiler would take many minutes: `scripts/test`
/// runs this on the host first.
#[test]
fn every_go_program_compiles() {
    for go in [Program::Suite, Program::Image, Program::Probe, Program::Tool, Program::Bench] {
        assert!(program(go).is_file());
    }
    assert!(awkward_image(0).is_file());
}
