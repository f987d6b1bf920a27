//! The thin layer: `Snapshots::prepare`, `commit` and `remove` on a real pool, in turn with the raw `create_snap` message (the floor) and
//! with `dmsetup message` run as a process (what the devmapper snapshotter does), in one run. Then a hundred at once, on
//! disks and on files of a filesystem.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thinfs::crashpoint::Step;
use thinfs::daemon::StoreLedger;
use thinfs::meta::Store;
use thinfs::snapshot::{Snapshots, Wish};
use thinfs::thin::dm::Dm;
use thinfs::types::{Backing, Labels, Namespace, SnapshotKey};
use thinfs::volume::Volumes;
use thinfs::volume::thin::{PoolLedger, PoolSource, ThinBackend, ThinConfig};

use super::report::{machine, percentile};

/// Thin ids of the raw messages: far above those that the backend reserves in a run.
const RAW_IDS: u32 = 0x00f0_0000;
/// Those of the second round of raw messages.
const MORE_RAW_IDS: u32 = 0x00f1_0000;
const SAMPLES: usize = 200;
/// As many at once.
const MANY: u32 = 100;
/// How often.
const TURNS: u32 = 7;
/// As many in a group as the gRPC service makes together.
const GROUP: usize = 16;
/// Each of these many samples, one is a process: they cost a hundred times as much.
const PROCESS_EACH: u32 = 40;

struct Bench {
    store: Arc<Store>,
    snapshots: Arc<Snapshots>,
    volumes: Arc<Volumes>,
    dm: Dm,
    pool: String,
    namespace: Namespace,
    serial: u32,
}

/// Runs everything; needs the guest's disks.
pub fn run() {
    assert!(
        std::path::Path::new("/dev/mapper/control").exists(),
        "needs device-mapper: run through scripts/bench thin"
    );
    let scratch = std::env::var("THINFS_TEST_DIR").unwrap_or_else(|_| "/mnt/scratch".to_owned());
    let root = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(scratch).unwrap();
    let (data, metadata) = ("/dev/ubdb".into(), "/dev/ubda".into());
    let mut bench = Bench::start(root.path(), PoolSource::Devices { data, metadata });
    println!("{}", machine());
    println!(
        "microseconds, p50 / p99 of {SAMPLES}; ratio of the medians to the raw create_snap message of the same rows"
    );
    let base = bench.committed("base", None);
    for count in [10, 10_000] {
        bench.fill(count, &base);
        bench.compare(&format!("{count} snapshots, depth 1"), &base);
    }
    let deep = bench.chain(500, &base);
    bench.compare("10,000 snapshots, depth 500", &deep);
    bench.empty();
    bench.cycle(&base);
    bench.at_once("the pool on disks", &base);
    bench.stop();
    let root = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(&scratch).unwrap();
    let dir = root.path().join("thin");
    let files = PoolSource::Auto { dir, size: Some(4 << 30), most: None };
    let mut bench = Bench::start(root.path(), files);
    let base = bench.committed("base", None);
    bench.at_once("the pool on files of an ext4", &base);
    bench.stop();
}

impl Bench {
    fn start(root: &std::path::Path, source: PoolSource) -> Bench {
        let store = Arc::new(Store::open(&root.join("meta")).unwrap());
        let config = ThinConfig { source, ..ThinConfig::new(root.to_path_buf()) };
        let backend = Arc::new(
            ThinBackend::start(config, Arc::new(StoreLedger::new(store.clone()))).unwrap(),
        );
        let volumes = Volumes::new(backend, 64);
        let (snapshots, _) = Snapshots::start(store.clone(), volumes.clone()).unwrap();
        let dm = Dm::open().unwrap();
        let pool = dm.devices().unwrap().into_iter().find(|name| name.ends_with("-pool")).unwrap();
        Bench { store, snapshots, volumes, dm, pool, namespace: Namespace::default(), serial: 0 }
    }

