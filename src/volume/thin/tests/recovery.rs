//! Crashes, restarts, and pools that don't belong.

use super::*;
use crate::thin::pool::Ballast as _;
use crate::thin::table::Table;

#[test]
fn in_guest_a_thin_id_that_is_taken_becomes_faulty_and_the_next_one_is_used() {
    let rig = Rig::new();
    let backend = rig.start();
    let first = backend.create(VolumeId(1), None, None).unwrap();
    let taken = ThinId::new(thin(&first).get() + 1).unwrap();
    backend.pool.create_thin(taken).unwrap();
    let second = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&second).get(), taken.get() + 1);
    let faulty = backend.faulty();
    assert_eq!(faulty.iter().map(|f| f.thin_id).collect::<Vec<_>>(), [taken.get()]);
    assert!(faulty[0].why.contains("no record named"), "{faulty:?}");
    assert!(backend.describe().contains(&("faulty thin ids".to_owned(), taken.to_string())));
    // It is set aside, over a start, until somebody asks for more.
    drop(backend);
    let backend = rig.start();
    let known = [first, second];
    assert_eq!(backend.reconcile(&known).unwrap(), Reconciled::default());
    assert_eq!(backend.check(&known).unwrap(), [""; 0]);
    let gone = Retried { thin_id: taken.get(), failure: None };
    assert_eq!(backend.retry_faulty(&[]).unwrap(), [gone]);
    assert_eq!((backend.faulty(), devices_in(&backend)), (vec![], 3));
    backend.stop().unwrap();
}

/// The name of the device is taken, so it can't be activated to be written.
#[test]
fn in_guest_a_witness_or_ballast_that_cannot_be_written_leaves_no_thin_device() {
    let rig = Rig::new();
    let backend = rig.start();
    let first = backend.create(VolumeId(1), None, None).unwrap();
    assert_eq!(devices_in(&backend), 2, "a template and a volume");
    let taken = || thin(&first).get();
    let in_the_way = |id: u32| {
        let name = backend.devices.identity.thin_name(ThinId::new(id).unwrap());
        let table = Table::thin(Sectors::in_bytes(MIB), backend.pool.number(), thin(&first));
        backend.devices.dm.activate(&name, &table, true).unwrap();
        name
    };
    let names = [in_the_way(taken() + 1), in_the_way(taken() + 2)];
    backend.pool.delete(backend.ballast.take().unwrap()).unwrap();
    let witness = backend.book.record().witness.unwrap();
    backend.pool.delete(ThinId::new(witness.thin_id).unwrap()).unwrap();
    backend.book.change(|record| record.witness = None).unwrap();
    backend.witnessed.store(false, Ordering::Release);

    let second = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&second).get(), taken() + 3, "both were tried");
    assert_eq!(backend.check(&[first.clone(), second.clone()]).unwrap(), [""; 0]);
    names.iter().for_each(|name| backend.devices.dm.remove(name).unwrap());
    let third = backend.create(VolumeId(3), None, None).unwrap();
    assert_eq!(own(&backend).len(), 5, "and made once that is possible");
    assert_eq!(backend.check(&[first, second, third]).unwrap(), [""; 0]);
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
    assert_eq!(reconciled, Reconciled { lost: vec![], reaped: 1, kept: 0 });
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
    let found = backend.check(std::slice::from_ref(&volume)).unwrap();
    let told = format!("volume 7 is lost: the pool has no thin device {}", thin(&volume));
    assert_eq!(found, [told]);
    let reconciled = backend.reconcile(std::slice::from_ref(&volume)).unwrap();
    assert_eq!(reconciled, Reconciled { lost: vec![VolumeId(7)], reaped: 0, kept: 0 });
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
    let volume = backend.create(VolumeId(1), None, None).unwrap();
    backend.pool.create_thin(ThinId::new(500_000).unwrap()).unwrap();
    let found = backend.check(std::slice::from_ref(&volume)).unwrap();
    assert_eq!(found, ["thin device 500000 was not made by thinfs"]);
    let refused = text(&backend.reconcile(&[]).unwrap_err());
    assert!(refused.contains("500000") && refused.contains("did not make"), "{refused}");
    assert_eq!(devices_in(&backend), 3, "something was deleted");
    backend.stop().unwrap();
}

