//! Sizes, trimming, and whose blocks are whose.

use super::*;
use crate::volume::Volumes;

fn total(root: impl std::os::fd::AsFd) -> u64 {
    let fs = rustix::fs::fstatvfs(root).unwrap();
    fs.f_blocks * fs.f_frsize
}

#[test]
fn in_guest_a_volume_grows_while_files_in_it_are_open_and_when_it_is_inactive() {
    let rig = Rig::new();
    let volumes = Volumes::new(Arc::new(rig.start()), 4);
    let mut volume = volumes.backend().create(VolumeId(1), None, None).unwrap();
    let pin = volumes.pin(&volume, Access::ReadWrite).unwrap();
    let path = Path::new("/proc/self/fd").join(pin.root().as_raw_fd().to_string()).join("open");
    let mut open = File::create(&path).unwrap();
    open.write_all(b"before").unwrap();
    volume.size = 1024 * MIB;
    volumes.resize(&volume).unwrap();
    assert!(total(pin.root()) > 900 * MIB, "{}", total(pin.root()));
    open.write_all(&vec![7; 300 * MIB as usize]).expect("more than it had before");
    drop((open, pin));
    volumes.retire(volume.id);
    volume.size = 1536 * MIB;
    volumes.resize(&volume).unwrap();
    let pin = volumes.pin(&volume, Access::ReadWrite).unwrap();
    assert!(total(pin.root()) > 1400 * MIB, "{}", total(pin.root()));
    let own = volumes.usage(&volume, None, &AtomicBool::new(false)).unwrap();
    assert!((300 * MIB..320 * MIB).contains(&own.size), "growing wrote little: {own:?}");
    drop(pin);
    volumes.stop().unwrap();
}

/// A size that no filesystem can have: more groups than ext4 can count.
#[test]
fn in_guest_a_volume_that_cannot_grow_stays_usable_at_the_size_it_has() {
    let rig = Rig::new();
    let backend = rig.start();
    let mut volume = backend.create(VolumeId(1), None, None).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    write(&mounted, "file", b"content");
    volume.size = 100 << 50;
    let refused = text(&backend.resize(&volume, Some(&mounted)).unwrap_err());
    assert!(refused.contains("growing"), "{refused}");
    backend.deactivate(&volume, mounted).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).expect("it was made and is there");
    assert_eq!(read(&mounted, "file").unwrap(), b"content");
    assert!(total(&mounted.root) < 256 * MIB, "{}", total(&mounted.root));
    write(&mounted, "more", b"content");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
}

/// Writes until ENOSPC; how many bytes fitted.
fn fill(root: &Path) -> u64 {
    let mut file = File::create(root.join("fill")).unwrap();
    let (mut chunk, mut written) = (MIB as usize, 0);
    while chunk >= 4096 {
        match file.write(&vec![7; chunk]) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                chunk /= 2;
            }
        }
    }
    file.sync_all().expect("all that was taken has a place");
    written
}

#[test]
fn in_guest_a_snapshot_holds_exactly_what_a_plain_ext4_of_its_size_holds() {
    let rig = Rig::new();
    let backend = rig.start();
    let volume = backend.create(VolumeId(1), None, Some(100 * MIB)).unwrap();
    let mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let thin = fill(&below(&mounted, "."));
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();

    let (image, mount) = (rig.dir.path().join("plain"), rig.dir.path().join("mnt"));
    File::create(&image).unwrap().set_len(100 * MIB).unwrap();
    backend.recipe(Filesystem::Ext4).make(&image).unwrap();
    std::fs::create_dir(&mount).unwrap();
    run(Command::new("mount").args(["-o", "loop,noinit_itable"]).args([&image, &mount]));
    std::fs::remove_dir(mount.join("lost+found")).unwrap();
    let plain = fill(&mount);
    run(Command::new("umount").arg(&mount));
    assert_eq!(thin, plain, "bytes until ENOSPC");
}

