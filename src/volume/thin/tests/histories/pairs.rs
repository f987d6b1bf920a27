//! Pools and stores that don't belong together, or of which one is an older copy: on the simulated
//! pool. `tests/recovery.rs` has the same on a real one.

use super::*;

/// A world with one run behind it, and the pool as it was after that run.
fn two_runs() -> (World, Simulated) {
    let mut world = World::new();
    world.reset();
    world.run(Op::Prepare { key: 0, parent: None });
    world.run(Op::Write { key: 0 });
    world.run(Op::Commit { key: 0, name: 1 });
    let copy = world.sim().copy();
    world.run(Op::Restart { power: false, doom: None });
    world.run(Op::Prepare { key: 2, parent: Some(1) });
    (world, copy)
}

#[test]
fn an_older_copy_of_the_pools_metadata_is_refused_and_adopted_by_force_with_what_it_lacks_lost() {
    let (mut world, copy) = two_runs();
    world.power_off();
    world.sim().restore(&copy);
    let refused = world.start(false).unwrap_err();
    assert!(refused.contains("the pool's metadata is an older copy"), "{refused}");
    assert!(refused.contains("--force-adopt"), "{refused}");
    world.start(true).unwrap();
    let problems = world.snapshots().check().unwrap();
    assert!(problems.iter().any(|line| line.to_string().contains("is lost")), "{problems:?}");
    world.power_off();
    world.start(false).expect("adopted is adopted");
}

#[test]
fn a_pool_that_the_store_has_lost_sight_of_is_refused_and_set_aside_by_force_and_given_back() {
    let (mut world, _) = two_runs();
    world.power_off();
    world.forget_the_store();
    let refused = world.start(false).unwrap_err();
    assert!(refused.contains("knows none of them"), "{refused}");
    let before = world.sim().thins();
    world.start(true).unwrap();
    assert_eq!(world.sim().thins(), before, "nothing is deleted");
    let backend = world.snapshots().volumes().backend().clone();
    let faulty: Vec<_> = backend.faulty().iter().map(|f| f.thin_id).collect();
    assert_eq!(faulty, before);
    assert!(backend.faulty()[0].why.contains("adopted by force"), "{:?}", backend.faulty());

    // They stay over a start without force, and are no disagreement.
    drop(backend);
    world.power_off();
    world.start(false).unwrap();
    assert_eq!(world.snapshots().check().unwrap(), Vec::<String>::new());
    let backend = world.snapshots().volumes().backend().clone();
    assert!(matches!(backend.retry_faulty(&[77]), Err(Error::NotFaulty(77))));
    world.run(Op::Prepare { key: 0, parent: None });
    let used: Vec<_> = world.sim().thins().into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(used.len(), 2, "a template and a volume, on ids that were free: {used:?}");

    // Asked for, they go.
    let retried = backend.retry_faulty(&before[..1]).unwrap();
    assert_eq!(retried, [Retried { thin_id: before[0], failure: None }]);
    assert!(backend.retry_faulty(&[]).unwrap().iter().all(|r| r.failure.is_none()));
    assert_eq!((backend.faulty(), world.sim().thins()), (vec![], used));
}

#[test]
fn no_new_volume_is_made_from_the_reserve_and_removals_still_work() {
    let (mut world, _) = two_runs();
    world.sim().set_metadata_blocks(Some(64 + 10));
    let refused = world.try_prepare(3).unwrap_err();
    assert!(refused.contains("is full but for a reserve"), "{refused}");
    world.run(Op::Remove { key: 2 });
    world.run(Op::Cleanup);
    world.sim().set_metadata_blocks(None);
    world.try_prepare(3).unwrap();
}