#[test]
fn in_guest_the_transaction_id_tells_whether_pool_and_ledger_belong_together() {
    let rig = Rig::new();
    let backend = rig.start();
    backend.create(VolumeId(1), None, None).unwrap();
    backend.stop().unwrap();
    let record = rig.ledger.load().unwrap().unwrap();
    assert_eq!((record.reserved_end, record.settled), (RANGE, true));
    let at = record.transaction_id;
    let with =
        |transaction_id, settled| Some(types::Pool { transaction_id, settled, ..record.clone() });

    for (saved, settled) in
        [(at + 2, true), (at + 2, false), (at + 1, true), (at - 1, false), (3, true)]
    {
        *rig.ledger.0.lock() = with(saved, settled);
        let refused = text(&rig.try_start().unwrap_err());
        let both = refused.contains(&saved.to_string()) && refused.contains(&at.to_string());
        assert!(both, "the message names both numbers: {refused}");
        assert!(refused.contains("--force-adopt"), "{refused}");
        assert_eq!(rig.left_over(), [""; 0], "ledger at {saved}");
    }

    // Crashed between the ledger and the pool, or between the pool and the ledger: it is finished,
    // and each start moves on.
    for (saved, settled, then) in
        [(at + 1, false, at + 2), (at + 2, false, at + 3), (at + 3, true, at + 4)]
    {
        *rig.ledger.0.lock() = with(saved, settled);
        let backend = rig.start();
        assert_eq!(backend.status().unwrap().transaction_id, then);
        assert!(rig.ledger.load().unwrap().unwrap().settled);
        backend.stop().unwrap();
    }
}

#[test]
fn in_guest_a_pool_that_the_ledger_lost_is_refused_and_by_force_set_aside_and_given_back() {
    let rig = Rig::new();
    let backend = rig.start();
    backend.create(VolumeId(1), None, None).unwrap();
    let had = backend.existing().unwrap();
    backend.stop().unwrap();
    *rig.ledger.0.lock() = None;
    let refused = text(&rig.try_start().unwrap_err());
    assert!(refused.contains("knows none of them"), "{refused}");
    assert_eq!(rig.left_over(), [""; 0]);

    let forced = ThinConfig { force_adopt: true, ..rig.config() };
    let backend = ThinBackend::start(forced, Arc::new(rig.ledger.clone())).unwrap();
    assert_eq!(backend.reconcile(&[]).unwrap(), Reconciled::default());
    let faulty: Vec<_> = backend.faulty().iter().map(|f| f.thin_id).collect();
    let all: Vec<_> = had.iter().map(|thin| thin.get()).collect();
    assert_eq!(faulty, all, "ballast, witness, template and volume");
    let new = own(&backend);
    let kept = backend.existing().unwrap().into_iter().filter(|thin| !new.contains(&thin.get()));
    assert_eq!(kept.collect::<Vec<_>>(), had, "nothing is deleted");
    let fresh = backend.create(VolumeId(2), None, None).unwrap();
    assert!(!all.contains(&thin(&fresh).get()));
    assert!(backend.retry_faulty(&[]).unwrap().iter().all(|r| r.failure.is_none()));
    assert_eq!(devices_in(&backend), 2, "a template and a volume");
    backend.stop().unwrap();
}