#[test]
fn in_guest_removed_files_give_their_blocks_back_by_a_trim_and_by_a_commit() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let backend = rig.start();
    let taken = || {
        let file = File::open(rig.dir.path().join("thin/data.img")).unwrap();
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    };
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    let before = taken();
    let write_and_remove = |mounted: &Mounted| {
        write(mounted, "gone", &vec![7; 64 * MIB as usize]);
        backend.flush(&volume, mounted).unwrap();
        let full = taken();
        assert!(full >= before + 64 * MIB, "{before} {full}");
        std::fs::remove_file(below(mounted, "gone")).unwrap();
    };
    write_and_remove(&mounted);
    let began = Instant::now();
    let back = backend.trim(&volume, &mounted).unwrap();
    println!("trim gave {back} bytes back in {:?}, {before} → {} bytes", began.elapsed(), taken());
    assert!(back >= 63 * MIB && taken() <= before + 4 * MIB, "{back} {before} {}", taken());

    write_and_remove(&mounted);
    write(&mounted, "kept", &[1; 4096]);
    assert!(backend.excess(&volume, &mounted).unwrap() >= 63 * MIB);
    let began = Instant::now();
    backend.seal(&volume, &mut mounted).unwrap();
    println!("a commit that trims: {:?}", began.elapsed());
    assert!(taken() <= before + 4 * MIB, "{before} {}", taken());
    assert_eq!(read(&mounted, "kept").unwrap(), [1; 4096]);
    backend.deactivate(&volume, mounted).unwrap();

    let other = backend.create(VolumeId(2), Some(&volume), None).unwrap();
    let mut mounted = backend.activate(&other, Access::ReadWrite).unwrap();
    write(&mounted, "small", &[1; 4096]);
    backend.flush(&other, &mounted).unwrap();
    assert_eq!(backend.excess(&other, &mounted).unwrap(), 0, "journal and tables are no excess");
    let began = Instant::now();
    backend.seal(&other, &mut mounted).unwrap();
    println!("a commit with nothing to trim: {:?}", began.elapsed());
    backend.deactivate(&other, mounted).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_what_volumes_have_alone_and_what_they_share_is_all_that_the_pool_maps() {
    let rig = Rig::new();
    let backend = rig.start();
    let base = committed(&backend, 1, None, "base", &vec![1; 40 * MIB as usize]);
    let mut volumes = vec![base];
    for id in 2..=5 {
        let origin = volumes[(id as usize - 2) / 2].clone();
        let bytes = vec![id as u8; id as usize * MIB as usize];
        volumes.push(committed(&backend, id, Some(&origin), "more", &bytes));
    }
    let shares = backend.shares(&volumes, &AtomicBool::new(false)).unwrap().unwrap();
    let block = backend.pool.table().block.bytes();
    let status = backend.status().unwrap();
    assert_eq!(shares.used, status.data.used * block, "{shares:?}");
    let alone: u64 = shares.volumes.iter().map(|(_, share)| share.exclusive).sum();
    assert_eq!(alone + shares.shared + shares.others, shares.used);

    let held = backend.pool.reserve_metadata_snapshot().unwrap();
    let path = backend.nodes.path(backend.pool.table().metadata).unwrap();
    let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
    let listed =
        run(Command::new("thin_ls").args(["-m", "--no-headers", "-o", columns]).arg(&path));
    drop(held);
    let mut theirs: Vec<(u32, u64, u64)> = Vec::new();
    for line in listed.lines() {
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        theirs.push((numbers[0] as u32, numbers[1], numbers[2]));
    }
    for (id, share) in &shares.volumes {
        let volume = volumes.iter().find(|volume| volume.id == *id).unwrap();
        let (_, mapped, exclusive) =
            theirs.iter().find(|(dev, ..)| *dev == thin(volume).get()).copied().unwrap();
        assert_eq!(share.exclusive, exclusive * block, "volume {id}");
        assert_eq!(share.exclusive + share.shared, mapped * block, "volume {id}");
    }
    // What a volume has alone is what its removal frees.
    let last = volumes.pop().unwrap();
    let alone = shares.volumes.iter().find(|(id, _)| *id == last.id).unwrap().1.exclusive;
    backend.destroy(&last).unwrap();
    let freed = (status.data.used - backend.status().unwrap().data.used) * block;
    assert_eq!(freed, alone);
    backend.stop().unwrap();
}

