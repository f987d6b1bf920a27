//! fsx: random reads, writes, truncations, holes and mappings of one file, each read compared with what must be there.
//!
//! The program keeps its file open or opens it again in a moment, so its volume is evicted only between two of its
//! operations; what outlives a daemon is checked by [`Model`], which does the same operations and remembers the
//! content itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use super::{Neighbours, StopOnDrop, activity, rounds, tool, with_max_active};
use crate::harness::{Client, Daemon, random, run_command};

/// Everything that fsx can do, with a close and an open every few dozen operations.
const CONFIGURATION: &str = "
flen = 262144
nomsyncafterwrite = true
[opsize]
min = 1
max = 32768
[weights]
close_open = 2.0
invalidate = 1.0
mapread = 5.0
mapwrite = 5.0
read = 10.0
write = 10.0
truncate = 5.0
fsync = 0.02
fdatasync = 0.02
posix_fallocate = 2.0
punch_hole = 3.0
sendfile = 2.0
posix_fadvise = 1.0
copy_file_range = 3.0
";

/// Operations of one process. It never gives a mapping back, and each truncation goes through all of them: one process for
/// half a million spends most of its time there.
const RUN: usize = 10_000;

/// Operations in a run of `scripts/test`, all files together; `THINFS_FSX_OPERATIONS=1000000` shows the million.
fn operations() -> usize {
    let asked = std::env::var("THINFS_FSX_OPERATIONS").ok();
    asked.map_or_else(|| rounds(100_000, 4_000), |n| n.parse().expect("a number of operations"))
}

#[test]
fn fsx_finds_what_it_wrote_while_its_volume_is_evicted() {
    const FILES: usize = 2;
    let d = with_max_active(1);
    let configuration = d.root().join("fsx.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    let mut client = Client::connect(&d.socket());
    (0..FILES).for_each(|n| drop(client.prepare(&format!("fsx-{n}"), "").unwrap()));
    let neighbours = Neighbours::prepare(&d, 4);
    let (before, stop) = (activity(&d).deactivations, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        scope.spawn(|| neighbours.touch_until(&stop));
        let files: Vec<_> = (0..FILES)
            .map(|n| {
                let path = d.active(&format!("fsx-{n}")).join("file");
                let configuration = &configuration;
                let runs = (operations() / FILES).div_ceil(RUN);
                let each = operations() / FILES / runs;
                scope.spawn(move || {
                    for run in 0..runs {
                        run_fsx(configuration, &path, 1 + n + FILES * run, each);
                    }
                })
            })
            .collect();
        files.into_iter().for_each(|file| file.join().unwrap());
        drop(stopping);
    });
    let evictions = activity(&d).deactivations - before;
    eprintln!("{} operations, {evictions} evictions meanwhile", operations());
    assert!(evictions > 20, "{evictions} evictions");
    d.finish();
}

fn run_fsx(configuration: &Path, file: &Path, seed: usize, operations: usize) {
    let mut fsx = Command::new(tool("fsx"));
    fsx.arg("-f").arg(configuration).args(["-S", &seed.to_string()]);
    fsx.args(["-N", &operations.to_string()]).arg("-P").arg(configuration.parent().unwrap());
    fsx.arg(file);
    // Even on a busy machine it does 50 a second.
    let output = run_command(fsx, Duration::from_secs(600 + operations as u64 / 50));
    assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
}

const LENGTH: usize = 256 << 10;

/// A file, and what must be in it.
struct Model {
    content: Vec<u8>,
    random: fastrand::Rng,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model { content: Vec::new(), random: fastrand::Rng::with_seed(seed) }
    }

    /// One operation on the file and on the model.
    fn step(&mut self, file: &File) {
        let (from, len) = (self.random.usize(..LENGTH), 1 + self.random.usize(..16 << 10));
        let end = (from + len).min(LENGTH);
        match self.random.u8(..8) {
            0..=2 => self.write(file, from, end),
            3 => {
                file.set_len(from as u64).unwrap();
                self.content.resize(from, 0);
            }
            4 => self.punch(file, from, end),
            5 => self.allocate(file, from, end),
            6 => self.copy(file, from, len),
            _ => self.compare(file),
        }
    }

    fn grow(&mut self, end: usize) {
        self.content.resize(self.content.len().max(end), 0);
    }

    fn write(&mut self, file: &File, from: usize, end: usize) {
        let byte = self.random.u8(1..);
        self.grow(end);
        self.content[from..end].fill(byte);
        file.write_all_at(&self.content[from..end], from as u64).unwrap();
    }

    fn punch(&mut self, file: &File, from: usize, end: usize) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, from as u64, (end - from) as u64).unwrap();
        let length = self.content.len();
        self.content[from.min(length)..end.min(length)].fill(0);
    }

    fn allocate(&mut self, file: &File, from: usize, end: usize) {
        fallocate(file, FallocateFlags::empty(), from as u64, (end - from) as u64).unwrap();
        self.grow(end);
    }

    /// From the first half into the second, so that they never overlap.
    fn copy(&mut self, file: &File, from: usize, len: usize) {
        let half = LENGTH / 2;
        let from = from % half;
        let len = len.min(half - from).min(self.content.len().saturating_sub(from));
        let (mut read_at, mut write_at) = (from as u64, (half + from) as u64);
        let mut left = len;
        while left > 0 {
            let done = copy_file_range(file, Some(&mut read_at), file, Some(&mut write_at), left);
            left -= done.unwrap();
        }
        if len > 0 {
            self.grow(half + from + len);
            self.content.copy_within(from..from + len, half + from);
        }
    }

    #[track_caller]
    fn compare(&self, file: &File) {
        assert_eq!(file.metadata().unwrap().len(), self.content.len() as u64, "the length");
        let mut seen = vec![0; self.content.len()];
        file.read_exact_at(&mut seen, 0).unwrap();
        let differs = seen.iter().zip(&self.content).position(|(seen, written)| seen != written);
        assert_eq!(differs, None, "the first byte that differs");
    }
}

fn open(d: &Daemon) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(d.active("model").join("file")).unwrap()
}

#[test]
fn a_file_is_what_was_written_after_every_remount_and_eviction() {
    let mut d = with_max_active(1);
    Client::connect(&d.socket()).prepare("model", "").unwrap();
    let _ = Neighbours::prepare(&d, 2);
    let mut model = Model::new(random::seed());
    for round in 0..rounds(60, 12) {
        let file = open(&d);
        model.compare(&file);
        (0..rounds(500, 100)).for_each(|_| model.step(&file));
        model.compare(&file);
        drop(file);
        match round % 6 {
            // What the daemon has acknowledged is in the backing filesystem's cache, which survives it.
            0 => {
                d.kill();
                d.restart();
            }
            3 => {
                assert_eq!(d.stop(), Some(0), "{}", d.log());
                d.restart();
            }
            _ => evict(&d),
        }
    }
    d.finish();
}

/// Touches others until the model's volume has gone.
fn evict(d: &Daemon) {
    let mut client = Client::connect(&d.socket());
    let id = client.list().iter().find(|s| s.key == "model").expect("it is there").id;
    let neighbours = Neighbours { daemon: d, count: 2 };
    crate::harness::eventually("the volume is evicted", || {
        neighbours.touch();
        client.status().volumes.iter().all(|volume| volume.id != id)
    });
}