#[test]
fn in_guest_an_older_copy_of_the_metadata_is_refused_and_by_force_what_it_lacks_is_lost() {
    let rig = Rig::new();
    let backend = rig.start();
    let kept = committed(&backend, 1, None, "a", b"1");
    backend.stop().unwrap();
    let file = rig.dir.path().join("thin/metadata.img");
    let copy = rig.dir.path().join("copy");
    std::fs::copy(&file, &copy).unwrap();
    let backend = rig.start();
    let later = backend.create(VolumeId(2), Some(&kept), None).unwrap();
    backend.stop().unwrap();
    std::fs::copy(&copy, &file).unwrap();
    let refused = text(&rig.try_start().unwrap_err());
    assert!(refused.contains("the pool's metadata is an older copy"), "{refused}");
    assert_eq!(rig.left_over(), [""; 0]);

    let known = [kept.clone(), later];
    let forced = ThinConfig { force_adopt: true, ..rig.config() };
    let backend = ThinBackend::start(forced.clone(), Arc::new(rig.ledger.clone())).unwrap();
    let reconciled = backend.reconcile(&known).unwrap();
    assert_eq!(reconciled, Reconciled { lost: vec![VolumeId(2)], reaped: 0, kept: 0 });
    let mounted = backend.activate(&kept, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.deactivate(&kept, mounted).unwrap();
    backend.stop().unwrap();
    rig.start().stop().expect("adopted is adopted");

    // All of it gone.
    std::fs::write(&file, vec![0; 32 << 20]).unwrap();
    let refused = text(&rig.try_start().unwrap_err());
    assert!(refused.contains("is blank") && refused.contains("--force-adopt"), "{refused}");
    let backend = ThinBackend::start(forced, Arc::new(rig.ledger.clone())).unwrap();
    assert_eq!(backend.reconcile(&known).unwrap().lost, [VolumeId(1), VolumeId(2)]);
    backend.create(VolumeId(3), None, None).unwrap();
    backend.stop().unwrap();
}

#[test]
fn in_guest_an_older_copy_of_the_data_is_refused_and_by_force_taken() {
    let rig = Rig::new();
    let small = || ThinConfig {
        source: PoolSource::Auto {
            dir: rig.dir.path().join("thin"),
            size: Some(64 * MIB),
            most: None,
        },
        ..rig.config()
    };
    let start = |config| ThinBackend::start(config, Arc::new(rig.ledger.clone()));
    let backend = start(small()).unwrap();
    let kept = committed(&backend, 1, None, "a", b"1");
    let witness = |rig: &Rig| rig.ledger.load().unwrap().unwrap().witness.unwrap();
    assert_eq!(witness(&rig).run, 1);
    // A store from before there were witnesses: the pool gets one with the next volume, and the old one is nobody's.
    backend.book.change(|record| record.witness = None).unwrap();
    drop(backend);
    let backend = start(small()).unwrap();
    let reconciled = backend.reconcile(std::slice::from_ref(&kept)).unwrap();
    assert_eq!(reconciled, Reconciled { lost: vec![], reaped: 1, kept: 0 });
    let other = backend.create(VolumeId(2), Some(&kept), None).unwrap();
    backend.stop().unwrap();

    let (file, copy) = (rig.dir.path().join("thin/data.img"), rig.dir.path().join("copy"));
    std::fs::copy(&file, &copy).unwrap();
    start(small()).unwrap().stop().unwrap();
    assert_eq!(witness(&rig).run, 2, "each start is a run");
    std::fs::rename(&file, rig.dir.path().join("newer")).unwrap();
    std::fs::copy(&copy, &file).unwrap();
    let refused = text(&start(small()).unwrap_err());
    assert!(refused.contains("older copy of this pool's data device"), "{refused}");
    assert!(refused.contains(file.to_str().unwrap()) && refused.contains("run 1"), "{refused}");
    assert_eq!(rig.left_over(), [""; 0]);
    let all = [kept.clone(), other];
    let forced = ThinConfig { force_adopt: true, ..small() };
    for config in [forced, small()] {
        let backend = start(config).unwrap();
        assert_eq!(backend.reconcile(&all).unwrap(), Reconciled::default());
        let mounted = backend.activate(&kept, Access::ReadOnly).unwrap();
        assert_eq!(read(&mounted, "a").unwrap(), b"1");
        backend.deactivate(&kept, mounted).unwrap();
        backend.stop().unwrap();
    }
    // A run that the record doesn't know yet: killed in between.
    let record = rig.ledger.load().unwrap().unwrap();
    let earlier = types::Witness { run: witness(&rig).run - 1, ..witness(&rig) };
    *rig.ledger.0.lock() = Some(types::Pool { witness: Some(earlier), ..record });
    let backend = start(small()).unwrap();
    // A witness that somebody deleted is made again.
    let id = ThinId::new(witness(&rig).thin_id).unwrap();
    backend.pool.delete(id).unwrap();
    drop(backend);
    let backend = start(small()).unwrap();
    backend.reconcile(&all).unwrap();
    assert_eq!(backend.book.record().witness, None);
    backend.create(VolumeId(3), Some(&kept), None).unwrap();
    assert_ne!(witness(&rig).thin_id, id.get());
    backend.stop().unwrap();
}

#[test]
fn in_guest_an_older_copy_of_the_ledger_is_refused_and_by_force_nothing_is_deleted() {
    let rig = Rig::new();
    let backend = rig.start();
    let kept = committed(&backend, 1, None, "a", b"1");
    backend.stop().unwrap();
    let older = rig.ledger.load().unwrap();
    let backend = rig.start();
    let later = committed(&backend, 2, None, "b", b"2");
    backend.stop().unwrap();
    *rig.ledger.0.lock() = older;
    let refused = text(&rig.try_start().unwrap_err());
    assert!(refused.contains("the metadata store is an older copy"), "{refused}");

    let forced = ThinConfig { force_adopt: true, ..rig.config() };
    let backend = ThinBackend::start(forced, Arc::new(rig.ledger.clone())).unwrap();
    assert_eq!(backend.reconcile(std::slice::from_ref(&kept)).unwrap(), Reconciled::default());
    let faulty: Vec<_> = backend.faulty().iter().map(|f| f.thin_id).collect();
    assert_eq!(faulty, [thin(&later).get()], "kept for whoever looks for it");
    backend.stop().unwrap();
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
    assert_eq!(backend.status().unwrap().transaction_id, before + 2, "each start moves on");
    assert_eq!(backend.book.record().reserved_end, RANGE, "a start alone reserves nothing");
    let volume = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&volume).get(), RANGE);
    assert_eq!(backend.status().unwrap().transaction_id, before + 3);
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
    // Ballast, witness and template were made before it.
    let first = thin(&kept).get();
    assert_eq!(first as usize, own(&backend).len() + 1);
    let second = backend.create(VolumeId(2), None, None).unwrap();
    assert_eq!(thin(&second).get(), first + 1, "all ids below are taken");
    backend.destroy(&second).unwrap();
    let third = backend.create(VolumeId(3), None, None).unwrap();
    assert_eq!(
        thin(&third).get(),
        first + 2,
        "an id whose record may still be there was used again"
    );
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
    assert_eq!(
        found.iter().filter(|name| loops.contains(name)).count(),
        3,
        "found {found:?}, had {loops:?}"
    );
    assert_eq!(
        found.len(),
        3,
        "the stale thin device is gone, nothing was attached twice: {found:?}"
    );
    assert_eq!(backend.reconcile(std::slice::from_ref(&volume)).unwrap(), Reconciled::default());
    // Not unmounted in an orderly way: reading needs the journal replayed, and gets it.
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"durable");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

