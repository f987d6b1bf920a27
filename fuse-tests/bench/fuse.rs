//! The file path: each operation in turn directly and through FUSE, pair by pair, so that a drift of the machine's speed
//! hits both sides. Prints the ratio FUSE / direct of the wall times: below 1, FUSE is faster.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::report::{machine, median};

/// One row: what is timed, and what is done before each timing.
struct Row {
    name: &'static str,
    prepare: fn(&Path),
    run: fn(&Path),
}

const MIB: usize = 1 << 20;
const BIG: usize = 256;

const ROWS: &[Row] = &[
    Row { name: "sequential write 256 MiB, fsync", prepare: remove_big, run: write_big },
    Row { name: "sequential read 256 MiB, cached", prepare: need_big, run: read_big },
    Row { name: "random read 4 KiB × 20,000, cached", prepare: need_big, run: random_read },
    Row { name: "random write 4 KiB × 20,000", prepare: need_big, run: random_write },
    Row { name: "append 100 B × 5,000", prepare: remove_log, run: append },
    Row { name: "lstat warm × 20,000", prepare: need_small, run: stat_small },
    Row { name: "stat of an absent name × 20,000", prepare: need_small, run: stat_absent },
    Row { name: "open+read+close × 5,000", prepare: need_small, run: read_small },
    Row { name: "create 4 KiB × 2,000", prepare: remove_small, run: create_small },
    Row { name: "rename × 2,000", prepare: need_small, run: rename_small },
    Row { name: "unlink × 2,000", prepare: fresh_small, run: remove_small },
    Row { name: "exec of a static binary × 50", prepare: need_program, run: exec },
    Row { name: "untar 3,000 files", prepare: need_tar, run: untar },
    Row { name: "find, warm", prepare: need_tree, run: find },
    Row { name: "tar c to /dev/null", prepare: need_tree, run: tar },
    Row { name: "grep -r", prepare: need_tree, run: grep },
    Row { name: "cp -a of the tree", prepare: need_tree, run: copy },
    Row { name: "rm -rf of the tree", prepare: fresh_tree, run: remove_tree },
];

