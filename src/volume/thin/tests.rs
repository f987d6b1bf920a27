//! On a real thin-pool: these run inside the guest (`scripts/guest -- TEST_BINARY in_guest
//! --test-threads=1`) and fail outside of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::loopdev::LoopDevice;
use crate::types;

const MIB: u64 = 1 << 20;

/// The ledger as a metadata store would keep it: what was saved last.
#[derive(Default, Clone)]
struct Saved(Arc<Mutex<Option<types::Pool>>>);

impl PoolLedger for Saved {
    fn load(&self) -> std::result::Result<Option<types::Pool>, LedgerError> {
        Ok(self.0.lock().clone())
    }
    fn save(&self, pool: &types::Pool) -> std::result::Result<(), LedgerError> {
        *self.0.lock() = Some(pool.clone());
        Ok(())
    }
}

/// A root on the guest's scratch disk. Whatever a failing test leaves is taken down.
struct Rig {
    dir: tempfile::TempDir,
    ledger: Saved,
}

impl Rig {
    fn new() -> Self {
        if let Err(why) = available() {
            panic!("needs device-mapper: run through scripts/guest ({why})");
        }
        let dir = tempfile::tempdir_in("/mnt/scratch").expect("needs the guest's scratch disk: run through scripts/guest");
        Self { dir, ledger: Saved::default() }
    }

    fn config(&self) -> ThinConfig {
        let root = self.dir.path().to_owned();
        let dir = root.join("thin");
        ThinConfig {
            source: PoolSource::Auto { dir, size: Some(512 * MIB) },
            patience: Duration::from_millis(500),
            volume_size: 256 * MIB,
            ..ThinConfig::new(root)
        }
    }

    fn start(&self) -> ThinBackend {
        self.try_start().unwrap()
    }

    fn try_start(&self) -> Result<ThinBackend> {
        ThinBackend::start(self.config(), Arc::new(self.ledger.clone()))
    }

    fn identity(&self) -> Identity {
        Identity::of(&self.dir.path().join("thin")).unwrap()
    }

    /// Our devices and attached files that are still there.
    fn left_over(&self) -> Vec<String> {
        let dm = Dm::open().unwrap();
        let prefix = self.identity().prefix();
        let mut left: Vec<_> = dm.devices().unwrap().into_iter().filter(|name| name.starts_with(&prefix)).collect();
        for file in ["data.img", "metadata.img"] {
            let path = self.dir.path().join("thin").join(file);
            if path.exists() {
                left.extend(LoopDevice::find(&path).unwrap().iter().map(|found| found.path().display().to_string()));
            }
        }
        left
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let dm = Dm::open().unwrap();
        let Ok(identity) = Identity::of(&self.dir.path().join("thin")) else { return };
        let ours = |name: &String| name.starts_with(&identity.prefix());
        let mut names: Vec<_> = dm.devices().unwrap().into_iter().filter(ours).collect();
        names.sort_by_key(|name| !identity.is_thin_name(name));
        for name in names {
            let _ = devices::remove_when_closed(&dm, &name, Duration::from_secs(2));
        }
        for file in ["data.img", "metadata.img"] {
            for found in LoopDevice::find(&self.dir.path().join("thin").join(file)).unwrap_or_default() {
                let _ = found.detach(Duration::from_secs(2));
            }
        }
    }
}