/// In passthrough the kernel serves a container's open files without the daemon, and after it: they keep the
/// filesystem mounted. The start used to refuse, the stop to fail.
#[test]
fn in_guest_files_that_outlive_a_daemon_stop_neither_the_next_start_nor_its_stop() {
    let rig = Rig::new();
    let backend = rig.start();
    let sealed = committed(&backend, 1, None, "base", b"b");
    let active = backend.create(VolumeId(2), Some(&sealed), None).unwrap();
    let mut known = vec![sealed.clone(), active.clone()];
    let mounted = [(&active, Access::ReadWrite), (&sealed, Access::ReadOnly)]
        .map(|(volume, access)| backend.activate(volume, access).unwrap());
    write(&mounted[0], "kept", b"before");
    let mut kept = File::options().append(true).open(below(&mounted[0], "kept")).unwrap();
    let read_only = File::open(below(&mounted[1], "base")).unwrap();
    drop(mounted);
    drop(backend); // killed

    let backend = rig.start();
    assert_eq!(backend.reconcile(&known).unwrap(), Reconciled::default());
    // Both see one filesystem.
    kept.write_all(b", after").unwrap();
    let mounted = backend.activate(&active, Access::ReadWrite).unwrap();
    assert_eq!(read(&mounted, "kept").unwrap(), b"before, after");
    write(&mounted, "new", b"n");
    // What somebody holds can still be a parent, and what is removed goes once it is let go of.
    let child = backend.create(VolumeId(3), Some(&sealed), None).unwrap();
    known.push(child.clone());
    let files = backend.activate(&sealed, Access::ReadOnly).unwrap();
    assert_eq!(read(&files, "base").unwrap(), b"b");
    assert!(matches!(backend.deactivate(&sealed, files), Err(Error::Busy(..))));
    assert!(matches!(backend.destroy(&sealed), Err(Error::Busy(..))));
    assert!(matches!(backend.deactivate(&active, mounted), Err(Error::Busy(..))));
    backend.stop().expect("a stop leaves what programs hold");
    assert_eq!(rig.left_over().len(), 5, "{:?}", rig.left_over());

    let backend = rig.start();
    assert_eq!(backend.reconcile(&known).unwrap(), Reconciled::default());
    drop(read_only);
    backend.destroy(&sealed).unwrap();
    drop(kept);
    let mounted = backend.activate(&active, Access::ReadWrite).unwrap();
    assert_eq!(read(&mounted, "new").unwrap(), b"n");
    backend.deactivate(&active, mounted).unwrap();
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
    run(Command::new("thin_check").arg(rig.dir.path().join("thin/metadata.img")));
    let backend = rig.start();
    let mounted = backend.activate(&volume, Access::ReadOnly).unwrap();
    assert_eq!(read(&mounted, "a").unwrap(), b"1");
    backend.deactivate(&volume, mounted).unwrap();
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_a_pool_device_that_was_never_resumed_is_made_again() {
    let rig = Rig::new();
    let pool = rig.identity().pool_name();
    run(Command::new("dmsetup").args(["create", "--notable", "--noudevsync", &pool]));
    let backend = rig.start();
    backend.create(VolumeId(1), None, None).unwrap();
    backend.stop().unwrap();
    assert_eq!(rig.left_over(), [""; 0]);
}

#[test]
fn in_guest_many_at_once_neither_wait_for_ever_nor_get_into_each_others_way() {
    let rig = Rig::new();
    let backend = rig.start();
    let parent = committed(&backend, 1, None, "a", b"parent");
    std::thread::scope(|scope| {
        for worker in 0..8u32 {
            let (backend, parent) = (&backend, &parent);
            scope.spawn(move || {
                for round in 0..4 {
                    let id = VolumeId(100 + worker * 100 + round);
                    let own = backend.create(id, Some(parent), None).unwrap();
                    let mut mounted = backend.activate(&own, Access::ReadWrite).unwrap();
                    write(&mounted, "own", &id.0.to_le_bytes());
                    backend.seal(&own, &mut mounted).unwrap();
                    let child = backend.create(VolumeId(id.0 + 50), Some(&own), None).unwrap();
                    backend.deactivate(&own, mounted).unwrap();
                    assert_eq!(usage(backend, &own, Some(parent)).inodes, 1);
                    let view = backend.activate(&child, Access::ReadOnly).unwrap();
                    assert_eq!(read(&view, "own").unwrap(), id.0.to_le_bytes());
                    assert_eq!(read(&view, "a").unwrap(), b"parent");
                    backend.deactivate(&child, view).unwrap();
                    backend.destroy(&own).unwrap();
                    backend.destroy(&child).unwrap();
                }
            });
        }
    });
    assert_eq!(backend.check(std::slice::from_ref(&parent)).unwrap(), [""; 0]);
    backend.stop().unwrap();
}