    fn stop(self) {
        self.snapshots.close().unwrap();
        self.volumes.stop().unwrap();
    }

    fn key(&mut self) -> SnapshotKey {
        self.serial += 1;
        SnapshotKey::new(format!("key-{}", self.serial)).unwrap()
    }

    fn prepare(&mut self, parent: Option<&SnapshotKey>) -> SnapshotKey {
        let key = self.key();
        self.snapshots.prepare(&self.namespace, &key, parent, Labels::new()).unwrap();
        key
    }

    fn committed(&mut self, name: &str, parent: Option<&SnapshotKey>) -> SnapshotKey {
        let key = self.prepare(parent);
        let name = SnapshotKey::new(name).unwrap();
        self.snapshots.commit(&self.namespace, &name, &key, Labels::new(), None).unwrap();
        name
    }

    fn fill(&mut self, count: u32, base: &SnapshotKey) {
        while self.serial < count {
            self.prepare(Some(base));
        }
    }

    fn chain(&mut self, depth: usize, base: &SnapshotKey) -> SnapshotKey {
        (0..depth).fold(base.clone(), |parent, level| {
            self.committed(&format!("level-{level}"), Some(&parent))
        })
    }

    fn thin_id(&self, key: &SnapshotKey) -> u32 {
        let snapshot = self.store.snapshot(&self.namespace, key).unwrap().unwrap();
        match self.store.volume(snapshot.volume).unwrap().unwrap().backing {
            Backing::Thin { thin_id } => thin_id,
            Backing::Native => unreachable!("the backend is thin"),
        }
    }

    /// Raw message, the batch alone, prepare, and now and then dmsetup, in turn on one origin.
    fn compare(&mut self, title: &str, origin: &SnapshotKey) {
        let origin_id = self.thin_id(origin);
        let ledger = StoreLedger::new(self.store.clone());
        let record = ledger.load().unwrap().unwrap();
        let (mut raw, mut batch, mut prepare, mut dmsetup) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for n in 0..SAMPLES as u32 {
            let id = RAW_IDS + n;
            let message = format!("create_snap {id} {origin_id}");
            if n % PROCESS_EACH == PROCESS_EACH - 1 {
                dmsetup.push(timed(|| {
                    assert!(
                        Command::new("dmsetup")
                            .args(["message", &self.pool, "0", &message])
                            .status()
                            .unwrap()
                            .success()
                    )
                }));
            } else {
                raw.push(timed(|| {
                    self.dm.message(&self.pool, Step::CreateSnap, &message).unwrap()
                }));
            }
            prepare.push(timed(|| drop(self.prepare(Some(origin)))));
            // The record as it stands: the range of ids in use outlasts a run of samples.
            if ledger.load().unwrap().as_ref() == Some(&record) {
                batch.push(timed(|| ledger.save(&record, Step::LedgerChange).unwrap()));
            }
        }
        for n in 0..SAMPLES as u32 {
            let message = format!("delete {}", RAW_IDS + n);
            self.dm.message(&self.pool, Step::Delete, &message).unwrap();
        }
        println!("{title}");
        let floor = percentile(&mut raw, 50);
        print("  raw create_snap message", &mut raw, floor);
        print("  one synced batch of the store", &mut batch, floor);
        print("  prepare on a parent (durable)", &mut prepare, floor);
        print("  dmsetup message, as a process", &mut dmsetup, floor);
    }

    /// Prepare of an empty snapshot: the template was made by the first one.
    fn empty(&mut self) {
        let mut samples: Vec<_> = (0..50).map(|_| timed(|| drop(self.prepare(None)))).collect();
        println!("empty prepare, after the first");
        let floor = percentile(&mut samples.clone(), 50);
        print("  prepare without a parent", &mut samples, floor);
    }

