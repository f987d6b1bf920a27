use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::types::{Backing, Usage, Volume, VolumeId, VolumeState};

const NO_PATIENCE: Duration = Duration::from_millis(20);

/// Keeps books of activations, and panics where the contract is broken.
#[derive(Debug, Default)]
struct Counting {
    active: Mutex<HashMap<VolumeId, Access>>,
    activations: AtomicUsize,
    deactivations: AtomicUsize,
    seals: AtomicUsize,
    /// How long activating and deactivating take.
    pause: Duration,
    fail_next_activation: AtomicBool,
    fail_seal: AtomicBool,
    fail_deactivation: AtomicBool,
    can_unseal: bool,
    stopped: AtomicBool,
    /// Pins that the test holds, by volume: a deactivation with any is an error.
    pinned: Mutex<HashMap<VolumeId, usize>>,
    broken: Mutex<Vec<String>>,
}

impl Counting {
    fn blame(&self, what: String) {
        self.broken.lock().push(what);
    }

    fn assert_sound(&self) {
        assert_eq!(*self.broken.lock(), [""; 0]);
    }

    fn error(&self) -> Error {
        Error::NoSpace("as the test wants it".into())
    }
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }
    fn create(&self, id: VolumeId, _: Option<&Volume>, _: Option<u64>) -> Result<Volume> {
        Ok(volume(id.0))
    }
    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        if self.fail_next_activation.swap(false, Ordering::SeqCst) {
            return Err(self.error());
        }
        if self.active.lock().insert(volume.id, access).is_some() {
            self.blame(format!("{} activated twice", volume.id));
        }
        thread::sleep(self.pause);
        self.activations.fetch_add(1, Ordering::SeqCst);
        Ok(Mounted { root: std::fs::File::open("/").unwrap().into(), access })
    }
    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        self.seals.fetch_add(1, Ordering::SeqCst);
        if self.fail_seal.load(Ordering::SeqCst) {
            return Err(self.error());
        }
        self.active.lock().insert(volume.id, Access::ReadOnly);
        mounted.access = Access::ReadOnly;
        Ok(())
    }
    fn unseal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        if !self.can_unseal {
            return Err(Error::ReadOnly(volume.id));
        }
        self.active.lock().insert(volume.id, Access::ReadWrite);
        mounted.access = Access::ReadWrite;
        Ok(())
    }
    fn flush(&self, _: &Volume, _: &Mounted) -> Result<()> {
        Ok(())
    }
    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()> {
        if self.pinned.lock().get(&volume.id).is_some_and(|&pins| pins > 0) {
            self.blame(format!("{} deactivated while pinned", volume.id));
        }
        thread::sleep(self.pause);
        drop(mounted);
        if self.active.lock().remove(&volume.id).is_none() {
            self.blame(format!("{} deactivated but not active", volume.id));
        }
        self.deactivations.fetch_add(1, Ordering::SeqCst);
        if self.fail_deactivation.swap(false, Ordering::SeqCst) {
            Err(self.error())
        } else {
            Ok(())
        }
    }
    fn destroy(&self, _: &Volume) -> Result<()> {
        Ok(())
    }
    fn usage(
        &self,
        _: &Volume,
        _: Option<&Volume>,
        mounted: Option<&Mounted>,
        _: &AtomicBool,
    ) -> Result<Usage> {
        Ok(Usage { size: 0, inodes: u64::from(mounted.is_some()) })
    }
    fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity::default())
    }
    fn reconcile(&self, _: &[Volume]) -> Result<Reconciled> {
        Ok(Reconciled::default())
    }
    fn check(&self, _: &[Volume]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn describe(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn stop(&self) -> Result<()> {
        if !self.active.lock().is_empty() {
            self.blame("stopped with active volumes".into());
        }
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn volume(id: u32) -> Volume {
    let id = VolumeId(id);
    Volume { id, state: VolumeState::Live, origin: None, size: 0, backing: Backing::Native }
}

fn volumes(limit: usize) -> (Arc<Counting>, Arc<Volumes>) {
    with_backend(limit, Counting::default())
}

fn with_backend(limit: usize, backend: Counting) -> (Arc<Counting>, Arc<Volumes>) {
    let backend = Arc::new(backend);
    (backend.clone(), Volumes::new(backend, limit))
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn active(backend: &Counting) -> Vec<u32> {
    let mut ids: Vec<_> = backend.active.lock().keys().map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

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
    let pause = Duration::from_millis(100);
    let (backend, volumes) = with_backend(4, Counting { pause, ..Default::default() });
    drop(volumes.pin(&volume(1), Access::ReadOnly).unwrap());
    volumes.retire(VolumeId(1));
    thread::sleep(Duration::from_millis(30));
    let _pin = volumes.pin(&volume(1), Access::ReadOnly).unwrap();
    assert_eq!(backend.activations.load(Ordering::SeqCst), 2);
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

#[test]
fn a_kept_seal_ends_writing_for_ever() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    drop(pin.writer().unwrap());
    volumes.seal(&volume(1), NO_PATIENCE).unwrap().keep();
    assert!(matches!(pin.writer(), Err(Error::ReadOnly(_))));
    assert!(matches!(volumes.pin(&volume(1), Access::ReadWrite), Err(Error::ReadOnly(_))));
    assert_eq!(volumes.status()[0].access, Access::ReadOnly);
    drop(pin);
    eventually("it goes", || active(&backend).is_empty());
    assert!(matches!(volumes.pin(&volume(1), Access::ReadWrite), Err(Error::ReadOnly(_))));
    assert!(matches!(volumes.seal(&volume(1), NO_PATIENCE), Err(Error::ReadOnly(_))));
    volumes.pin(&volume(1), Access::ReadOnly).unwrap();
    backend.assert_sound();
}

#[test]
fn a_second_seal_of_a_pinned_sealed_volume_undoes_nothing() {
    let (_backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    volumes.seal(&volume(1), NO_PATIENCE).unwrap().keep();
    assert!(matches!(volumes.seal(&volume(1), NO_PATIENCE), Err(Error::ReadOnly(_))));
    assert!(matches!(pin.writer(), Err(Error::ReadOnly(_))));
}

#[test]
fn a_volume_that_is_not_activated_is_flushed_by_a_seal_too() {
    let (backend, volumes) = volumes(4);
    volumes.seal(&volume(1), NO_PATIENCE).unwrap().keep();
    assert_eq!(backend.seals.load(Ordering::SeqCst), 1);
    eventually("it goes", || active(&backend).is_empty());
}

#[test]
fn a_seal_is_busy_while_a_writer_stays_and_writing_goes_on() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    let writer = pin.writer().unwrap();
    let error = volumes.seal(&volume(1), NO_PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "volume 1 is in use: 1 writer hasn't finished");
    assert_eq!(volumes.status()[0].writers, 1);
    drop((pin.writer().unwrap(), writer));
    assert_eq!(backend.seals.load(Ordering::SeqCst), 0);
    volumes.seal(&volume(1), NO_PATIENCE).unwrap().keep();
}

#[test]
fn a_seal_waits_for_writers_that_finish() {
    let (_backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    let writer = pin.writer().unwrap();
    thread::scope(|scope| {
        let sealing = scope.spawn(|| volumes.seal(&volume(1), Duration::from_secs(20)));
        thread::sleep(Duration::from_millis(30));
        // A handle may be split while the seal waits.
        let clone = writer.clone();
        drop(writer);
        thread::sleep(Duration::from_millis(30));
        assert!(!sealing.is_finished());
        drop(clone);
        sealing.join().unwrap().unwrap().keep();
    });
}

/// The outcome isn't known yet: failing a write because of a commit that then fails itself would be
/// an error for nothing.
#[test]
fn a_write_during_a_seal_waits_for_its_outcome() {
    for keep in [true, false] {
        let (_backend, volumes) =
            with_backend(4, Counting { can_unseal: true, ..Default::default() });
        let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
        let seal = volumes.seal(&volume(1), NO_PATIENCE).unwrap();
        thread::scope(|scope| {
            let writing = scope.spawn(|| pin.writer().map(drop));
            thread::sleep(Duration::from_millis(30));
            assert!(!writing.is_finished());
            if keep {
                seal.keep()
            } else {
                drop(seal)
            }
            assert_eq!(writing.join().unwrap().is_err(), keep);
        });
    }
}

#[test]
fn two_seals_at_once_are_one() {
    let (_backend, volumes) = volumes(4);
    let first = volumes.seal(&volume(1), NO_PATIENCE).unwrap();
    let error = volumes.seal(&volume(1), NO_PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "volume 1 is in use: it is being committed");
    first.keep();
}

#[test]
fn a_dropped_seal_is_undone_in_place_or_by_a_new_activation() {
    for can_unseal in [true, false] {
        let (backend, volumes) = with_backend(4, Counting { can_unseal, ..Default::default() });
        let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
        drop(volumes.seal(&volume(1), NO_PATIENCE).unwrap());
        assert_eq!(pin.writer().is_ok(), can_unseal);
        drop(pin);
        let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
        pin.writer().unwrap();
        assert_eq!(backend.active.lock()[&VolumeId(1)], Access::ReadWrite);
        backend.assert_sound();
    }
}

#[test]
fn a_failed_seal_lets_writing_go_on() {
    let (backend, volumes) = volumes(4);
    let pin = volumes.pin(&volume(1), Access::ReadWrite).unwrap();
    backend.fail_seal.store(true, Ordering::SeqCst);
    assert!(matches!(volumes.seal(&volume(1), NO_PATIENCE), Err(Error::NoSpace(_))));
    pin.writer().unwrap();
}

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

#[test]
fn usage_uses_an_activation_and_makes_none() {
    let pause = Duration::from_millis(300);
    let (backend, volumes) = with_backend(4, Counting { pause, ..Default::default() });
    let usage = || volumes.usage(&volume(1), None, &AtomicBool::new(false)).unwrap().inodes;
    assert_eq!(usage(), 0);
    thread::scope(|scope| {
        let pinning = scope.spawn(|| volumes.pin(&volume(1), Access::ReadOnly).unwrap());
        eventually("activating", || !active(&backend).is_empty());
        assert_eq!(usage(), 0, "not activated yet");
        assert!(!pinning.is_finished(), "it waited for the activation");
        let _pin = pinning.join().unwrap();
        assert_eq!(usage(), 1);
    });
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

/// A number that anybody could have drawn: xorshift.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Threads that pin, unpin, write, seal, retire and close at random. The backend's books and the
/// pins that are held must agree at every moment.
#[test]
fn stress_never_activates_twice_nor_deactivates_what_is_pinned() {
    const THREADS: u64 = 8;
    const IDS: u64 = 12;
    let pause = Duration::from_micros(200);
    let (backend, volumes) =
        with_backend(3, Counting { pause, can_unseal: true, ..Default::default() });
    let sealed: [AtomicBool; IDS as usize] = Default::default();
    let deadline = Instant::now() + Duration::from_secs(3);
    let round = |random: &mut u64| {
        let number = next(random) % IDS;
        let volume = volume(number as u32 + 1);
        let access =
            if next(random).is_multiple_of(3) { Access::ReadOnly } else { Access::ReadWrite };
        let pin = match next(random) % 3 {
            0 => volumes.pinned(volume.id),
            _ => match volumes.pin(&volume, access) {
                Ok(pin) => Some(pin),
                Err(Error::Busy(..) | Error::ReadOnly(_) | Error::Missing(_)) => None,
                Err(error) => panic!("{error}"),
            },
        };
        if let Some(pin) = pin {
            // Counted while the pin is held for sure.
            *backend.pinned.lock().entry(volume.id).or_default() += 1;
            if let Ok(writer) = pin.writer() {
                if backend.active.lock().get(&volume.id) != Some(&Access::ReadWrite) {
                    backend.blame(format!("{} written while not writable", volume.id));
                }
                if sealed[number as usize].load(Ordering::SeqCst) {
                    backend.blame(format!("{} written after a kept seal", volume.id));
                }
                thread::yield_now();
                drop(writer);
            }
            *backend.pinned.lock().entry(volume.id).or_default() -= 1;
        }
        match next(random) % 60 {
            0..8 => volumes.retire(volume.id),
            8..14 => {
                if let Ok(seal) = volumes.seal(&volume, Duration::from_millis(2)) {
                    if next(random).is_multiple_of(40) {
                        sealed[number as usize].store(true, Ordering::SeqCst);
                        seal.keep();
                    }
                }
            }
            14 if number == 0 => drop(volumes.try_close(&volume).unwrap()),
            _ => {}
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let round = &round;
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15 ^ (thread + 1);
                while Instant::now() < deadline {
                    round(&mut random);
                }
            });
        }
    });
    volumes.stop().unwrap();
    backend.assert_sound();
    let (up, down) = (&backend.activations, &backend.deactivations);
    assert_eq!(up.load(Ordering::SeqCst), down.load(Ordering::SeqCst));
    assert!(up.load(Ordering::SeqCst) > 100, "{up:?} activations aren't much of a stress");
    assert!(active(&backend).is_empty());
}
