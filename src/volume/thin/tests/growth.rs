//! Pools that grow by themselves, up to their limit.

use super::super::keeper::Watch;
use super::*;
use crate::thin::status::PoolMode;
use crate::volume::Volumes;

fn growing(rig: &Rig, most: u64) -> ThinConfig {
    let dir = rig.dir.path().join("thin");
    let source = PoolSource::Auto { dir, size: Some(64 * MIB), most: Some(most) };
    ThinConfig { source, ..rig.config() }
}

fn fill(mounted: &Mounted, name: &str, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(below(mounted, name))?;
    for _ in 0..bytes / MIB {
        file.write_all(&vec![7; MIB as usize])?;
    }
    file.sync_all()
}

#[test]
fn in_guest_a_pool_of_files_grows_under_a_writer_who_needs_more_than_it_has() {
    let rig = Rig::new();
    let config = growing(&rig, 512 * MIB);
    let backend = ThinBackend::start(config.clone(), Arc::new(rig.ledger.clone())).unwrap();
    let before = backend.capacity().unwrap();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    fill(&mounted, "big", 160 * MIB).unwrap();
    let after = backend.capacity().unwrap();
    assert!(before.total <= 64 * MIB && after.used >= 160 * MIB, "{before:?} {after:?}");
    backend.seal(&volume, &mut mounted).unwrap();
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    let grown = rig.ledger.1.lock().clone();
    let grown: Vec<_> =
        grown.iter().filter(|event| event.topic == types::Topic::POOL_GROW).collect();
    let largest = grown.iter().rfind(|event| event.details["device"] == "data");
    let bytes: u64 = largest.expect("readers of events are told").details["bytes"].parse().unwrap();
    assert!((160 * MIB..=512 * MIB).contains(&bytes), "{grown:?}");

    let backend = ThinBackend::start(config, Arc::new(rig.ledger.clone())).unwrap();
    // The pool may have been given more after the look, too.
    assert!(backend.capacity().unwrap().total >= after.total, "the next start takes all of it");
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert!(read(&mounted, "big").unwrap().iter().all(|byte| *byte == 7));
    backend.deactivate(&volume, mounted).unwrap();
    assert_eq!(backend.check(std::slice::from_ref(&volume)).unwrap(), [""; 0]);
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_at_its_limit_a_pool_fails_writers_and_recovers_by_a_removal_without_a_restart() {
    let rig = Rig::new();
    let config = growing(&rig, 128 * MIB);
    let backend = ThinBackend::start(config, Arc::new(rig.ledger.clone())).unwrap();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let errno = fill(&mounted, "big", 160 * MIB).unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(libc::ENOSPC | libc::EIO)), "{errno:?}");
    assert_eq!(backend.capacity().unwrap().total, 128 * MIB);
    let refused = backend.create(VolumeId(2), None, None).unwrap_err();
    assert!(matches!(refused, Error::NoSpace(_)), "{refused:?}");
    drop(mounted);
    backend.destroy(&volume).unwrap();
    let volume = committed(&backend, 2, None, "file", b"works again");
    backend.destroy(&volume).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_removed_volumes_space_comes_back_to_the_filesystem_below_the_pool() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let backend = rig.start();
    let taken = || {
        let file = File::open(rig.dir.path().join("thin/data.img")).unwrap();
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    };
    let parent = committed(&backend, 1, None, "shared", &vec![7; 32 * MIB as usize]);
    let before = taken();
    let child = committed(&backend, 2, Some(&parent), "own", &vec![7; 64 * MIB as usize]);
    let full = taken();
    assert!(full >= before + 64 * MIB, "{before} {full}");
    let started = Instant::now();
    backend.destroy(&child).unwrap();
    let elapsed = started.elapsed();
    println!("64 MiB given back in {elapsed:?}, {before} → {full} → {} bytes", taken());
    assert!(taken() <= before + 4 * MIB, "{before} {full} {}", taken());
    let mounted = backend.activate(&parent, Access::ReadOnly).unwrap();
    assert!(read(&mounted, "shared").unwrap().iter().all(|byte| *byte == 7), "the parent's stay");
    backend.deactivate(&parent, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_metadata_doubles_online_and_stays_so() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = committed(&backend, 1, None, "file", b"content");
    let before = backend.capacity().unwrap().metadata_total;
    let growth = backend.assembly.growth(&backend.config);
    let mut watch = Watch::new(backend.pool.clone(), backend.devices.clone(), growth, None);
    assert!(watch.grow_metadata().unwrap());
    assert_eq!(backend.capacity().unwrap().metadata_total, before * 2);
    drop(watch);
    backend.stop().unwrap();
    let backend = rig.start();
    assert_eq!(backend.capacity().unwrap().metadata_total, before * 2);
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "file").unwrap(), b"content");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    run(Command::new("thin_check").arg(rig.dir.path().join("thin/metadata.img")));
}

