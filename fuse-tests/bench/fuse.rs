//! The file path: each operation in turn directly, through thinfs and through a peer, so that a drift of the machine's
//! speed hits all. Prints the ratios to direct of the wall times: below 1, FUSE is faster.
//!
//! The peer is bindfs, which a user could pick from Debian to show directories elsewhere; as it is by default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::report::{machine, median};
use super::rows::{ROWS, Row, Run};

/// Bytes of the filesystem that everything happens on.
const DISK: u64 = 16 << 30;

/// How long the kernel and the daemon have for what goes on after an answer: the release of a file that was removed.
const SETTLING: Duration = Duration::from_millis(50);

/// Where a row is run, and where the same files are in the backing filesystem.
pub struct Side {
    pub at: PathBuf,
    pub backing: PathBuf,
}

/// Runs all rows, or those whose name holds `THINFS_BENCH_ROWS`.
pub fn run() {
    let rounds =
        std::env::var("THINFS_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(7);
    let only = std::env::var("THINFS_BENCH_ROWS").unwrap_or_default();
    let bench = Mounted::start();
    println!("{}", machine());
    println!(
        "a snapshot's FUSE directory (native backend) and bindfs, each / direct on the backing filesystem (ext4 as mkfs makes it, on a loop device); median of {rounds} rounds [least – most]"
    );
    println!(
        "{:<36} {:>6} {:>16} {:>8} {:>16} {:>12}",
        "operation", "thinfs", "", "bindfs", "", "direct"
    );
    for row in ROWS.iter().filter(|row| row.name.contains(&only)) {
        print_row(row, &bench.rounds(row, rounds));
    }
}

/// Seconds: direct, thinfs, peer.
type Times = [f64; 3];

fn print_row(row: &Row, times: &[Times]) {
    let ratios = |side: usize| {
        let mut ratios: Vec<_> = times.iter().map(|t| t[side] / t[0]).collect();
        let middle = median(&mut ratios);
        (middle, format!("[{:.2} – {:.2}]", ratios[0], ratios[ratios.len() - 1]))
    };
    let ((thinfs, spread), (peer, peer_spread)) = (ratios(1), ratios(2));
    let direct = median(&mut times.iter().map(|t| t[0]).collect::<Vec<_>>()) * 1e3;
    println!(
        "{:<36} {thinfs:>6.2} {spread:>16} {peer:>8.2} {peer_spread:>16} {direct:>9.3} ms",
        row.name
    );
    if let Some(target) = row.target.filter(|target| thinfs > *target) {
        let reason = if row.reason.is_empty() { "the machine, or a defect" } else { row.reason };
        println!("    above the target of {target}: {reason}");
    }
}

/// A daemon with one active snapshot, a bindfs, and a plain directory on the same filesystem.
struct Mounted {
    daemon: Child,
    peer: Child,
    sides: [Side; 3],
    disk: Disk,
    _dir: tempfile::TempDir,
}

impl Mounted {
    fn start() -> Mounted {
        let base = std::env::var_os("THINFS_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        fs::create_dir_all(&base).unwrap();
        let dir = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(base).unwrap();
        let disk = Disk::new(dir.path(), DISK);
        let below = |name: &str| disk.path().join(name);
        for name in ["root/mnt", "direct", "source", "peer"] {
            fs::create_dir_all(below(name)).unwrap();
        }
        let peer = Command::new("bindfs")
            .arg("-f")
            .args([below("source"), below("peer")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("start bindfs, the peer (apt-get install bindfs): {e}"));
        let daemon = serve(&below("root"));
        fs::create_dir(below("root/mnt/active/bench")).unwrap();
        wait("bindfs mounts", || is_fuse(&below("peer")));
        let volumes = fs::read_dir(below("root/native/volumes")).unwrap();
        let volume = volumes.map(|entry| entry.unwrap().path()).next().expect("one volume");
        let sides = [
            Side { at: below("direct"), backing: below("direct") },
            Side { at: below("root/mnt/active/bench"), backing: volume.join("fs") },
            Side { at: below("peer"), backing: below("source") },
        ];
        Mounted { daemon, peer, sides, disk, _dir: dir }
    }

    fn settle(&self) {
        std::thread::sleep(SETTLING);
        rustix::fs::syncfs(fs::File::open(self.disk.path()).unwrap()).unwrap();
    }

    /// Each side once a round, in an order that turns.
    fn rounds(&self, row: &Row, rounds: usize) -> Vec<Times> {
        let once = |side: &Side| {
            (row.prepare)(side);
            // What the preparation left to do, a removed file's blocks to free say, isn't the row's.
            self.settle();
            match row.run {
                Run::Measured(run) => run(&side.at),
                Run::Timed(run) => {
                    let started = Instant::now();
                    run(&side.at);
                    started.elapsed().as_secs_f64()
                }
            }
        };
        for side in &self.sides {
            once(side);
        }
        let round = |round: usize| {
            let mut times = [0.0; 3];
            (0..3).map(|n| (n + round) % 3).for_each(|n| times[n] = once(&self.sides[n]));
            times
        };
        (0..rounds).map(round).collect()
    }
}

fn serve(root: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
    command.args(["serve", "--backend", "native", "--root"]).arg(root);
    command.arg("--mount").arg(root.join("mnt")).arg("--socket").arg(root.join("s"));
    let child = command.env("RUST_LOG", "warn").stdin(Stdio::null()).spawn().unwrap();
    wait("thinfs serves", || std::os::unix::net::UnixStream::connect(root.join("s")).is_ok());
    child
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_fuse(path: &Path) -> bool {
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::statfs(path).is_ok_and(|at| at.f_type == FUSE)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let peer = self.disk.path().join("peer");
        let _ = rustix::mount::unmount(&peer, rustix::mount::UnmountFlags::DETACH);
        for child in [&mut self.daemon, &mut self.peer] {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}
