//! A volume from create to destroy.

use super::*;
use crate::volume::{Pin, Volumes};

#[test]
fn in_guest_an_empty_volume_is_a_bare_root_directory() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    assert_eq!(names(&mounted), [""; 0]);
    let root = std::fs::metadata(below(&mounted, ".")).unwrap();
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
    assert!(
        matches!(refused, Error::Busy(VolumeId(1), _)),
        "a live origin was copied: {refused:?}"
    );
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

/// One of them finds its id taken, others can't be made; each has an outcome of its own.
#[test]
fn in_guest_volumes_made_together_are_what_each_would_be_alone() {
    let rig = Rig::new();
    let backend = rig.start();
    let origin = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&origin, Access::ReadWrite).unwrap();
    write(&mounted, "file", b"inherited");
    backend.seal(&origin, &mut mounted).unwrap();
    backend.deactivate(&origin, mounted).unwrap();
    let live = backend.create(VolumeId(2), None, None).unwrap();
    let being_written = backend.activate(&live, Access::ReadWrite).unwrap();
    let gone = Volume { backing: types::Backing::Thin { thin_id: 0xf0_0000 }, ..live.clone() };
    // What the second of them is about to take.
    let taken = ThinId::new(thin_id(&live).unwrap().get() + 2).unwrap();
    backend.pool.create_thin(taken).unwrap();
    let new = |id, origin, size| NewVolume { id: VolumeId(id), origin, size };
    let larger = origin.size + MIB;
    let made = backend.create_together(&[
        new(10, &origin, None),
        new(11, &origin, Some(larger)),
        new(12, &live, None),
        new(13, &gone, None),
        new(14, &origin, Some(MIB)),
        new(15, &origin, None),
    ]);
    assert!(matches!(made[2], Err(Error::Busy(..))), "{made:?}");
    assert!(matches!(made[3], Err(Error::Missing(_))), "{made:?}");
    assert!(matches!(made[4], Err(Error::Io { .. })), "{made:?}");
    for (at, size) in [(0, origin.size), (1, larger), (5, origin.size)] {
        let volume = made[at].as_ref().unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!((volume.origin, volume.size), (Some(origin.id), size));
        let mounted = backend.activate(volume, Access::ReadWrite).unwrap();
        assert_eq!(read(&mounted, "file").unwrap(), b"inherited");
        write(&mounted, "own", &volume.id.0.to_le_bytes());
        backend.deactivate(volume, mounted).unwrap();
    }
    let faulty: Vec<_> = backend.faulty().iter().map(|f| f.thin_id).collect();
    assert_eq!(faulty, [taken.get()]);
    backend.deactivate(&live, being_written).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_sealed_volume_refuses_writes_until_it_is_activated_for_writing_again() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let writer = File::create(below(&mounted, "open")).unwrap();
    let refused = backend.seal(&volume, &mut mounted).unwrap_err();
    assert!(matches!(refused, Error::Busy(..)), "{refused:?}");
    drop(writer);
    backend.seal(&volume, &mut mounted).unwrap();
    let refused = File::create(below(&mounted, "late")).unwrap_err();
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
    assert_eq!(devices_in(&backend), 6);
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_descriptor_left_open_keeps_the_device_until_it_is_closed() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, "a", b"1");
    let stray = File::open(below(&mounted, "a")).unwrap();
    let busy = backend.deactivate(&volume, mounted).unwrap_err();
    assert!(matches!(busy, Error::Busy(VolumeId(1), _)), "{busy:?}");
    assert!(
        matches!(backend.create(VolumeId(2), Some(&volume), None), Err(Error::Busy(..))),
        "still live"
    );
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
fn in_guest_a_child_may_be_larger_than_its_origin_but_not_smaller() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = committed(&backend, 1, None, "a", b"1");
    let refused = backend.create(VolumeId(2), Some(&parent), Some(100 * MIB)).unwrap_err();
    assert!(
        matches!(&refused, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput),
        "{refused:?}"
    );
    let child = backend.create(VolumeId(3), Some(&parent), Some(1024 * MIB)).unwrap();
    let mounted = backend.activate(&child, Access::ReadWrite).unwrap();
    let fs = rustix::fs::fstatvfs(&mounted.root).unwrap();
    assert!(fs.f_blocks * fs.f_frsize > 900 * MIB, "{} blocks", fs.f_blocks);
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.flush(&child, &mounted).unwrap();
    let own =
        backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
    assert!(own.size < 4 * MIB, "growing wrote the inode tables: {own:?}");
    backend.deactivate(&child, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_full_pool_refuses_new_volumes_and_serves_again_after_a_removal() {
    let rig = Rig::new();
    let source =
        PoolSource::Auto { dir: rig.dir.path().join("thin"), size: Some(64 * MIB), most: None };
    let config = ThinConfig { source, ..rig.config() };
    let backend = ThinBackend::start(config, Arc::new(rig.ledger.clone())).unwrap();
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let filled = {
        let mut file = File::create(below(&mounted, "fill")).unwrap();
        file.write_all(&vec![1; 80 << 20]).and_then(|()| file.sync_all())
    };
    // EIO where the journal was the first to find no block.
    let errno = filled.unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(libc::ENOSPC | libc::EIO)), "{errno:?}");
    // What the page cache was promised needn't have taken all: it is filled up.
    let fill_up = |n: u32| {
        let file = File::create(below(&mounted, &format!("more-{n}")));
        let filled = file.and_then(|mut file| {
            file.write_all(&vec![2; 1 << 20])?;
            file.sync_all()
        });
        drop((filled, rustix::fs::syncfs(&mounted.root)));
    };
    let refused = (0..100).find_map(|n| match backend.create(VolumeId(2), None, None) {
        Ok(made) => {
            backend.destroy(&made).unwrap();
            fill_up(n);
            None
        }
        Err(refused) => Some(refused),
    });
    let refused = refused.expect("a full pool refuses new volumes");
    assert!(matches!(refused, Error::NoSpace(_)), "{refused:?}");
    drop(mounted);
    backend.destroy(&volume).unwrap();
    backend.create(VolumeId(2), None, None).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_a_commit_that_was_not_recorded_leaves_the_volume_writable_in_place() {
    let rig = Rig::new();
    let volumes = Volumes::new(Arc::new(rig.start()), 2);
    let volume = volumes.backend().create(VolumeId(1), None, None).unwrap();
    let pin = volumes.pin(&volume, Access::ReadWrite).unwrap();
    let path =
        |name: &str| Path::new("/proc/self/fd").join(pin.root().as_raw_fd().to_string()).join(name);
    std::fs::write(path("before"), "1").unwrap();
    let seal = volumes.seal(&volume, Duration::from_secs(1)).unwrap();
    assert_eq!(std::fs::write(path("sealed"), "2").unwrap_err().raw_os_error(), Some(libc::EROFS));
    drop(seal);
    drop(pin.writer().expect("writable again"));
    std::fs::write(path("after"), "3").unwrap();
    volumes.seal(&volume, Duration::from_secs(1)).unwrap().keep();
    assert!(matches!(pin.writer(), Err(Error::ReadOnly(_))));
    drop(pin);
    volumes.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_more_volumes_than_the_limit_are_used_in_turn() {
    let rig = Rig::new();
    let volumes = Volumes::new(Arc::new(rig.start()), 2);
    let create = |id| volumes.backend().create(VolumeId(id), None, None).unwrap();
    let made: Vec<_> = (1..=6).map(create).collect();
    let path =
        |pin: &Pin| Path::new("/proc/self/fd").join(pin.root().as_raw_fd().to_string()).join("f");
    for volume in &made {
        let pin = volumes.pin(volume, Access::ReadWrite).unwrap();
        std::fs::write(path(&pin), volume.id.to_string()).unwrap();
    }
    for volume in &made {
        let pin = volumes.pin(volume, Access::ReadOnly).unwrap();
        assert_eq!(std::fs::read_to_string(path(&pin)).unwrap(), volume.id.to_string());
    }
    volumes.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}
