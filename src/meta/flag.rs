//! A flag that is raised once, and that any number of threads can wait for: who raises it makes one system call,
//! and none where nobody sleeps.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// Down, and nobody sleeps.
const DOWN: u32 = 0;
/// Down, and somebody sleeps, or is about to.
const AWAITED: u32 = 1;
const UP: u32 = 2;

/// Raised once, never lowered.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicU32);

impl Flag {
    /// What was done before is seen by whoever sees the flag.
    pub(super) fn raise(&self) {
        if self.0.swap(UP, Ordering::AcqRel) == AWAITED {
            // Fails for an address that isn't one, only.
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }

    pub(super) fn wait(&self) {
        loop {
            let before =
                self.0.compare_exchange(DOWN, AWAITED, Ordering::Acquire, Ordering::Acquire);
            if before == Err(UP) {
                return;
            }
            // Returns for a signal, too, and at once if the flag has been raised meanwhile.
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, AWAITED, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_waits_sees_what_was_done_before_it_was_raised() {
        for _ in 0..200 {
            let (flag, done) = (Flag::default(), AtomicU32::new(0));
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| {
                        flag.wait();
                        assert_eq!(done.load(Ordering::Relaxed), 7);
                    });
                }
                done.store(7, Ordering::Relaxed);
                flag.raise();
            });
            flag.wait(); // who comes later doesn't wait
        }
    }
}
