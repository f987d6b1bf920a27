//! One snapshot's trouble is not another's.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::{StopOnDrop, rounds};
use crate::harness::{Client, Daemon, Options, errno, is_thin, sh};

/// The time that 99 of 100 small operations take at most: open for writing and close, a request each.
fn p99(file: &Path, samples: usize) -> Duration {
    let mut times: Vec<_> = (0..samples)
        .map(|_| {
            let started = Instant::now();
            drop(OpenOptions::new().append(true).open(file).unwrap());
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[(times.len() - 1) * 99 / 100]
}

/// Twice as many writers as the daemon has threads for what takes long. The p99 of the other snapshot is printed beside
/// that of a directory on the same disk without the daemon. No time is asserted, because the machine's load is in it:
/// what would fail here is a request that waits for the storm's end, for the storm ends only after all samples.
#[test]
fn an_fsync_storm_leaves_another_snapshots_requests_alone() {
    const WRITERS: usize = 32;
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("storm", "").unwrap();
    client.prepare("calm", "").unwrap();
    let (calm, direct) = (d.active("calm").join("f"), d.root().join("direct"));
    fs::write(&calm, "x").unwrap();
    fs::write(&direct, "x").unwrap();
    let samples = rounds(2_000, 200);
    let alone = (p99(&calm, samples), p99(&direct, samples));
    let (stop, synced) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    let storm = std::thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        for n in 0..WRITERS {
            let (path, stop, synced) = (d.active("storm").join(format!("f{n}")), &stop, &synced);
            scope.spawn(move || {
                let mut file = File::create(path).unwrap();
                while !stop.load(Relaxed) {
                    file.write_all(&[7; 4096]).unwrap();
                    let started = Instant::now();
                    file.sync_all().unwrap();
                    synced.lock().unwrap().push(started.elapsed());
                }
            });
        }
        crate::harness::eventually("the storm blows", || synced.lock().unwrap().len() > WRITERS);
        let during = (p99(&calm, samples), p99(&direct, samples));
        drop(stopping);
        during
    });
    let mut synced = synced.into_inner().unwrap();
    synced.sort_unstable();
    let median = synced[synced.len() / 2];
    eprintln!(
        "p99 of open+close: alone {:?} (direct {:?}), under {WRITERS} fsync writers {:?} (direct {:?}); an fsync takes {median:?}",
        alone.0, alone.1, storm.0, storm.1
    );
    assert!(synced.len() > WRITERS, "the storm blew: {} fsyncs", synced.len());
    d.finish();
}

/// A snapshot that can hold no more says so; others and the daemon go on. (On native there is one disk for all.)
#[test]
fn a_full_snapshot_is_enospc_for_itself_alone() {
    if !is_thin() {
        return full_directory_quota();
    }
    let flags = vec!["--volume-size".to_owned(), "32M".to_owned()];
    let d = Daemon::start_with(Options { flags, ..Options::default() });
    full_beside_another(&d);
    d.finish();
}

