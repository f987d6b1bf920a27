//! Pinning, eviction and retiring.

use super::*;

#[test]
fn pinned_finds_only_what_is_activated() {
    let (backend, volumes) = volumes(4);
    assert!(volumes.pinned(VolumeId(1)).is_none());
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    let again = volumes.pinned(VolumeId(1)).unwrap();
    assert_eq!((again.volume(), again.root().as_raw_fd()), (VolumeId(1), pin.as_fd().as_raw_fd()));
    drop((pin, again));
    assert!(volumes.pinned(VolumeId(1)).is_some(), "stays activated without a pin");
    assert_eq!(backend.activations.load(Ordering::SeqCst), 1);
    volumes.stop().unwrap();
    assert!(active(&backend).is_empty() && backend.stopped.load(Ordering::SeqCst));
    backend.assert_sound();
}

#[test]
fn a_storm_of_pins_is_one_activation() {
    let pause = Duration::from_millis(50);
    let (backend, volumes) = with_backend(4, Counting { pause, ..Default::default() });
    let barrier = Barrier::new(16);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                volumes.pin(&volume(1), Access::ReadWrite).unwrap()
            });
        }
    });
    assert_eq!(backend.activations.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failed_activation_heals() {
    let (backend, volumes) = volumes(4);
    backend.fail_next_activation.store(true, Ordering::SeqCst);
    assert!(matches!(volumes.pin(&volume(1), Access::ReadOnly), Err(Error::NoSpace(_))));
    assert_eq!(volumes.status(), []);
    volumes.pin(&volume(1), Access::ReadOnly).unwrap();
}

#[test]
fn the_least_recently_used_idle_volume_is_evicted() {
    let (backend, volumes) = volumes(3);
    let pin = |id| volumes.pin(&volume(id), Access::ReadWrite).unwrap();
    let held = pin(1);
    drop(pin(2));
    drop(pin(3));
    // A use through the fast path counts.
    drop(volumes.pinned(VolumeId(2)));
    drop(pin(4));
    eventually("3 goes", || active(&backend) == [1, 2, 4]);
    drop(held);
    volumes.stop().unwrap();
    backend.assert_sound();
}

#[test]
fn pins_exceed_the_limit_and_go_when_dropped() {
    let (backend, volumes) = volumes(2);
    let pins: Vec<_> =
        (1..=5).map(|id| volumes.pin(&volume(id), Access::ReadOnly).unwrap()).collect();
    assert_eq!(active(&backend), [1, 2, 3, 4, 5]);
    assert_eq!(volumes.status().len(), 5);
    drop(pins);
    eventually("two stay", || active(&backend).len() == 2);
    thread::sleep(Duration::from_millis(10));
    assert_eq!(active(&backend).len(), 2);
    backend.assert_sound();
}

#[test]
fn a_limit_of_zero_keeps_nothing_idle() {
    let (backend, volumes) = volumes(0);
    drop(volumes.pin(&volume(1), Access::ReadWrite).unwrap());
    eventually("it goes", || active(&backend).is_empty());
    backend.assert_sound();
}

#[test]
fn caches_are_told_before_a_deactivation() {
    struct Told(Mutex<Vec<VolumeId>>, Arc<Counting>);
    impl Cache for Told {
        fn drop_volume(&self, id: VolumeId) {
            assert!(self.1.active.lock().contains_key(&id), "told too late");
            self.0.lock().push(id);
        }
    }
    let (backend, volumes) = volumes(4);
    let told = Arc::new(Told(Mutex::default(), backend.clone()));
    volumes.register_cache(told.clone());
    drop(volumes.pin(&volume(1), Access::ReadOnly).unwrap());
    volumes.retire(VolumeId(1));
    eventually("it goes", || active(&backend).is_empty());
    assert_eq!(*told.0.lock(), [VolumeId(1)]);
}

#[test]
fn retire_waits_for_pins_and_gives_more_meanwhile() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    volumes.retire(VolumeId(1));
    let second = volumes.pinned(VolumeId(1)).unwrap();
    drop(pin);
    thread::sleep(Duration::from_millis(10));
    assert_eq!(active(&backend), [1]);
    drop(second);
    eventually("it goes", || active(&backend).is_empty());
    backend.assert_sound();
}

#[test]
fn a_pin_during_an_eviction_waits_and_activates_again() {
    let (backend, volumes) = volumes(4);
    drop(volumes.pin(&volume(1), Access::ReadOnly).unwrap());
    let hold = backend.hold.lock();
    volumes.retire(VolumeId(1));
    eventually("a worker begins", || backend.deactivating.load(Ordering::SeqCst) == 1);
    thread::scope(|scope| {
        let pinning = scope.spawn(|| volumes.pin(&volume(1), Access::ReadOnly).unwrap());
        assert!(!pinning.is_finished());
        drop(hold);
        let _pin = pinning.join().unwrap();
        assert_eq!(backend.activations.load(Ordering::SeqCst), 2);
    });
    backend.assert_sound();
}

#[test]
fn readers_use_what_is_activated_for_writing() {
    let (backend, volumes) = volumes(4);
    let writable = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    let reading = volumes.pin(&volume(1), Access::ReadOnly).unwrap();
    assert_eq!(backend.activations.load(Ordering::SeqCst), 1);
    drop((writable.writer().unwrap(), reading));
}

#[test]
fn writing_to_what_is_activated_for_reading_activates_anew_or_is_busy() {
    let (backend, volumes) = volumes(4);
    let reading = volumes.pin(&volume(1), Access::ReadOnly).unwrap();
    assert!(matches!(reading.writer(), Err(Error::ReadOnly(_))));
    assert!(matches!(volumes.pin(&volume(1), Access::ReadWrite), Err(Error::Busy(..))));
    drop(reading);
    let writing = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    writing.writer().unwrap();
    assert_eq!(backend.active.lock()[&VolumeId(1)], Access::ReadWrite);
    backend.assert_sound();
}
