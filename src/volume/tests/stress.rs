//! Everything at once.

use super::*;

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
                if let Ok(seal) = volumes.seal(&volume, Duration::from_millis(2))
                    && next(random).is_multiple_of(40)
                {
                    sealed[number as usize].store(true, Ordering::SeqCst);
                    seal.keep();
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