#[test]
fn in_guest_every_filesystem_serves_snapshots_and_keeps_its_kind_over_generations() {
    for filesystem in Filesystem::ALL {
        let name = filesystem.as_str();
        println!("filesystem {name}");
        let rig = Rig::new();
        let source = PoolSource::Auto {
            dir: rig.dir.path().join("thin"),
            size: Some(1024 * MIB),
            most: None,
        };
        let config = ThinConfig { filesystem, source, volume_size: 512 * MIB, ..rig.config() };
        let start = || ThinBackend::start(config.clone(), Arc::new(rig.ledger.clone())).unwrap();
        let backend = start();
        let parent = committed(&backend, 1, None, "file", b"content");
        let child = backend.create(VolumeId(2), Some(&parent), Some(1024 * MIB)).unwrap();
        // Both at once: they have one UUID.
        let below_it = backend.activate(&parent, Access::ReadOnly).unwrap();
        let mounted = backend.activate(&child, Access::ReadWrite).unwrap();
        assert_eq!(read(&mounted, "file").unwrap(), b"content");
        assert!(total(&mounted.root) > 900 * MIB, "{name} grew to {}", total(&mounted.root));
        let magic = rustix::fs::fstatfs(&mounted.root).unwrap().f_type as u64;
        assert_eq!(magic == 0x5846_5342, filesystem == Filesystem::Xfs, "{name}: {magic:x}");
        write(&mounted, "more", &vec![7; 8 * MIB as usize]);
        let own = backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false));
        assert_eq!(own.unwrap().inodes, 1, "{name}");
        backend.flush(&child, &mounted).unwrap();
        std::fs::remove_file(below(&mounted, "more")).unwrap();
        // xfs frees removed files, and discards what is free, in the background.
        let mapped = || backend.capacity().unwrap().used;
        let (before, deadline) = (mapped(), Instant::now() + Duration::from_secs(60));
        while before.saturating_sub(mapped()) < 7 * MIB {
            assert!(Instant::now() < deadline, "{name}: of {before} bytes {} stay", mapped());
            backend.trim(&child, &mounted).unwrap();
        }
        // A crash: nothing is unmounted in order.
        drop((mounted, below_it));
        drop(backend);
        let backend = start();
        assert_eq!(backend.reconcile(&[parent.clone(), child.clone()]).unwrap().lost, []);
        let mounted = backend.activate(&child, Access::ReadWrite).unwrap();
        assert_eq!(read(&mounted, "file").unwrap(), b"content", "{name}");
        backend.deactivate(&child, mounted).unwrap();
        backend.stop().unwrap();
    }
}

#[test]
fn in_guest_one_pool_holds_volumes_with_different_filesystems() {
    let rig = Rig::new();
    let backend = rig.start();
    let made: Vec<_> = ["ext4", "ext2", "xfs"]
        .iter()
        .zip(1..)
        .map(|(name, id)| backend.create_formatted(VolumeId(id), name, Some(512 * MIB)).unwrap())
        .collect();
    for volume in &made {
        let mounted = backend.activate(volume, Access::ReadWrite).unwrap();
        assert_eq!(names(&mounted), [""; 0]);
        write(&mounted, "a", &vec![1; MIB as usize]);
        backend.flush(volume, &mounted).unwrap();
        let own = backend.usage(volume, None, Some(&mounted), &AtomicBool::new(false)).unwrap();
        assert!((MIB..12 * MIB).contains(&own.size), "against its own template: {own:?}");
        assert_eq!(own.inodes, 1);
        backend.deactivate(volume, mounted).unwrap();
    }
    assert!(backend.create_formatted(VolumeId(9), "btrfs", None).is_err());
    backend.stop().unwrap();
}