/// The whole root on a small filesystem of its own: what runs full is all of it, and all of it goes on once there is
/// room again.
fn full_directory_quota() {
    let dir = tempfile::tempdir_in(crate::harness::work_dir()).unwrap();
    let (image, at) = (dir.path().join("image"), dir.path().join("small"));
    fs::create_dir(&at).unwrap();
    sh(&format!(
        "truncate -s 96M '{0}' && mkfs.ext4 -q '{0}' && mount -o loop '{0}' '{1}'",
        image.display(),
        at.display()
    ))
    .ok();
    let unmount = Unmount(&at);
    let d = Daemon::start_at(at.join("root"), Options::default());
    let mut client = Client::connect(&d.socket());
    client.prepare("full", "").unwrap();
    client.prepare("other", "").unwrap();
    fs::write(d.active("other").join("f"), "kept").unwrap();
    fill(&d.active("full").join("big"));
    assert_eq!(fs::read_to_string(d.active("other").join("f")).unwrap(), "kept");
    fs::remove_file(d.active("full").join("big")).unwrap();
    crate::harness::eventually("there is room again", || {
        fs::write(d.active("other").join("f"), vec![1; 1 << 20]).is_ok()
    });
    client.commit("full", "emptied").unwrap();
    d.finish();
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn fill(path: &Path) {
    const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
    let mut file = File::create(path).unwrap();
    let refused = loop {
        if let Err(error) = file.write_all(&[5; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(refused.raw_os_error(), Some(ENOSPC));
    let more = fallocate(&file, FallocateFlags::empty(), 0, 1 << 30).map_err(std::io::Error::from);
    assert_eq!(errno(more), ENOSPC);
}

fn full_beside_another(d: &Daemon) {
    let mut client = Client::connect(&d.socket());
    client.prepare("full", "").unwrap();
    client.prepare("other", "").unwrap();
    fill(&d.active("full").join("big"));
    fs::write(d.active("other").join("f"), vec![1; 4 << 20]).unwrap();
    File::open(d.active("other").join("f")).unwrap().sync_all().unwrap();
    assert_eq!(fs::metadata(d.active("other").join("f")).unwrap().len(), 4 << 20);
    fs::remove_file(d.active("full").join("big")).unwrap();
    crate::harness::eventually("there is room again", || {
        fs::write(d.active("full").join("small"), "x").is_ok()
    });
    client.commit("full", "emptied").unwrap();
}

/// A device that answers nothing at all (suspended): whoever syncs on it waits, twice as many as the daemon has
/// threads for that. Opening, writing, looking up, making and removing in another snapshot go on.
#[test]
fn in_guest_a_stuck_device_does_not_stop_another_snapshots_requests() {
    assert!(
        is_thin(),
        "only a thin volume has a device of its own: run through `scripts/test suites`"
    );
    const STUCK: usize = 32;
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("stuck", "").unwrap();
    let files: Vec<_> = (0..STUCK)
        .map(|n| File::create(d.active("stuck").join(format!("f{n}"))).unwrap())
        .collect();
    let device = the_thin_device();
    client.prepare("calm", "").unwrap();
    fs::write(d.active("calm").join("f"), "x").unwrap();

    let suspended = Suspended::new(&device);
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut file in files {
            let released = &released;
            scope.spawn(move || {
                file.write_all(&[1; 4096]).unwrap();
                file.sync_all().unwrap();
                assert!(released.load(Relaxed), "it was synced on a suspended device");
            });
        }
        let waited = || client.status().fuse.expect("this daemon counts").waited;
        let mut waited = waited;
        crate::harness::eventually("they wait", || waited() >= STUCK as u64);
        let calm = goes_on(scope, d.active("calm"));
        released.store(true, Relaxed);
        drop(suspended);
        calm.expect("the other snapshot's requests are answered meanwhile");
    });
    d.finish();
}

/// The same of those who look at what isn't cached, so that the daemon itself must read from the device: more than it has
/// threads that read requests, and more than it gives one snapshot.
#[test]
fn in_guest_readers_of_a_stuck_device_do_not_stop_another_snapshots_requests() {
    assert!(
        is_thin(),
        "only a thin volume has a device of its own: run through `scripts/test suites`"
    );
    const STUCK: usize = 64;
    const AT_ONCE: u64 = 32;
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("stuck", "").unwrap();
    let stuck = d.active("stuck");
    let directories: Vec<_> = (0..STUCK).map(|n| stuck.join(format!("d{n}"))).collect();
    for directory in &directories {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("f"), "content").unwrap();
    }
    let device = the_thin_device();
    client.prepare("calm", "").unwrap();
    fs::write(d.active("calm").join("f"), "x").unwrap();
    sh("sync").ok();
    // What the kernel has forgotten of the mount, the daemon lets go of, and then the filesystem below.
    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }

    let lookups = |client: &mut Client| {
        let requests = client.status().fuse.expect("this daemon counts").requests;
        requests.iter().find(|request| request.name == "lookup").expect("counted").count
    };
    let before = lookups(&mut client);
    let suspended = Suspended::new(&device);
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for directory in &directories {
            let released = &released;
            scope.spawn(move || {
                assert_eq!(fs::read_to_string(directory.join("f")).unwrap(), "content");
                assert!(released.load(Relaxed), "it was read from a suspended device");
            });
        }
        crate::harness::eventually("they look", || lookups(&mut client) >= before + AT_ONCE);
        let calm = goes_on(scope, d.active("calm"));
        released.store(true, Relaxed);
        drop(suspended);
        calm.expect("the other snapshot's requests are answered meanwhile");
    });
    d.finish();
}

/// Opens, writes, looks up, makes and removes, and gives up waiting for the answers after a minute.
fn goes_on<'s>(scope: &'s Scope<'s, '_>, at: PathBuf) -> Result<(), RecvTimeoutError> {
    let (send, receive) = std::sync::mpsc::channel();
    scope.spawn(move || {
        for n in 0..100 {
            let file = at.join(format!("new-{n}"));
            fs::write(&file, "content").unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "content");
            fs::rename(&file, at.join("renamed")).unwrap();
            fs::remove_file(at.join("renamed")).unwrap();
        }
        let _ = send.send(());
    });
    receive.recv_timeout(Duration::from_secs(60))
}

/// The only one that is active.
fn the_thin_device() -> String {
    let tables = sh("dmsetup table --target thin").ok();
    let names: Vec<_> = tables.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(names.len(), 1, "one thin device: {tables}");
    names[0].0.to_owned()
}

struct Suspended<'a>(&'a str);

impl Suspended<'_> {
    fn new(device: &str) -> Suspended<'_> {
        sh(&format!("dmsetup suspend --noflush --nolockfs {device}")).ok();
        Suspended(device)
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        let _ = sh(&format!("dmsetup resume --noudevsync {}", self.0));
    }
}
