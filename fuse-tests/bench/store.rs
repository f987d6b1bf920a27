//! The metadata store: durable mutations by many callers against what fsync allows, and a store of 100,000 snapshots:
//! start, pages, filters, check, memory.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use thinfs::meta::{Batch, Store};
use thinfs::snapshot::Snapshots;
use thinfs::types::{
    Backing, Event, Kind, Labels, Namespace, Snapshot, SnapshotId, SnapshotKey, Topic, Usage,
    Volume, VolumeId, VolumeState,
};
use thinfs::volume::{NativeBackend, NativeConfig, Volumes};

use super::report::{machine, percentile};

const SNAPSHOTS: u32 = 100_000;
const NAMESPACES: u32 = 1_000;
/// All but one namespace have so many.
const SMALL: u32 = 50;
const CHAIN: u32 = 1_000;
const ROUND: Duration = Duration::from_secs(2);

/// Runs everything, on the disk below THINFS_TEST_DIR (the build cache) and in memory.
pub fn run() {
    println!("{}", machine());
    let disk = std::env::var("THINFS_TEST_DIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    for (name, place) in [("memory", "/dev/shm"), ("disk", disk.as_str())] {
        println!(
            "\ndurable mutations on {name} ({place}): a snapshot with its volume, two labels and its event"
        );
        let dir = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(place).unwrap();
        println!("  fdatasync after 1 KiB appended: {:.0} a second", syncs(dir.path()));
        for callers in [1, 8, 64, 256, 1024] {
            mutations(&dir.path().join(callers.to_string()), callers);
        }
    }
    println!();
    let dir = tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(&disk).unwrap();
    large(dir.path());
}