/// What the cause says, too.
fn text(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

fn below(root: BorrowedFd<'_>, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(root.as_raw_fd().to_string()).join(name)
}

fn write(mounted: &Mounted, name: &str, bytes: &[u8]) {
    use std::os::fd::AsFd;
    let mut file = File::create(below(mounted.root.as_fd(), name)).unwrap();
    file.write_all(bytes).unwrap();
}

fn read(mounted: &Mounted, name: &str) -> Option<Vec<u8>> {
    use std::os::fd::AsFd;
    let mut bytes = Vec::new();
    File::open(below(mounted.root.as_fd(), name)).ok()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

fn names(mounted: &Mounted) -> Vec<String> {
    use std::os::fd::AsFd;
    let entries = std::fs::read_dir(below(mounted.root.as_fd(), ".")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A committed volume with one file.
fn committed(backend: &ThinBackend, id: u32, origin: Option<&Volume>, name: &str, bytes: &[u8]) -> Volume {
    let volume = backend.create(VolumeId(id), origin, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, name, bytes);
    backend.seal(&volume, &mut mounted).unwrap();
    backend.deactivate(&volume, mounted).unwrap();
    volume
}

fn usage(backend: &ThinBackend, volume: &Volume, origin: Option<&Volume>) -> Usage {
    backend.usage(volume, origin, None, &AtomicBool::new(false)).unwrap()
}

fn thin(volume: &Volume) -> ThinId {
    thin_id(volume).unwrap()
}

#[test]
fn in_guest_an_empty_volume_is_a_bare_root_directory() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    assert_eq!(names(&mounted), [""; 0]);
    let root = std::fs::metadata(below(mounted.root.as_fd(), ".")).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/dev/dm-"), "the mount is attached:\n{mounts}");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_child_sees_its_sealed_parent_and_neither_sees_the_others_writes() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&parent, Access::ReadWrite).unwrap();
    write(&mounted, "a", b"from the parent");
    let refused = backend.create(VolumeId(2), Some(&parent), None).unwrap_err();
    assert!(matches!(refused, Error::Busy(VolumeId(1), _)), "a live origin was copied: {refused:?}");
    backend.seal(&parent, &mut mounted).unwrap();
    assert_eq!(mounted.access, Access::ReadOnly);

    // The parent stays mounted read-only meanwhile.
    let child = backend.create(VolumeId(2), Some(&parent), None).unwrap();
    assert_eq!((child.origin, child.size), (Some(parent.id), parent.size));
    let child_mounted = backend.activate(&child, Access::ReadWrite).unwrap();
    assert_eq!(read(&child_mounted, "a").unwrap(), b"from the parent");
    write(&child_mounted, "a", b"changed");
    write(&child_mounted, "b", b"new");
    assert_eq!(read(&mounted, "a").unwrap(), b"from the parent");
    assert_eq!(read(&mounted, "b"), None);
    backend.deactivate(&parent, mounted).unwrap();
    backend.deactivate(&child, child_mounted).unwrap();

    let view = backend.activate(&child, Access::ReadOnly).unwrap();
    assert_eq!(read(&view, "a").unwrap(), b"changed");
    backend.deactivate(&child, view).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_sealed_volume_refuses_writes_until_it_is_activated_for_writing_again() {
    use std::os::fd::AsFd;
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let writer = File::create(below(mounted.root.as_fd(), "open")).unwrap();
    let refused = backend.seal(&volume, &mut mounted).unwrap_err();
    assert!(matches!(refused, Error::Busy(..)), "{refused:?}");
    drop(writer);
    backend.seal(&volume, &mut mounted).unwrap();
    let refused = File::create(below(mounted.root.as_fd(), "late")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    // The commit was not recorded: the volume goes on being active, also for those who read it.
    let again = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&again, "late", b"x");
    assert_eq!(read(&mounted, "late").unwrap(), b"x");
    drop(mounted);
    backend.deactivate(&volume, again).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_only_the_first_empty_volume_of_a_size_costs_a_mkfs() {
    let rig = Rig::new();
    let backend = rig.start();
    for id in 1..=3 {
        backend.create(VolumeId(id), None, None).unwrap();
    }
    assert_eq!(rig.ledger.load().unwrap().unwrap().templates.len(), 1);
    let other = backend.create(VolumeId(4), None, Some(100 * MIB)).unwrap();
    assert_eq!(other.size, 100 * MIB);
    assert_eq!(rig.ledger.load().unwrap().unwrap().templates.len(), 2);
    assert_eq!(backend.existing().unwrap().len(), 6);
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_thin_id_that_is_taken_becomes_faulty_and_the_next_one_is_used() {
    let rig = Rig::new();
    let backend = rig.start();
    let first = backend.create(VolumeId(1), None, None).unwrap();
    let taken = ThinId::new(thin(&first).get() + 1).unwrap();
    backend.pool.create_thin(taken).unwrap();
    let second = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&second).get(), taken.get() + 1);
    assert_eq!(rig.ledger.load().unwrap().unwrap().faulty, [taken.get()]);
    assert!(backend.describe().contains(&("faulty thin ids".to_owned(), taken.to_string())));
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_crash_between_create_snap_and_record_leaves_no_thin_device() {
    let rig = Rig::new();
    let backend = rig.start();
    let kept = committed(&backend, 1, None, "a", b"1");
    backend.create(VolumeId(2), Some(&kept), None).unwrap();
    drop(backend); // killed: no record of volume 2

    let backend = rig.start();
    let lines = backend.check(std::slice::from_ref(&kept)).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let reconciled = backend.reconcile(std::slice::from_ref(&kept)).unwrap();
    assert_eq!(reconciled, Reconciled { lost: vec![], reaped: 1 });
    assert_eq!(backend.check(std::slice::from_ref(&kept)).unwrap(), [""; 0]);
    let mounted = backend.activate(&kept, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.deactivate(&kept, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_volume_that_the_pool_lost_is_reported_and_not_made_anew() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = committed(&backend, 7, None, "a", b"1");
    backend.pool.delete(thin(&volume)).unwrap();
    let reconciled = backend.reconcile(std::slice::from_ref(&volume)).unwrap();
    assert_eq!(reconciled, Reconciled { lost: vec![VolumeId(7)], reaped: 0 });
    let activated = backend.activate(&volume, Access::ReadOnly).unwrap_err();
    assert!(matches!(activated, Error::Missing(VolumeId(7))), "{activated:?}");
    let copied = backend.create(VolumeId(8), Some(&volume), None).unwrap_err();
    assert!(matches!(copied, Error::Missing(VolumeId(7))), "{copied:?}");
    let measured = backend.usage(&volume, None, None, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(measured, Error::Missing(VolumeId(7))), "{measured:?}");
    backend.destroy(&volume).expect("what is gone counts as destroyed");
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_thin_device_that_thinfs_did_not_make_refuses_the_pool() {
    let rig = Rig::new();
    let backend = rig.start();
    backend.create(VolumeId(1), None, None).unwrap();
    backend.pool.create_thin(ThinId::new(500_000).unwrap()).unwrap();
    let refused = text(&backend.reconcile(&[]).unwrap_err());
    assert!(refused.contains("500000") && refused.contains("did not make"), "{refused}");
    assert_eq!(backend.existing().unwrap().len(), 3, "something was deleted");
    backend.stop().unwrap();
}

#[test]
fn in_guest_the_transaction_id_tells_whether_pool_and_ledger_belong_together() {
    let rig = Rig::new();
    let backend = rig.start();
    backend.create(VolumeId(1), None, None).unwrap();
    backend.stop().unwrap();
    let record = rig.ledger.load().unwrap().unwrap();
    assert_eq!(record.reserved_end, RANGE);
    let pool_is_at = record.transaction_id;
    let with = |transaction_id| Some(types::Pool { transaction_id, ..record.clone() });

    // (what the ledger says, whether the pool is taken)
    for (saved, taken) in [(pool_is_at, true), (pool_is_at + 2, false), (pool_is_at - 1, false), (3, false)] {
        *rig.ledger.0.lock() = with(saved);
        match rig.try_start() {
            Ok(backend) => {
                assert!(taken, "ledger at {saved}, pool at {pool_is_at}");
                backend.stop().unwrap();
            }
            Err(error) => {
                let refused = text(&error);
                assert!(!taken, "{refused}");
                let both = refused.contains(&saved.to_string()) && refused.contains(&pool_is_at.to_string());
                assert!(both, "the message names both numbers: {refused}");
            }
        }
        assert_eq!(rig.left_over(), [""; 0], "ledger at {saved}");
    }

    // Crashed between the ledger and the pool: the pool is moved on.
    *rig.ledger.0.lock() = with(pool_is_at + 1);
    let backend = rig.start();
    assert_eq!(backend.status().unwrap().transaction_id, pool_is_at + 1);
    backend.stop().unwrap();

    // A lost ledger is not an empty one.
    *rig.ledger.0.lock() = None;
    let refused = text(&rig.try_start().unwrap_err());
    assert!(refused.contains("knows none of them"), "{refused}");
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_each_process_begins_with_a_range_of_its_own() {
    let rig = Rig::new();
    let backend = rig.start();
    let before = backend.status().unwrap().transaction_id;
    backend.create(VolumeId(1), None, None).unwrap();
    assert_eq!(backend.status().unwrap().transaction_id, before + 1);
    drop(backend);
    let backend = rig.start();
    assert_eq!(backend.status().unwrap().transaction_id, before + 1, "a start alone reserves nothing");
    let volume = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&volume).get(), RANGE);
    assert_eq!(backend.status().unwrap().transaction_id, before + 2);
    backend.stop().unwrap();
}

#[test]
fn in_guest_free_ids_are_found_again_when_all_have_been_reserved() {
    let rig = Rig::new();
    let backend = rig.start();
    let kept = backend.create(VolumeId(1), None, None).unwrap();
    backend.book.change(|record| record.reserved_end = ThinId::END).unwrap();
    drop(backend);
    let backend = rig.start();
    backend.reconcile(std::slice::from_ref(&kept)).unwrap();
    let (template, first) = (0, thin(&kept).get());
    assert_eq!(first, 1);
    let second = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&second).get(), 2, "ids {template} and {first} are taken");
    backend.destroy(&second).unwrap();
    let third = backend.create(VolumeId(3), None, None).unwrap();
    assert_eq!(thin(&third).get(), 3, "an id whose record may still be there was used again");
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_killed_daemons_pool_devices_and_metadata_snapshot_are_found_again() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, "a", b"durable");
    backend.flush(&volume, &mounted).unwrap();
    std::mem::forget(backend.pool.reserve_metadata_snapshot().unwrap());
    let loops = rig.left_over();
    assert_eq!(loops.len(), 4, "pool, thin device, two loop devices: {loops:?}");
    drop(mounted);
    drop(backend); // killed

    let backend = rig.start();
    assert_eq!(backend.status().unwrap().held_root, None);
    let found = rig.left_over();
    assert_eq!(found.iter().filter(|name| loops.contains(name)).count(), 3, "found {found:?}, had {loops:?}");
    assert_eq!(found.len(), 3, "the stale thin device is gone, nothing was attached twice: {found:?}");
    assert_eq!(backend.reconcile(std::slice::from_ref(&volume)).unwrap(), Reconciled::default());
    // Not unmounted in an orderly way: reading needs the journal replayed, and gets it.
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"durable");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_a_stop_leaves_no_device_and_the_next_start_has_everything() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = committed(&backend, 1, None, "a", b"1");
    backend.stop().unwrap();
    backend.stop().expect("twice is fine");
    assert_eq!(rig.left_over(), [""; 0]);
    drop(backend);
    let backend = rig.start();
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_a_descriptor_left_open_keeps_the_device_until_it_is_closed() {
    use std::os::fd::AsFd;
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, "a", b"1");
    let stray = File::open(below(mounted.root.as_fd(), "a")).unwrap();
    let busy = backend.deactivate(&volume, mounted).unwrap_err();
    assert!(matches!(busy, Error::Busy(VolumeId(1), _)), "{busy:?}");
    assert!(matches!(backend.create(VolumeId(2), Some(&volume), None), Err(Error::Busy(..))), "still live");
    // It can be used again meanwhile, and let go of once the descriptor is closed.
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    drop(stray);
    backend.deactivate(&volume, mounted).unwrap();
    assert_eq!(rig.left_over().len(), 3);
    backend.stop().unwrap();
}

#[test]
fn in_guest_destroy_gives_the_space_back_and_counts_what_is_gone_as_done() {
    let rig = Rig::new();
    let backend = rig.start();
    committed(&backend, 1, None, "template", b"1");
    let before = backend.capacity().unwrap();
    assert_eq!(before.total, 512 * MIB);
    let volume = backend.create(VolumeId(2), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, "big", &vec![7; 20 << 20]);
    backend.flush(&volume, &mounted).unwrap();
    assert!(backend.capacity().unwrap().used >= before.used + 20 * MIB);
    drop(mounted);
    backend.destroy(&volume).unwrap();
    backend.destroy(&volume).unwrap();
    assert_eq!(backend.capacity().unwrap().used, before.used);
    backend.stop().unwrap();
}

#[test]
fn in_guest_usage_counts_blocks_and_inodes_of_a_volumes_own() {
    let rig = Rig::new();
    let backend = rig.start();
    let empty = backend.create(VolumeId(1), None, None).unwrap();
    assert_eq!(usage(&backend, &empty, None), Usage::default());
    let parent = committed(&backend, 2, None, "big", &vec![1; 8 << 20]);
    let parents = usage(&backend, &parent, None);
    assert!((8 * MIB..10 * MIB).contains(&parents.size), "{parents:?}");
    assert_eq!(parents.inodes, 1);

    let child = backend.create(VolumeId(3), Some(&parent), None).unwrap();
    assert_eq!(usage(&backend, &child, Some(&parent)), Usage::default());
    let mut mounted = backend.activate(&child, Access::ReadWrite).unwrap();
    for file in 0..5 {
        write(&mounted, &format!("small{file}"), &[2; 4096]);
    }
    backend.seal(&child, &mut mounted).unwrap();
    let own = backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
    assert!((MIB / 16..2 * MIB).contains(&own.size), "{own:?}");
    assert_eq!(own.inodes, 5);
    backend.deactivate(&child, mounted).unwrap();
    assert_eq!(usage(&backend, &child, Some(&parent)), own);

    // A process that has seen none of them mounted gets the same numbers.
    backend.stop().unwrap();
    drop(backend);
    let backend = rig.start();
    assert_eq!(usage(&backend, &child, Some(&parent)), own);
    assert_eq!(usage(&backend, &parent, None), parents);
    let cancelled = backend.usage(&empty, None, None, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled(_)), "{cancelled:?}");
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_removal_below_makes_no_usage_negative() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = committed(&backend, 1, None, "file", &vec![1; 4 << 20]);
    let child = backend.create(VolumeId(2), Some(&parent), None).unwrap();
    let mut mounted = backend.activate(&child, Access::ReadWrite).unwrap();
    {
        use std::os::fd::AsFd;
        std::fs::remove_file(below(mounted.root.as_fd(), "file")).unwrap();
    }
    backend.seal(&child, &mut mounted).unwrap();
    let own = backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
    assert_eq!(own.inodes, 0);
    assert!(own.size < MIB, "{own:?}");
    backend.deactivate(&child, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_child_may_be_larger_than_its_origin_but_not_smaller() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = committed(&backend, 1, None, "a", b"1");
    let refused = backend.create(VolumeId(2), Some(&parent), Some(100 * MIB)).unwrap_err();
    assert!(matches!(&refused, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput), "{refused:?}");
    let child = backend.create(VolumeId(3), Some(&parent), Some(1024 * MIB)).unwrap();
    let mounted = backend.activate(&child, Access::ReadWrite).unwrap();
    let fs = rustix::fs::fstatvfs(&mounted.root).unwrap();
    assert!(fs.f_blocks * fs.f_frsize > 900 * MIB, "{} blocks", fs.f_blocks);
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.flush(&child, &mounted).unwrap();
    let own = backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
    assert!(own.size < 4 * MIB, "growing wrote the inode tables: {own:?}");
    backend.deactivate(&child, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_full_pool_refuses_new_volumes_and_serves_again_after_a_removal() {
    let rig = Rig::new();
    let source = PoolSource::Auto { dir: rig.dir.path().join("thin"), size: Some(64 * MIB) };
    let config = ThinConfig { source, ..rig.config() };
    let backend = ThinBackend::start(config, Arc::new(rig.ledger.clone())).unwrap();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let filled = {
        use std::os::fd::AsFd;
        let mut file = File::create(below(mounted.root.as_fd(), "fill")).unwrap();
        file.write_all(&vec![1; 80 << 20]).and_then(|()| file.sync_all())
    };
    // EIO where the journal was the first to find no block.
    let errno = filled.unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(libc::ENOSPC | libc::EIO)), "{errno:?}");
    let refused = backend.create(VolumeId(2), None, None).unwrap_err();
    assert!(matches!(refused, Error::NoSpace(_)), "{refused:?}");
    drop(mounted);
    backend.destroy(&volume).unwrap();
    backend.create(VolumeId(2), None, None).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_the_metadata_reader_agrees_with_thin_ls_and_thin_delta() {
    let rig = Rig::new();
    let backend = rig.start();
    let mut volumes = vec![committed(&backend, 1, None, "base", &vec![1; 40 << 20])];
    for id in 2..=6 {
        let origin = volumes.last().cloned();
        let bytes = vec![id as u8; (id as usize) << 19];
        volumes.push(committed(&backend, id, origin.as_ref(), if id % 2 == 0 { "base" } else { "more" }, &bytes));
    }
    for _ in 0..300 {
        backend.create(VolumeId(100), Some(&volumes[0]), None).unwrap();
    }
    let held = backend.pool.reserve_metadata_snapshot().unwrap();
    let path = backend.nodes.path(backend.pool.table().metadata).unwrap();
    let device = crate::thin::metadata::open(&path).unwrap();
    let view = crate::thin::metadata::View::open(&device, held.block()).unwrap();

    let ours: Vec<_> = view.thins().unwrap().iter().map(|t| format!("{} {}", t.id, t.mapped_blocks)).collect();
    let listed = run(Command::new("thin_ls").args(["-m", "--no-headers", "-o", "DEV,MAPPED_BLOCKS"]).arg(&path));
    let theirs: Vec<_> = listed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(ours, theirs);

    for (a, b) in [(0, 1), (1, 0), (0, 5), (5, 0), (2, 4), (4, 3)] {
        let (a, b) = (thin(&volumes[a]), thin(&volumes[b]));
        let reads = device.reads();
        let ours = view.exclusive_blocks(a, Some(b), &AtomicBool::new(false)).unwrap().unwrap();
        let cost = device.reads() - reads;
        let theirs = delta(&path, a, b);
        assert_eq!(ours, theirs, "{a} against {b}");
        assert!(cost < 60, "{a} against {b} read {cost} blocks");
    }
    drop((held, device));
    assert_eq!(backend.status().unwrap().held_root, None);
    backend.stop().unwrap();
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("needs thin-provisioning-tools");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Blocks that `a` maps and `b` doesn't map the same, as thin_delta counts them.
fn delta(metadata: &Path, a: ThinId, b: ThinId) -> u64 {
    let (a, b) = (a.to_string(), b.to_string());
    let xml = run(Command::new("thin_delta").args(["-m", "--snap1", &a, "--snap2", &b]).arg(metadata));
    let length = |line: &str| -> u64 {
        line.split("length=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().parse().unwrap()
    };
    let ours = |line: &&str| line.contains("<different") || line.contains("<left_only");
    xml.lines().filter(ours).map(length).sum()
}

#[test]
fn in_guest_a_prepare_costs_little_more_than_its_message() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = committed(&backend, 1, None, "a", b"1");
    let p50 = |work: &mut dyn FnMut(u32)| {
        let mut times: Vec<_> = (0..100)
            .map(|n| {
                let began = Instant::now();
                work(n);
                began.elapsed()
            })
            .collect();
        times.sort();
        times[50]
    };
    let message = p50(&mut |n| {
        let raw = format!("create_snap {} {}", 100_000 + n, thin(&parent));
        Dm::open().unwrap().message(backend.pool.name(), &raw).unwrap();
    });
    let create = p50(&mut |n| drop(backend.create(VolumeId(10 + n), Some(&parent), None).unwrap()));
    println!("p50: create {create:?}, raw create_snap message {message:?}");
    assert!(create < message * 3, "create {create:?}, create_snap {message:?}");
    backend.stop().unwrap();
}

/// The guest's own two disks, blank again when dropped.
struct Disks;

impl Disks {
    const METADATA: &str = "/dev/ubda";
    const DATA: &str = "/dev/ubdb";

    fn take() -> Self {
        Self::wipe();
        Self
    }

    fn put(first: &[u8]) {
        let mut disk = File::options().write(true).open(Self::METADATA).unwrap();
        disk.write_all(first).unwrap();
        disk.sync_all().unwrap();
    }

    fn wipe() {
        Self::put(&[0; 65536]);
    }

    fn source(&self) -> PoolSource {
        PoolSource::Devices { data: Self::DATA.into(), metadata: Self::METADATA.into() }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        Self::wipe();
    }
}

#[test]
fn in_guest_given_devices_are_used_but_never_wiped() {
    let disks = Disks::take();
    let rig = Rig::new();
    let start = || ThinBackend::start(ThinConfig { source: disks.source(), ..rig.config() }, Arc::new(rig.ledger.clone()));

    Disks::put(b"somebody's data");
    let refused = text(&start().unwrap_err());
    assert!(refused.contains("dd if=/dev/zero of=/dev/ubda"), "{refused}");
    Disks::wipe();

    let backend = start().unwrap();
    let volume = committed(&backend, 1, None, "a", b"1");
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
    let backend = start().unwrap();
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();

    // Another root must not take it for a new one; nor may ours format a disk that was wiped.
    let other = Rig::new();
    let source = disks.source();
    let refused = ThinBackend::start(ThinConfig { source, ..other.config() }, Arc::new(other.ledger.clone())).unwrap_err();
    assert!(text(&refused).contains("knows none of them"), "{refused:?}");
    Disks::wipe();
    let refused = text(&start().unwrap_err());
    assert!(refused.contains("is blank"), "{refused}");
    let no_device = PoolSource::Devices { data: "/etc/hostname".into(), metadata: Disks::METADATA.into() };
    let refused = ThinBackend::start(ThinConfig { source: no_device, ..rig.config() }, Arc::new(rig.ledger.clone())).unwrap_err();
    assert!(text(&refused).contains("/etc/hostname is no block device"), "{refused:?}");
}

#[test]
fn in_guest_an_existing_pool_is_used_and_left_active() {
    let _disks = Disks::take();
    let rig = Rig::new();
    let dm = Dm::open().unwrap();
    let number = |path: &str| crate::sys::mount::block_device(Path::new(path)).unwrap().unwrap().into();
    let table = crate::thin::table::PoolTable {
        length: Sectors::in_bytes(512 * MIB),
        metadata: number(Disks::METADATA),
        data: number(Disks::DATA),
        block: Sectors(128),
        low_water_blocks: 16,
        when_full: WhenFull::Error,
    };
    let name = format!("{}-operators", rig.identity_or_new().prefix());
    dm.activate(&name, &table.table(), false).unwrap();
    let start = |name: &str| {
        let source = PoolSource::Existing { name: name.to_owned() };
        ThinBackend::start(ThinConfig { source, ..rig.config() }, Arc::new(rig.ledger.clone()))
    };
    let backend = start(&name).unwrap();
    let volume = committed(&backend, 1, None, "a", b"1");
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    drop(mounted);
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [name.clone()]);
    start(&name).unwrap().stop().unwrap();
    dm.remove(&name).unwrap();
    let refused = text(&start(&name).unwrap_err());
    assert!(refused.contains("there is no thin-pool"), "{refused}");
}

impl Rig {
    fn identity_or_new(&self) -> Identity {
        std::fs::create_dir_all(self.dir.path().join("thin")).unwrap();
        self.identity()
    }
}

#[test]
fn in_guest_a_pool_of_our_name_on_other_devices_is_refused_and_left_alone() {
    let disks = Disks::take();
    let rig = Rig::new();
    let backend = ThinBackend::start(ThinConfig { source: disks.source(), ..rig.config() }, Arc::new(rig.ledger.clone())).unwrap();
    let refused = text(&ThinBackend::start(rig.config(), Arc::new(Saved::default())).unwrap_err());
    assert!(refused.contains("is active on other devices"), "{refused}");
    assert_eq!(rig.left_over(), [backend.pool.name()]);
    backend.stop().unwrap();
}

#[test]
fn in_guest_two_roots_do_not_get_into_each_others_way() {
    let (one, two) = (Rig::new(), Rig::new());
    let (first, second) = (one.start(), two.start());
    let (a, b) = (first.create(VolumeId(1), None, None).unwrap(), second.create(VolumeId(1), None, None).unwrap());
    let (mounted_a, mounted_b) =
        (first.activate(&a, Access::ReadWrite).unwrap(), second.activate(&b, Access::ReadWrite).unwrap());
    write(&mounted_a, "a", b"one");
    write(&mounted_b, "a", b"two");
    assert_eq!(read(&mounted_a, "a").unwrap(), b"one");
    first.deactivate(&a, mounted_a).unwrap();
    first.stop().unwrap();
    assert_eq!(read(&mounted_b, "a").unwrap(), b"two");
    second.deactivate(&b, mounted_b).unwrap();
    second.stop().unwrap();
}
