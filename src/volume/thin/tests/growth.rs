//! Pools that grow by themselves, up to their limit.

use super::super::keeper::Watch;
use super::*;

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

    let backend = ThinBackend::start(config, Arc::new(rig.ledger.clone())).unwrap();
    assert_eq!(backend.capacity().unwrap().total, after.total, "the next start takes all of it");
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
fn in_guest_metadata_doubles_online_and_stays_so() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = committed(&backend, 1, None, "file", b"content");
    let before = backend.capacity().unwrap().metadata_total;
    let growth = backend.assembly.growth(&backend.config);
    let watch = Watch::new(backend.pool.clone(), growth).unwrap();
    assert!(watch.grow_metadata(&backend.pool.live_table().unwrap()).unwrap());
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