/// The floor: how often the disk can be waited for.
fn syncs(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("syncs")).unwrap();
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < ROUND {
        file.write_all(&[7; 1024]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

fn mutations(dir: &Path, callers: u32) {
    let store = Store::open(dir).unwrap();
    let ns = Namespace::default();
    let next = AtomicU64::new(1);
    let (started, busy) = (Instant::now(), cpu_time());
    let mut samples: Vec<Duration> = std::thread::scope(|scope| {
        let work = || {
            let mut samples = Vec::new();
            while started.elapsed() < ROUND {
                let id = next.fetch_add(1, Ordering::Relaxed) as u32;
                let mut batch = Batch::default();
                let key = name(id);
                add(&mut batch, &ns, &key, id, None);
                batch.publish(Event::about(Topic::SNAPSHOT_PREPARE, &ns, &key).with("id", id));
                let asked = Instant::now();
                store.write(batch).unwrap();
                samples.push(asked.elapsed());
            }
            samples
        };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let rate = samples.len() as f64 / started.elapsed().as_secs_f64();
    let busy = (cpu_time() - busy).as_secs_f64() * 1e6 / samples.len() as f64;
    println!(
        "  {callers:5} callers: {rate:7.0} a second, each in {:.0} µs (p50), {:.0} µs (p99), {busy:.1} µs of processor time, {} MiB of memory",
        percentile(&mut samples, 50),
        percentile(&mut samples, 99),
        resident() >> 20
    );
    drop(store);
    fs::remove_dir_all(dir).unwrap();
}

/// What all threads have used, those of RocksDB's included: what mutations cost, however busy the machine is.
fn cpu_time() -> Duration {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let whole = used.user_time() + used.system_time();
    Duration::from_micros(whole.num_microseconds() as u64)
}

fn name(id: u32) -> SnapshotKey {
    SnapshotKey::new(format!("k8s.io/{id}/extract-{id} sha256:{id:064}")).unwrap()
}

fn add(batch: &mut Batch, ns: &Namespace, key: &SnapshotKey, id: u32, parent: Option<SnapshotKey>) {
    let now = SystemTime::now();
    let kind =
        if parent.is_some() || id.is_multiple_of(2) { Kind::Committed } else { Kind::Active };
    let labels = Labels::from([
        ("containerd.io/snapshot.ref".to_owned(), format!("sha256:{id:064}")),
        ("owner".to_owned(), if id.is_multiple_of(1000) { "rare" } else { "all" }.to_owned()),
    ]);
    let usage = (kind == Kind::Committed).then_some(Usage { size: 4096, inodes: 3 });
    let volume = VolumeId(id);
    let snapshot = Snapshot {
        id: SnapshotId(id),
        kind,
        parent,
        labels,
        created: now,
        updated: now,
        usage,
        volume,
        collectable: false,
    };
    batch.insert_snapshot(ns, key, &snapshot);
    batch.put_volume(&Volume {
        id: volume,
        state: VolumeState::Live,
        origin: None,
        size: 0,
        backing: Backing::Native,
    });
}

/// Half of all in one namespace, with a chain; the others each have a few.
fn fill(store: &Store) {
    let big = SNAPSHOTS - (NAMESPACES - 1) * SMALL;
    let mut batch = Batch::default();
    while store.next_snapshot_id().unwrap().0 < SNAPSHOTS {}
    for id in 1..=SNAPSHOTS {
        let at = if id <= big { 0 } else { 1 + (id - big - 1) / SMALL };
        let ns = Namespace::new(format!("ns-{at}")).unwrap();
        let parent = (id > 1 && id <= CHAIN).then(|| name(id - 1));
        add(&mut batch, &ns, &name(id), id, parent);
        if id % 1000 == 0 {
            store.write(std::mem::take(&mut batch)).unwrap();
        }
    }
}

fn large(root: &Path) {
    println!(
        "a store of {SNAPSHOTS} snapshots in {NAMESPACES} namespaces, a chain of {CHAIN} in the largest, native backend"
    );
    let trees = root.join("native");
    fill(&Store::open(&root.join("meta")).unwrap());
    for id in 1..=SNAPSHOTS {
        fs::create_dir_all(trees.join(format!("volumes/{id}/fs"))).unwrap();
    }
    let started = Instant::now();
    let store = Arc::new(Store::open(&root.join("meta")).unwrap());
    let opened = started.elapsed();
    let backend = Arc::new(NativeBackend::start(NativeConfig { dir: trees }).unwrap());
    let (snapshots, recovery) = Snapshots::start(store, Volumes::new(backend, 64)).unwrap();
    println!(
        "  start: {:?} (the store {opened:?}); {} MiB of memory",
        started.elapsed(),
        resident() >> 20
    );
    assert_eq!(
        (recovery.snapshots, recovery.reaped, recovery.lost.len()),
        (SNAPSHOTS as usize, 0, 0)
    );
    let ns = Namespace::new("ns-0").unwrap();
    let timed = |what: &str, work: &mut dyn FnMut() -> usize| {
        let started = Instant::now();
        let found = work();
        println!("  {what}: {found} in {:?}", started.elapsed());
    };
    let walk = |filters: &[&str], after: Option<&SnapshotKey>, limit: usize| {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        let mut found = 0;
        let mut visit = |_| {
            found += 1;
            if found == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        snapshots.walk_after(&ns, &filters, after, &mut visit).unwrap();
        found
    };
    timed("namespaces", &mut || snapshots.namespaces().unwrap().len());
    timed("list all of the largest namespace", &mut || walk(&[], None, 0));
    timed("a page of 100 in its middle (ls)", &mut || walk(&[], Some(&name(25_000)), 100));
    timed("a page of 128 in its middle (readdir)", &mut || {
        snapshots.page(&ns, Kind::Active, Some(&name(25_001)), 128).unwrap().len()
    });
    timed("filter without an index (name~=)", &mut || walk(&["name~=/25000/"], None, 0));
    timed("filter parent==", &mut || walk(&[&format!("parent==\"{}\"", name(500))], None, 0));
    timed("filter kind==view", &mut || walk(&["kind==view"], None, 0));
    timed("filter labels.owner==rare", &mut || walk(&["labels.owner==rare"], None, 0));
    timed("containerd's target lookup (labels and parent)", &mut || {
        walk(
            &[&format!(
                "labels.\"containerd.io/snapshot.ref\"==\"sha256:{:064}\",parent==\"{}\"",
                500,
                name(499)
            )],
            None,
            0,
        )
    });
    timed("check", &mut || snapshots.check().unwrap().len());
    println!("  {} MiB of memory after all of it", resident() >> 20);
    snapshots.close().unwrap();
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}
