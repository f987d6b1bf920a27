//! Sealing, and who writes meanwhile.

use super::*;

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
    assert_eq!(error.to_string(), "volume 1 is in use: 1 file is open or mapped for writing");
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
