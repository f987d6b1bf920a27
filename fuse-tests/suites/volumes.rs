//! Volumes come and go: evicted under load, activated once by a storm, and failing alone.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Neighbours, StopOnDrop, activity, rounds, with_max_active};
use crate::harness::{Client, Daemon, errno, eventually, is_thin, sh};

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

fn active(d: &Daemon) -> usize {
    Client::connect(&d.socket()).status().volumes.len()
}

fn id_of(d: &Daemon, key: &str) -> u32 {
    d.json(&["info", key])["id"].as_u64().unwrap() as u32
}

/// Touched in turn by four threads; each reads what the one before has written, so an eviction that lost something
/// would show.
#[test]
fn thousands_of_snapshots_are_touched_in_turn_with_few_active() {
    const ACTIVE: usize = 16;
    const THREADS: usize = 4;
    let count = rounds(2_000, 60);
    let d = with_max_active(ACTIVE);
    let mut client = Client::connect(&d.socket());
    client.prepare("seed", "").unwrap();
    fs::write(d.active("seed").join("f"), "0").unwrap();
    client.commit("seed", "base").unwrap();
    (0..count).for_each(|n| drop(client.prepare(&format!("s{n}"), "base").unwrap()));
    let before = activity(&d);
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (d, most) = (&d, &most);
            scope.spawn(move || {
                for round in 0..2 {
                    for n in (thread..count).step_by(THREADS) {
                        let path = d.active(&format!("s{n}")).join("f");
                        assert_eq!(fs::read_to_string(&path).unwrap(), round.to_string(), "s{n}");
                        fs::write(&path, (round + 1).to_string()).unwrap();
                        if n % 50 < THREADS {
                            most.fetch_max(active(d), Relaxed);
                        }
                    }
                }
            });
        }
    });
    let after = activity(&d);
    let (activations, most) = (after.activations - before.activations, most.into_inner());
    eprintln!("{count} snapshots: {activations} activations, {most} active at most");
    assert!(activations as usize >= 2 * (count - ACTIVE), "they were evicted: {activations}");
    // Besides the limit: one in each thread's hands, and those that wait for a thread that deactivates.
    assert!(most <= ACTIVE + 4 * THREADS + 16, "{most} active at most");
    eventually("only so many stay", || active(&d) <= ACTIVE);
    assert_eq!(after.failures, before.failures);
    d.finish();
}

#[test]
fn a_pinned_volume_is_never_evicted() {
    let d = with_max_active(1);
    Client::connect(&d.socket()).prepare("pinned", "").unwrap();
    let path = d.active("pinned").join("f");
    fs::write(&path, "before").unwrap();
    let mut file = File::options().read(true).append(true).open(&path).unwrap();
    let id = id_of(&d, "pinned");
    let neighbours = Neighbours::prepare(&d, 5);
    let before = activity(&d).deactivations;
    for _ in 0..rounds(50, 8) {
        neighbours.touch();
        let volumes = Client::connect(&d.socket()).status().volumes;
        let pinned = volumes.iter().find(|volume| volume.id == id).expect("it is activated");
        assert!(pinned.pins > 0 && pinned.writers > 0, "{pinned:?}");
        // A request by the handle: it works below the descriptor that was opened then.
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 65536).unwrap();
    }
    assert!(activity(&d).deactivations > before + 5, "the others were evicted meanwhile");
    file.write_all(b" and after").unwrap();
    file.rewind().unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "before and after");
    drop(file);
    eventually("it is evicted once closed", || {
        neighbours.touch();
        Client::connect(&d.socket()).status().volumes.iter().all(|volume| volume.id != id)
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "before and after");
    d.finish();
}

#[test]
fn a_storm_on_an_inactive_volume_activates_it_once() {
    const THREADS: usize = 32;
    let d = with_max_active(2);
    Client::connect(&d.socket()).prepare("calm", "").unwrap();
    let at = d.active("calm");
    (0..THREADS).for_each(|n| fs::write(at.join(format!("f{n}")), n.to_string()).unwrap());
    let neighbours = Neighbours::prepare(&d, 4);
    let id = id_of(&d, "calm");
    for _ in 0..rounds(20, 4) {
        eventually("it is evicted", || {
            neighbours.touch();
            Client::connect(&d.socket()).status().volumes.iter().all(|volume| volume.id != id)
        });
        let before = activity(&d).activations;
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for n in 0..THREADS {
                let (at, barrier) = (&at, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    assert_eq!(
                        fs::read_to_string(at.join(format!("f{n}"))).unwrap(),
                        n.to_string()
                    );
                });
            }
        });
        assert_eq!(activity(&d).activations - before, 1, "activations by {THREADS} threads");
    }
    d.finish();
}