    /// Commit and remove of snapshots that nobody looked at, and of ones with a file in them.
    fn cycle(&mut self, base: &SnapshotKey) {
        let (mut commits, mut removals, mut opens, mut busy_commits) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for n in 0..50 {
            let key = self.prepare(Some(base));
            let name = SnapshotKey::new(format!("untouched-{n}")).unwrap();
            commits.push(timed(|| {
                drop(
                    self.snapshots
                        .commit(&self.namespace, &name, &key, Labels::new(), None)
                        .unwrap(),
                )
            }));
            removals.push(timed(|| self.snapshots.remove(&self.namespace, &name).unwrap()));
            let key = self.prepare(Some(base));
            let id = self.snapshots.stat(&self.namespace, &key).unwrap().snapshot.id;
            let mut opened = None;
            opens.push(timed(|| opened = Some(self.snapshots.open(id).unwrap())));
            drop(opened);
            let name = SnapshotKey::new(format!("touched-{n}")).unwrap();
            busy_commits.push(timed(|| {
                drop(
                    self.snapshots
                        .commit(&self.namespace, &name, &key, Labels::new(), None)
                        .unwrap(),
                )
            }));
        }
        println!("the rest of a snapshot's life");
        let floor = percentile(&mut commits.clone(), 50);
        print("  commit, never looked at", &mut commits, floor);
        print("  first look: activate and mount", &mut opens, floor);
        print("  commit, mounted", &mut busy_commits, floor);
        print("  remove (acknowledged)", &mut removals, floor);
    }
}

impl Bench {
    /// So many at once, in turns: the raw messages one after the other (the kernel takes one at a time), a thread for each
    /// prepare, and groups, as the gRPC service makes them.
    fn at_once(&mut self, title: &str, base: &SnapshotKey) {
        let base_id = self.thin_id(base);
        let (mut raw, mut threads, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..TURNS {
            let ids = MORE_RAW_IDS + turn * MANY..MORE_RAW_IDS + (turn + 1) * MANY;
            let send = |id| {
                let message = format!("create_snap {id} {base_id}");
                self.dm.message(&self.pool, Step::CreateSnap, &message).unwrap();
            };
            raw.push(timed(|| ids.for_each(send)));
            let keys: Vec<_> = (0..MANY).map(|_| self.key()).collect();
            let prepare = |key| {
                self.snapshots.prepare(&self.namespace, key, Some(base), Labels::new()).unwrap()
            };
            threads.push(timed(|| {
                std::thread::scope(|scope| {
                    keys.iter().for_each(|key| drop(scope.spawn(|| prepare(key))));
                });
            }));
            let wish = |key| Wish { key, parent: Some(base.clone()), labels: Labels::new() };
            let wishes: Vec<_> = (0..MANY).map(|_| self.key()).map(wish).collect();
            groups.push(timed(|| {
                for group in wishes.chunks(GROUP) {
                    let made = self.snapshots.prepare_together(&self.namespace, group);
                    assert!(made.iter().all(|made| matches!(made, Some(Ok(_)))), "{made:?}");
                }
            }));
        }
        for id in MORE_RAW_IDS..MORE_RAW_IDS + TURNS * MANY {
            self.dm.message(&self.pool, Step::Delete, &format!("delete {id}")).unwrap();
        }
        println!("{MANY} at once, median of {TURNS} turns, {title}");
        print_all("  raw create_snap messages in a row", &mut raw);
        print_all("  prepares, a thread for each", &mut threads);
        print_all(&format!("  prepares, in groups of {GROUP}"), &mut groups);
    }
}

fn print_all(name: &str, samples: &mut [Duration]) {
    let (median, least) = (percentile(samples, 50), percentile(samples, 0));
    println!("{name:<40} {:>8.1} ms in all (least {:.1})", median / 1000.0, least / 1000.0);
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn print(name: &str, samples: &mut [Duration], floor: f64) {
    let median = percentile(samples, 50);
    println!(
        "{name:<36} {median:>9.0} / {:>9.0}   {:>6.2}×",
        percentile(samples, 99),
        median / floor
    );
}