/// A pool on loop devices that may not grow.
struct Disks(Vec<(PathBuf, LoopDevice)>);

impl Disks {
    fn new(rig: &Rig, metadata: u64, data: u64) -> Self {
        let attach = |(name, bytes)| {
            let path = rig.dir.path().join(name);
            File::create(&path).unwrap().set_len(bytes).unwrap();
            let device = LoopDevice::attach(&path).unwrap();
            (path, device)
        };
        Self([("disk-m", metadata), ("disk-d", data)].map(attach).into())
    }

    fn config(&self, rig: &Rig) -> ThinConfig {
        let source = PoolSource::Devices { metadata: self.0[0].1.path(), data: self.0[1].1.path() };
        ThinConfig { source, ..rig.config() }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for (_, device) in &self.0 {
            let _ = device.detach(Duration::from_secs(5));
        }
    }
}

/// Overwrites one byte in each of many blocks, far apart, synced: the worst pattern for the metadata.
fn scatter(mounted: &Mounted, file: &str, stride: u64, from: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(below(mounted, file))?;
    let length = file.metadata()?.len();
    for at in (from..length).step_by(stride as usize) {
        file.write_all_at(b"x", at)?;
    }
    file.sync_all()
}

/// The kernel's metadata-full state ends a pool: only taking it down helps. Thousands of snapshots, each overwritten
/// here and there, on 2 MiB of metadata that can't grow: creations and writes are refused, the pool stays sound, and
/// after removals all goes on, in the same process.
#[test]
fn in_guest_metadata_never_gets_full_however_hard_one_tries() {
    let rig = Rig::new();
    let disks = Disks::new(&rig, 2 * MIB, 1024 * MIB);
    let ledger = Arc::new(rig.ledger.clone());
    let backend = ThinBackend::start(disks.config(&rig), ledger).unwrap();
    let parent = committed(&backend, 1, None, "big", &vec![7; 64 * MIB as usize]);
    let mut made = Vec::new();
    for id in 2..3002 {
        match backend.create(VolumeId(id), Some(&parent), None) {
            Ok(child) => made.push(child),
            Err(Error::NoSpace(why)) => {
                println!("creation {id} refused: {why}");
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(made.len() >= 1000, "only {} fit", made.len());
    // Each takes what is its own of the metadata, until there is no more to take; and then some.
    let (mut refusals, mut least) = (0, u64::MAX);
    for (round, child) in made.iter().enumerate() {
        let mounted = match backend.activate(child, Access::ReadWrite) {
            Ok(mounted) => mounted,
            Err(error) => {
                refusals += 1;
                println!("round {round}: {error:?}");
                assert!(refusals < 20, "mounting needs no room");
                continue;
            }
        };
        let written = scatter(&mounted, "big", MIB, round as u64 * 4096 % MIB);
        drop(mounted);
        backend.devices.deactivate(thin(child)).unwrap();
        let status = backend.status().unwrap();
        assert!(status.is_healthy(), "{} in round {round}", status.condition());
        least = least.min(status.metadata.free());
        if let Err(error) = written {
            let errno = error.raw_os_error();
            assert!(matches!(errno, Some(libc::ENOSPC | libc::EIO)), "{error:?}");
            refusals += 1;
            println!("round {round} refused: {error}, {:?} {:?}", status.metadata, status.data);
            if refusals == 8 {
                break;
            }
        }
    }
    assert!(refusals > 0, "the metadata held {} volumes with all their writes", made.len());
    println!("{} snapshots, at least {least} metadata blocks free at any time", made.len());
    let refused = backend.create(VolumeId(4000), Some(&parent), None);
    assert!(matches!(refused, Err(Error::NoSpace(_))), "{refused:?}");
    // Removal, reading and listing go on, and then everything does.
    assert_eq!(devices_in(&backend), made.len() + 2);
    for child in &made {
        backend.destroy(child).unwrap();
    }
    let after = committed(&backend, 5000, Some(&parent), "works", b"again");
    let mounted = backend.activate(&after, Access::ReadOnly).unwrap();
    assert!(read(&mounted, "big").unwrap().iter().all(|byte| *byte == 7));
    backend.deactivate(&after, mounted).unwrap();
    assert_eq!(backend.status().unwrap().mode, PoolMode::ReadWrite);
    backend.stop().unwrap();
    run(Command::new("thin_check").arg(&disks.0[0].0));
}

/// A write that comes in the moment at which a pool without free blocks is suspended makes the suspension hang
/// (`ballast`): each of these needs some twenty suspensions, most of them while the pool is out of data.
#[test]
fn in_guest_a_small_pool_gets_longer_under_a_writer_who_is_always_ahead_of_it() {
    for round in 0..3 {
        let rig = Rig::new();
        let disks = Disks::new(&rig, 2 * MIB, 256 * MIB);
        let ledger = Arc::new(rig.ledger.clone());
        let backend = ThinBackend::start(disks.config(&rig), ledger).unwrap();
        let began = Instant::now();
        let volume = committed(&backend, 1, None, "big", &vec![7; 64 * MIB as usize]);
        println!("round {round}: {:?}", began.elapsed());
        assert_eq!(backend.check(std::slice::from_ref(&volume)).unwrap(), [""; 0]);
        backend.stop().unwrap();
    }
}

/// Writing without pause into a pool at its limit: the `write` is refused, not only the fsync long after it, and what
/// was promised before finds its place.
#[test]
fn in_guest_a_pool_at_its_limit_refuses_the_write_itself_and_lets_go_after_a_removal() {
    let rig = Rig::new();
    let backend = rig.start();
    let ballast = committed(&backend, 1, None, "ballast", &vec![7; 100 * MIB as usize]);
    let volume = backend.create(VolumeId(2), None, Some(2048 * MIB)).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let mut file = File::create(below(&mounted, "big")).unwrap();
    let chunk = vec![7; MIB as usize];
    let mut written = 0;
    let refused = loop {
        assert!(written < 600, "512 MiB hold everything");
        if let Err(error) = file.write_all(&chunk) {
            break error;
        }
        written += 1;
        if written % 8 == 0 {
            file.sync_data().unwrap();
            backend.keeper.look();
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "after {written} MiB");
    file.sync_all().expect("what was written before finds its place");
    let report = backend.keeper.report();
    assert!(report.state.contains("full but for a reserve"), "{}", report.state);
    assert!(backend.status().unwrap().data.free() > 0, "the reserve is there");
    // Reading, overwriting and removing files go on.
    assert!(std::fs::read(below(&mounted, "big")).unwrap().iter().all(|byte| *byte == 7));
    drop(file);
    std::fs::remove_file(below(&mounted, "big")).unwrap();
    let refused = backend.create(VolumeId(3), None, None);
    backend.destroy(&ballast).unwrap();
    backend.trim(&volume, &mounted).unwrap();
    backend.keeper.look();
    assert_eq!(backend.keeper.report().state, "", "and it is over: {refused:?}");
    write(&mounted, "again", &vec![1; 32 * MIB as usize]);
    File::open(below(&mounted, "again")).unwrap().sync_all().unwrap();
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    let topics = rig.ledger.topics();
    let at = |topic: &str| topics.iter().position(|told| told == topic).expect("it was told");
    assert!(at("/pool/low") < at("/pool/full"), "on the way up: {topics:?}");
    assert_eq!(topics.last().map(String::as_str), Some("/pool/recover"), "{topics:?}");
}

#[test]
fn in_guest_a_pool_gets_all_of_its_device_and_tells_how_it_fills() {
    let rig = Rig::new();
    let backend = rig.start();
    let first = backend.status().unwrap().data.total * backend.pool.table().block.bytes();
    assert!(first < 512 * MIB, "it begins with what its metadata can map: {}", first / MIB);
    assert_eq!(backend.capacity().unwrap().total, 512 * MIB, "but has all of it");
    let volume = backend.create(VolumeId(1), None, Some(1024 * MIB)).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let began = Instant::now();
    for file in 0..12 {
        fill(&mounted, &file.to_string(), 32 * MIB).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    println!("384 MiB in {:?}: {}", began.elapsed(), backend.keeper.report().data);
    backend.keeper.look();
    let capacity = backend.capacity().unwrap();
    assert!(capacity.used >= 384 * MIB && capacity.rate > 0, "{capacity:?}");
    assert!(capacity.full_in.is_some(), "{capacity:?}");
    let lines = backend.describe();
    let line = lines.iter().find(|(name, _)| name == "data fills").unwrap();
    assert!(line.1.contains("full in about"), "{line:?}");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
}

/// Blocks that an ordinary write may take.
fn available_blocks(mounted: &Mounted) -> u64 {
    rustix::fs::fstatvfs(&mounted.root).unwrap().f_bavail
}

/// The kernel's superblock remembers what it holds back as long as a file is open, whatever became of who told it to.
#[test]
fn in_guest_a_filesystem_mounted_again_below_an_open_file_holds_back_what_the_pool_wants_now() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let before = available_blocks(&mounted);
    let open = File::create(below(&mounted, "open")).unwrap();
    // As a daemon does when the pool is full; then it is killed.
    let device = backend.devices.mounted_path(thin(&volume)).unwrap().metadata().unwrap().rdev();
    let all = rustix::fs::fstatvfs(&mounted.root).unwrap().f_blocks;
    let attribute = format!("/sys/fs/ext4/dm-{}/reserved_clusters", rustix::fs::minor(device));
    std::fs::write(attribute, all.to_string()).unwrap();
    assert_eq!(available_blocks(&mounted), 0);
    drop((mounted, backend));

    let backend = rig.start();
    backend.reconcile(std::slice::from_ref(&volume)).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    assert!(available_blocks(&mounted).abs_diff(before) < 512, "there is room");
    write(&mounted, "more", &[7; 4096]);
    // Full, and mounted again while it is; then there is room.
    backend.devices.tighten(true);
    let refused = backend.deactivate(&volume, mounted).unwrap_err();
    assert!(matches!(refused, Error::Busy(..)), "{refused:?}");
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    backend.devices.tighten(false);
    assert!(available_blocks(&mounted).abs_diff(before) < 512, "there is room again");
    drop(open);
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_volume_that_is_being_activated_when_the_pool_gets_full_holds_back_too() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    // The keeper, who sees that the pool isn't full, may come between.
    let held = (0..20).any(|_| {
        let active = backend.devices.active.lock().remove(&thin(&volume)).unwrap();
        backend.devices.tighten(true);
        backend.devices.keep(thin(&volume), active);
        let held = available_blocks(&mounted) == 0;
        backend.devices.tighten(false);
        held
    });
    assert!(held);
    assert_ne!(available_blocks(&mounted), 0);
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
}

/// Only what was stopped counts as such: it is mounted anew by the next activation.
#[test]
fn in_guest_a_stopped_filesystem_is_mounted_anew_and_one_without_a_mount_does_not_count_as_stopped()
{
    let rig = Rig::new();
    let backend = rig.start();
    let [stopped, lingering] = [1, 2].map(|id| backend.create(VolumeId(id), None, None).unwrap());
    let mounted = backend.activate(&lingering, Access::ReadWrite).unwrap();
    let open = File::create(below(&mounted, "open")).unwrap();
    assert!(matches!(backend.deactivate(&lingering, mounted), Err(Error::Busy(..))));
    let mounted = backend.activate(&stopped, Access::ReadWrite).unwrap();
    write(&mounted, "synced", b"content");
    backend.flush(&stopped, &mounted).unwrap();
    backend.devices.stop_writers();
    assert!(File::create(below(&mounted, "refused")).is_err());
    drop(mounted);
    let mounted = backend.activate(&stopped, Access::ReadWrite).unwrap();
    assert_eq!(read(&mounted, "synced").unwrap(), b"content");
    backend.deactivate(&stopped, mounted).unwrap();
    let mounted = backend.activate(&lingering, Access::ReadWrite).expect("the file is open still");
    write(&mounted, "more", b"content");
    drop(open);
    backend.deactivate(&lingering, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_stopped_volume_is_usable_again_once_its_files_are_closed() {
    let rig = Rig::new();
    let backend = Arc::new(rig.start());
    let volumes = Volumes::new(backend.clone(), 4);
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    drop(volumes.pin(&volume, Access::ReadWrite).unwrap());
    backend.devices.stop_writers();
    let deadline = Instant::now() + Duration::from_secs(20);
    let can_write = || {
        let pin = volumes.pin(&volume, Access::ReadWrite).unwrap();
        let root = Path::new("/proc/self/fd").join(pin.root().as_raw_fd().to_string());
        std::fs::write(root.join("file"), "content").is_ok()
    };
    while !can_write() {
        assert!(Instant::now() < deadline, "it stays activated as it is");
        std::thread::sleep(Duration::from_millis(20));
    }
    volumes.stop().unwrap();
}