/// Runs all rows, or those whose name holds `THINFS_BENCH_ROWS`.
pub fn run() {
    let rounds =
        std::env::var("THINFS_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(7);
    let only = std::env::var("THINFS_BENCH_ROWS").unwrap_or_default();
    let bench = Mounted::start();
    println!("{}", machine());
    println!(
        "FUSE directory of a snapshot (native backend) / direct on the backing filesystem; median of {rounds} pairs [least – most]"
    );
    println!("{:<40} {:>8} {:>18} {:>12}", "operation", "ratio", "", "direct");
    for row in ROWS.iter().filter(|row| row.name.contains(&only)) {
        let (ratios, mut direct) = bench.pairs(row, rounds);
        let mut sorted = ratios.clone();
        let middle = median(&mut sorted);
        let spread = format!("[{:.2} – {:.2}]", sorted[0], sorted[sorted.len() - 1]);
        println!(
            "{:<40} {middle:>8.2} {spread:>18} {:>9.1} ms",
            row.name,
            median(&mut direct) * 1e3
        );
    }
}

/// A daemon with one active snapshot, and a plain directory on the same filesystem.
struct Mounted {
    child: Child,
    dir: tempfile::TempDir,
}

impl Mounted {
    fn start() -> Mounted {
        let base = std::env::var_os("THINFS_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        fs::create_dir_all(&base).unwrap();
        let dir = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(base).unwrap();
        fs::create_dir_all(dir.path().join("root/mnt")).unwrap();
        fs::create_dir(dir.path().join("direct")).unwrap();
        let root = dir.path().join("root");
        let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
        command
            .args(["serve", "--backend", "native", "--root"])
            .arg(&root)
            .arg("--mount")
            .arg(root.join("mnt"))
            .arg("--socket")
            .arg(root.join("s"));
        let child = command.env("RUST_LOG", "warn").stdin(Stdio::null()).spawn().unwrap();
        let mounted = Mounted { child, dir };
        while std::os::unix::net::UnixStream::connect(root.join("s")).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::create_dir(mounted.fuse()).unwrap();
        mounted
    }

    fn fuse(&self) -> PathBuf {
        self.dir.path().join("root/mnt/active/bench")
    }

    fn direct(&self) -> PathBuf {
        self.dir.path().join("direct")
    }

    /// Ratios pair by pair, and the direct times in seconds.
    fn pairs(&self, row: &Row, rounds: usize) -> (Vec<f64>, Vec<f64>) {
        let once = |at: &Path| {
            (row.prepare)(at);
            let started = Instant::now();
            (row.run)(at);
            started.elapsed().as_secs_f64()
        };
        (once(&self.direct()), once(&self.fuse()));
        let times = (0..rounds).map(|round| {
            if round % 2 == 0 {
                let direct = once(&self.direct());
                (direct, once(&self.fuse()))
            } else {
                let fuse = once(&self.fuse());
                (once(&self.direct()), fuse)
            }
        });
        times.map(|(direct, fuse)| (fuse / direct, direct)).unzip()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

fn command(line: &str, at: &Path) {
    let status = Command::new("bash")
        .args(["-c", line])
        .current_dir(at)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{line}");
}

fn remove_big(at: &Path) {
    let _ = fs::remove_file(at.join("big"));
}

fn write_big(at: &Path) {
    let mut file = File::create(at.join("big")).unwrap();
    let block = vec![7u8; MIB];
    for _ in 0..BIG {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn need_big(at: &Path) {
    if !at.join("big").exists() {
        write_big(at);
    }
    read_big(at);
}

fn read_big(at: &Path) {
    let mut file = File::open(at.join("big")).unwrap();
    let mut block = vec![0u8; MIB];
    while file.read(&mut block).unwrap() > 0 {}
}

/// The same pseudo-random offsets on both sides.
fn offsets() -> impl Iterator<Item = u64> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..20_000).map(move |_| random.u64(0..(BIG * MIB / 4096) as u64) * 4096)
}

fn random_read(at: &Path) {
    let file = File::open(at.join("big")).unwrap();
    let mut block = [0u8; 4096];
    offsets().for_each(|offset| file.read_exact_at(&mut block, offset).unwrap());
}

fn random_write(at: &Path) {
    let file = OpenOptions::new().write(true).open(at.join("big")).unwrap();
    offsets().for_each(|offset| file.write_all_at(&[9u8; 4096], offset).unwrap());
}

fn remove_log(at: &Path) {
    let _ = fs::remove_file(at.join("log"));
}

fn append(at: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(at.join("log")).unwrap();
    (0..5_000).for_each(|_| file.write_all(&[b'x'; 100]).unwrap());
}

const SMALL: usize = 2_000;

fn small(at: &Path, n: usize) -> PathBuf {
    at.join(format!("small/f{n}"))
}

fn create_small(at: &Path) {
    fs::create_dir_all(at.join("small")).unwrap();
    (0..SMALL).for_each(|n| {
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .custom_flags(0)
            .open(small(at, n))
            .unwrap()
            .write_all(&[1u8; 4096])
            .unwrap()
    });
}

fn need_small(at: &Path) {
    if !small(at, 0).exists() {
        fresh_small(at);
    }
    (0..SMALL).for_each(|n| drop(fs::symlink_metadata(small(at, n)).unwrap()));
}

fn fresh_small(at: &Path) {
    remove_small(at);
    create_small(at);
}

fn remove_small(at: &Path) {
    for n in 0..SMALL {
        let _ = fs::remove_file(small(at, n));
    }
}

fn stat_small(at: &Path) {
    for round in 0..10 {
        (0..SMALL).for_each(|n| {
            drop(
                fs::symlink_metadata(small(at, n)).unwrap_or_else(|e| panic!("round {round}: {e}")),
            )
        });
    }
}

fn stat_absent(at: &Path) {
    for _ in 0..10 {
        (0..SMALL).for_each(|n| {
            assert!(fs::symlink_metadata(at.join(format!("small/absent{n}"))).is_err())
        });
    }
}

fn read_small(at: &Path) {
    let mut block = [0u8; 4096];
    for n in 0..5_000 {
        File::open(small(at, n % SMALL)).unwrap().read_exact(&mut block).unwrap();
    }
}

fn rename_small(at: &Path) {
    for n in 0..SMALL {
        fs::rename(small(at, n), at.join("small/other")).unwrap();
        fs::rename(at.join("small/other"), small(at, n)).unwrap();
    }
}

fn need_program(at: &Path) {
    if !at.join("busybox").exists() {
        fs::copy("/bin/busybox", at.join("busybox")).unwrap();
    }
}

fn exec(at: &Path) {
    for _ in 0..50 {
        assert!(Command::new(at.join("busybox")).arg("true").status().unwrap().success());
    }
}

/// A source tree of this machine: 3,000 files of a few KiB.
fn need_tar(at: &Path) {
    let tar = at.join("tree.tar");
    if !tar.exists() {
        let files = "find /usr/include /usr/share/perl /usr/lib/python3 -type f -size -64k 2>/dev/null | head -n 3000";
        command(&format!("{files} | tar -cf tree.tar -T - 2>/dev/null"), at);
    }
    let _ = fs::remove_dir_all(at.join("tree"));
    fs::create_dir(at.join("tree")).unwrap();
}

fn untar(at: &Path) {
    command("tar -C tree -xf tree.tar", at);
}

fn need_tree(at: &Path) {
    let _ = fs::remove_dir_all(at.join("copy"));
    if !at.join("tree/usr").exists() {
        fresh_tree(at);
    }
    find(at);
}

fn fresh_tree(at: &Path) {
    need_tar(at);
    untar(at);
}

fn find(at: &Path) {
    command("find tree -newer tree.tar -size +1000 >/dev/null", at);
}

fn tar(at: &Path) {
    command("tar -cf - tree | cat >/dev/null", at);
}

fn grep(at: &Path) {
    command("grep -r 'no such text anywhere' tree || true", at);
}

fn copy(at: &Path) {
    command("cp -a tree copy", at);
}

fn remove_tree(at: &Path) {
    command("rm -rf tree", at);
}
