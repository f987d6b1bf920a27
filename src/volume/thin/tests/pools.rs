//! Where the pool comes from.

use super::*;

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
    let start = || {
        ThinBackend::start(
            ThinConfig { source: disks.source(), ..rig.config() },
            Arc::new(rig.ledger.clone()),
        )
    };

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
    let refused =
        ThinBackend::start(ThinConfig { source, ..other.config() }, Arc::new(other.ledger.clone()))
            .unwrap_err();
    assert!(text(&refused).contains("knows none of them"), "{refused:?}");
    Disks::wipe();
    let refused = text(&start().unwrap_err());
    assert!(refused.contains("is blank"), "{refused}");
    let no_device =
        PoolSource::Devices { data: "/etc/hostname".into(), metadata: Disks::METADATA.into() };
    let refused = ThinBackend::start(
        ThinConfig { source: no_device, ..rig.config() },
        Arc::new(rig.ledger.clone()),
    )
    .unwrap_err();
    assert!(text(&refused).contains("/etc/hostname is no block device"), "{refused:?}");
}

#[test]
fn in_guest_an_existing_pool_is_used_and_left_active() {
    let _disks = Disks::take();
    let rig = Rig::new();
    let dm = Dm::open().unwrap();
    let number =
        |path: &str| crate::sys::mount::block_device(Path::new(path)).unwrap().unwrap().into();
    let table = crate::thin::table::PoolTable {
        length: Sectors::in_bytes(512 * MIB),
        metadata: number(Disks::METADATA),
        data: number(Disks::DATA),
        block: Sectors(128),
        low_water_blocks: 16,
        when_full: WhenFull::Error,
    };
    let name = format!("{}-operators", rig.identity().prefix());
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
    assert_eq!(rig.left_over(), std::slice::from_ref(&name));
    start(&name).unwrap().stop().unwrap();
    dm.remove(&name).unwrap();

    // Whoever makes it again may take another data device.
    let file = rig.dir.path().join("another");
    File::create(&file).unwrap().set_len(512 * MIB).unwrap();
    let another = LoopDevice::attach(&file).unwrap();
    let data = number(another.path().to_str().unwrap());
    dm.activate(&name, &crate::thin::table::PoolTable { data, ..table.clone() }.table(), false)
        .unwrap();
    let refused = text(&start(&name).unwrap_err());
    assert!(refused.contains("no witness at all"), "{refused}");
    assert!(refused.contains(another.path().to_str().unwrap()), "{refused}");
    dm.remove(&name).unwrap();
    another.detach(Duration::from_secs(5)).unwrap();
    dm.activate(&name, &table.table(), false).unwrap();
    start(&name).unwrap().stop().unwrap();
    dm.remove(&name).unwrap();
    let refused = text(&start(&name).unwrap_err());
    assert!(refused.contains("there is no thin-pool"), "{refused}");
}

#[test]
fn in_guest_a_pool_of_our_name_on_other_devices_is_refused_and_left_alone() {
    let disks = Disks::take();
    let rig = Rig::new();
    let backend = ThinBackend::start(
        ThinConfig { source: disks.source(), ..rig.config() },
        Arc::new(rig.ledger.clone()),
    )
    .unwrap();
    let refused = text(&ThinBackend::start(rig.config(), Arc::new(Saved::default())).unwrap_err());
    assert!(refused.contains("is active on other devices"), "{refused}");
    assert_eq!(rig.left_over(), [backend.pool.name()]);
    backend.stop().unwrap();
}

#[test]
fn in_guest_two_roots_do_not_get_into_each_others_way() {
    let (one, two) = (Rig::new(), Rig::new());
    let (first, second) = (one.start(), two.start());
    let (a, b) = (
        first.create(VolumeId(1), None, None).unwrap(),
        second.create(VolumeId(1), None, None).unwrap(),
    );
    let (mounted_a, mounted_b) = (
        first.activate(&a, Access::ReadWrite).unwrap(),
        second.activate(&b, Access::ReadWrite).unwrap(),
    );
    write(&mounted_a, "a", b"one");
    write(&mounted_b, "a", b"two");
    assert_eq!(read(&mounted_a, "a").unwrap(), b"one");
    first.deactivate(&a, mounted_a).unwrap();
    first.stop().unwrap();
    assert_eq!(read(&mounted_b, "a").unwrap(), b"two");
    second.deactivate(&b, mounted_b).unwrap();
    second.stop().unwrap();
}

/// The simulated pool answers the same table: `thin::simulated`.
#[test]
fn in_guest_messages_fail_with_the_errno_that_says_why() {
    let _disks = Disks::take();
    let rig = Rig::new();
    let dm = Dm::open().unwrap();
    let number =
        |path: &str| crate::sys::mount::block_device(Path::new(path)).unwrap().unwrap().into();
    let table = crate::thin::table::PoolTable {
        length: Sectors::in_bytes(512 * MIB),
        metadata: number(Disks::METADATA),
        data: number(Disks::DATA),
        block: Sectors(128),
        low_water_blocks: 16,
        when_full: WhenFull::Error,
    };
    let name = format!("{}-messages", rig.identity().prefix());
    dm.activate(&name, &table.table(), false).unwrap();
    for (text, errno) in crate::thin::simulated::MESSAGES {
        let answer = dm.message(&name, Step::CreateThin, text);
        assert_eq!(answer.err().and_then(|e| e.errno()), *errno, "{text}");
    }
    dm.remove(&name).unwrap();
}