/// The volume is broken behind the daemon's back while it is not activated: the directory is moved away, or the
/// superblock on the thin device overwritten.
#[test]
fn a_failed_activation_is_eio_for_its_snapshot_only_and_heals() {
    let d = with_max_active(1);
    let mut client = Client::connect(&d.socket());
    client.prepare("broken", "").unwrap();
    let at = d.active("broken");
    fs::write(at.join("f"), "whole").unwrap();
    let breaker = Breaker::of(&d, "broken");
    let neighbours = Neighbours::prepare(&d, 2);
    let id = id_of(&d, "broken");
    eventually("it is evicted", || {
        neighbours.touch();
        client.status().volumes.iter().all(|volume| volume.id != id)
    });

    breaker.damage();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        // Nothing of this may fail or wait for the broken one.
        scope.spawn(|| neighbours.touch_until(&stop));
        for _ in 0..rounds(20, 3) {
            assert_eq!(errno(File::options().append(true).open(at.join("f"))), EIO);
            assert_eq!(errno(File::create(at.join("new"))), EIO);
            assert_eq!(
                errno(fs::read_dir(&at).and_then(|mut entries| entries.next().transpose())),
                EIO
            );
        }
        drop(stopping);
    });
    assert!(activity(&d).failures > 0);
    assert!(d.cli(&["status"]).ok().contains("failed"), "an operator can see it");

    breaker.heal();
    assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "whole");
    fs::write(at.join("new"), "x").unwrap();
    d.cli(&["commit", "broken", "healed"]).ok();
    assert_eq!(fs::read_to_string(d.committed("healed").join("f")).unwrap(), "whole");
    assert_eq!(client.check(), Vec::<String>::new());
    d.finish();
}

/// Breaks one volume, and mends it again.
enum Breaker {
    Directory(std::path::PathBuf),
    /// The table of its thin device, as long as it is inactive.
    Device {
        table: String,
        kept: std::path::PathBuf,
    },
}

impl Breaker {
    fn of(d: &Daemon, key: &str) -> Breaker {
        if !is_thin() {
            return Breaker::Directory(d.root().join(format!("native/volumes/{}", id_of(d, key))));
        }
        // It is the only one that is activated, so the only thin device beside the pool.
        let tables = sh("dmsetup table --target thin").ok();
        let lines: Vec<_> = tables.lines().filter(|line| line.contains(": ")).collect();
        assert_eq!(lines.len(), 1, "one thin device: {tables}");
        let table = lines[0].split_once(": ").expect("a name and a table").1.to_owned();
        Breaker::Device { table, kept: d.root().join("superblock") }
    }

    fn damage(&self) {
        match self {
            Breaker::Directory(path) => fs::rename(path, path.with_extension("away")).unwrap(),
            Breaker::Device { table, kept } => on_device(
                table,
                &format!(
                    "dd if=$dev of='{}' bs=4k count=1 status=none; dd if=/dev/zero of=$dev bs=4k count=1 conv=fsync status=none",
                    kept.display()
                ),
            ),
        }
    }

    fn heal(&self) {
        match self {
            Breaker::Directory(path) => fs::rename(path.with_extension("away"), path).unwrap(),
            Breaker::Device { table, kept } => on_device(
                table,
                &format!("dd if='{}' of=$dev bs=4k count=1 conv=fsync status=none", kept.display()),
            ),
        }
    }
}

/// Runs a line with the thin device active under a name of ours. Without udev the node is made by hand.
fn on_device(table: &str, line: &str) {
    sh(&format!(
        "dmsetup create broken-by-test --noudevsync --table '{table}'; dev=/dev/mapper/broken-by-test
         test -e $dev || dmsetup mknodes broken-by-test
         {line}
         dmsetup remove --retry --noudevsync broken-by-test"
    ))
    .ok();
}
