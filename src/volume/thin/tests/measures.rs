//! Numbers: usage, the metadata reader against the tools, the price of a create.

use super::*;

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
    let own =
        backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
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
        std::fs::remove_file(below(&mounted, "file")).unwrap();
    }
    backend.seal(&child, &mut mounted).unwrap();
    let own =
        backend.usage(&child, Some(&parent), Some(&mounted), &AtomicBool::new(false)).unwrap();
    assert_eq!(own.inodes, 0);
    assert!(own.size < MIB, "{own:?}");
    backend.deactivate(&child, mounted).unwrap();
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
        volumes.push(committed(
            &backend,
            id,
            origin.as_ref(),
            if id % 2 == 0 { "base" } else { "more" },
            &bytes,
        ));
    }
    for _ in 0..300 {
        backend.create(VolumeId(100), Some(&volumes[0]), None).unwrap();
    }
    let held = backend.pool.reserve_metadata_snapshot().unwrap();
    let path = backend.nodes.path(backend.pool.table().metadata).unwrap();
    let device = crate::thin::metadata::open(&path).unwrap();
    let view = crate::thin::metadata::View::open(&device, held.block()).unwrap();

    let ours: Vec<_> =
        view.thins().unwrap().iter().map(|t| format!("{} {}", t.id, t.mapped_blocks)).collect();
    let listed = run(Command::new("thin_ls")
        .args(["-m", "--no-headers", "-o", "DEV,MAPPED_BLOCKS"])
        .arg(&path));
    let theirs: Vec<_> =
        listed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
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

/// Blocks that `a` maps and `b` doesn't map the same, as thin_delta counts them.
fn delta(metadata: &Path, a: ThinId, b: ThinId) -> u64 {
    let (a, b) = (a.to_string(), b.to_string());
    let xml =
        run(Command::new("thin_delta").args(["-m", "--snap1", &a, "--snap2", &b]).arg(metadata));
    let length = |line: &str| -> u64 {
        line.split("length=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap()
            .parse()
            .unwrap()
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
        Dm::open().unwrap().message(backend.pool.name(), Step::CreateThin, &raw).unwrap();
    });
    let create = p50(&mut |n| {
        backend.create(VolumeId(10 + n), Some(&parent), None).unwrap();
    });
    println!("p50: create {create:?}, raw create_snap message {message:?}");
    assert!(create < message * 3, "create {create:?}, create_snap {message:?}");
    backend.stop().unwrap();
}
