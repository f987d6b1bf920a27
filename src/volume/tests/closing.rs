//! Closing, usage and the end.

use super::*;

#[test]
fn closing_waits_for_pins_and_gives_no_more() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    assert!(!volumes.try_close(&volume(1)).unwrap());
    assert!(volumes.pinned(VolumeId(1)).is_none());
    assert!(matches!(volumes.pin(&volume(1), Access::ReadOnly), Err(Error::Missing(_))));
    drop(pin.clone().writer().unwrap());
    drop(pin);
    eventually("it closes", || volumes.try_close(&volume(1)).unwrap());
    assert!(active(&backend).is_empty());
    assert!(volumes.try_close(&volume(1)).unwrap(), "twice is fine");
    assert!(volumes.try_close(&volume(2)).unwrap(), "never activated");
    assert!(matches!(volumes.pin(&volume(1), Access::ReadOnly), Err(Error::Missing(_))));
    backend.assert_sound();
}

#[test]
fn an_idle_volume_closes_at_once() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    assert!(volumes.try_close(&volume(1)).unwrap());
    assert!(active(&backend).is_empty());
}

#[test]
fn closing_reports_a_failed_deactivation() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    backend.fail_deactivation.store(true, Ordering::SeqCst);
    assert!(volumes.try_close(&volume(1)).is_err());
    assert!(volumes.try_close(&volume(1)).unwrap());
}

/// A worker may come before `try_close` does: then it, not the caller, meets the failure. Told as
/// closed, the reaper would destroy what is still active.
#[test]
fn closing_reports_a_deactivation_that_failed_in_a_worker() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    backend.fail_deactivation.store(true, Ordering::SeqCst);
    volumes.retire(VolumeId(1));
    eventually("the worker is done", || volumes.slots_for_test() == 0);
    assert!(matches!(volumes.try_close(&volume(1)), Err(Error::NoSpace(_))));
    assert!(volumes.try_close(&volume(1)).unwrap());
}

/// Else the pool would be taken down with a volume on it.
#[test]
fn stop_reports_a_failed_deactivation_and_leaves_the_backend_running() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    backend.fail_deactivation.store(true, Ordering::SeqCst);
    assert!(matches!(volumes.stop(), Err(Error::NoSpace(_))));
    assert!(!backend.stopped.load(Ordering::SeqCst));
    volumes.stop().unwrap();
    assert!(backend.stopped.load(Ordering::SeqCst));
}

/// What went wrong before it was activated anew has healed.
#[test]
fn an_activation_after_a_failed_deactivation_heals_it() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    backend.fail_deactivation.store(true, Ordering::SeqCst);
    volumes.retire(VolumeId(1));
    eventually("the worker is done", || volumes.slots_for_test() == 0);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    assert!(volumes.try_close(&volume(1)).unwrap());
}

#[test]
fn usage_uses_an_activation_and_waits_for_none() {
    let (backend, volumes) = volumes(4);
    let usage = || volumes.usage(&volume(1), None, &AtomicBool::new(false)).unwrap().inodes;
    assert_eq!(usage(), 0);
    thread::scope(|scope| {
        let hold = backend.hold.lock();
        let pinning = scope.spawn(|| volumes.pin(&volume(1), Access::ReadOnly).unwrap());
        eventually("activating", || !active(&backend).is_empty());
        // The activation can't end before this has returned.
        assert_eq!(usage(), 0);
        drop(hold);
        let _pin = pinning.join().unwrap();
        assert_eq!(usage(), 1);
    });
    assert_eq!(backend.activations.load(Ordering::SeqCst), 1);
}

#[test]
fn stop_reports_pinned_volumes_and_can_be_called_again() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    drop(volumes.pin(&volume(2), Access::ReadWrite).unwrap());
    let error = volumes.stop().unwrap_err();
    assert_eq!(error.to_string(), "volume 1 is in use: it is still pinned");
    assert_eq!(active(&backend), [1]);
    assert!(matches!(volumes.pin(&volume(2), Access::ReadOnly), Err(Error::Cancelled(_))));
    assert!(!backend.stopped.load(Ordering::SeqCst));
    drop(pin);
    assert!(active(&backend).is_empty(), "the last pin deactivates by itself now");
    volumes.stop().unwrap();
    volumes.stop().unwrap();
    backend.assert_sound();
}

#[test]
fn pins_outlive_volumes() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    drop(volumes.pin(&volume(2), Access::ReadWrite).unwrap());
    drop(volumes);
    assert_eq!(active(&backend), [1]);
    drop(pin);
    assert!(active(&backend).is_empty());
}

#[test]
fn nothing_is_remembered_of_volumes_deactivated() {
    let (backend, volumes) = volumes(2);
    for id in 1..200 {
        drop(volumes.pin(&volume(id), Access::ReadOnly).unwrap());
    }
    eventually("the rest goes", || active(&backend).len() == 2);
    eventually("slots go", || volumes.slots_for_test() == 2);
}
