//! The reaper: nothing holds up the rest, nothing is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::eventually;
use super::faulty::{Faults, broken};
use super::fixture::Fixture;

#[test]
fn a_removal_wakes_the_reaper() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    scene.prepare("a", "").unwrap();
    scene.remove("a").unwrap();
    eventually("the reaper destroys it unasked", || fixture.snapshots().pending().unwrap() == 0);
    assert_eq!(fixture.snapshots().check().unwrap(), Vec::<String>::new());
}

#[test]
fn closing_the_last_file_of_a_removed_snapshot_gives_its_space_back_unasked() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    let info = scene.prepare("a", "").unwrap();
    let pin = scene.open(&info);
    scene.remove("a").unwrap();
    assert_eq!(fixture.snapshots().cleanup().unwrap().waiting, 1);
    drop(pin);
    eventually("the reaper looks again", || fixture.snapshots().pending().unwrap() == 0);
}

#[test]
fn a_volume_that_cannot_be_destroyed_is_kept_with_the_reason_and_does_not_stop_the_rest() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    let broken_one = scene.prepare("k0", "").unwrap().snapshot.volume;
    for at in 1..10 {
        scene.prepare(&format!("k{at}"), "").unwrap();
    }
    faults.before_destroy(move |id| if id == broken_one { Err(broken()) } else { Ok(()) });
    for at in 0..10 {
        scene.remove(&format!("k{at}")).unwrap();
    }
    let reaped = fixture.snapshots().cleanup().unwrap();
    assert_eq!(reaped.failed.len(), 1);
    assert!(
        reaped.failed[0].starts_with(&format!("volume {broken_one}: the device is broken: ")),
        "{reaped:?}"
    );
    assert_eq!(fixture.snapshots().pending().unwrap(), 1);
    assert_eq!(fixture.snapshots().check().unwrap(), reaped.failed);
    // The key has been free all the time.
    scene.prepare("k0", "").unwrap();
    // Mended, it goes without being asked for.
    faults.clear();
    eventually("it is tried again", || fixture.snapshots().pending().unwrap() == 0);
    fixture.assert_sound();
}

#[test]
fn a_panic_while_destroying_is_a_failure_like_any_other() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    scene.prepare("a", "").unwrap();
    faults.before_destroy(|_| panic!("this panic is part of the test"));
    scene.remove("a").unwrap();
    let reaped = fixture.snapshots().cleanup().unwrap();
    assert!(reaped.failed[0].contains("panicked"), "{reaped:?}");
    // It goes, by the reaper's own next attempt or by the clean-up that this begins with.
    faults.clear();
    fixture.assert_sound();
}

#[test]
fn removals_are_acknowledged_while_the_reaper_is_stuck() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    let stuck = Arc::new(AtomicBool::new(true));
    {
        let stuck = stuck.clone();
        faults.before_destroy(move |_| {
            while stuck.load(Ordering::Relaxed) {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
            Ok(())
        });
    }
    for at in 0..20 {
        scene.prepare(&format!("k{at}"), "").unwrap();
        scene.remove(&format!("k{at}")).unwrap();
    }
    assert_eq!(fixture.snapshots().pending().unwrap(), 20);
    stuck.store(false, Ordering::Relaxed);
    fixture.assert_sound();
}

#[test]
fn cleanup_with_nothing_to_do_returns_at_once_also_from_many_threads() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let scene = scene.clone();
            scope.spawn(move || {
                for round in 0..10 {
                    let name = format!("{thread}-{round}");
                    scene.prepare(&name, "").unwrap();
                    scene.remove(&name).unwrap();
                    assert_eq!(scene.snapshots.cleanup().unwrap().failed, Vec::<String>::new());
                }
            });
        }
    });
    assert_eq!(fixture.snapshots().cleanup().unwrap(), Default::default());
}
