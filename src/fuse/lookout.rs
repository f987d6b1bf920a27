//! Looking out for the next request before going to sleep.
//!
//! A program waits for each answer before it asks again, so while one is busy the next request comes a few microseconds
//! after an answer. To be woken on another processor takes longer than that (about 20 µs on a virtual machine, of a
//! request's 46). So one thread at a time looks for a request, for a moment, instead of sleeping at once. Where requests
//! don't come that soon it gives up, and tries again only now and then; where there is one processor only, never: it would
//! keep it from whoever is to ask.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::proto::Device;
use crate::sys::poll::readable;

/// How long it looks.
const MOMENT: Duration = Duration::from_micros(50);
/// At most so many sleeps in a row go without a look.
const MOST_SKIPPED: u32 = 255;

/// Whether somebody looks, and whether it has been worth it.
#[derive(Debug, Default)]
pub struct Lookout {
    off: bool,
    taken: AtomicBool,
    /// How many sleeps go without a look after one in vain.
    pause: AtomicU32,
    skipped: AtomicU32,
}

impl Lookout {
    /// For this machine.
    pub fn new() -> Self {
        let alone =
            std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 2);
        Self { off: alone, ..Self::default() }
    }

    /// Looks until there is a request (which another thread may take) or the moment is over.
    pub fn look(&self, device: &Device) {
        if self.off || self.taken.swap(true, Relaxed) {
            return;
        }
        if self.is_due() {
            let until = Instant::now() + MOMENT;
            let found = loop {
                match readable([device.as_fd()], Duration::ZERO) {
                    Ok([false]) if Instant::now() < until => {}
                    found => break found.is_ok_and(|[found]| found),
                }
            };
            self.learn(found);
        }
        self.taken.store(false, Relaxed);
    }

    fn is_due(&self) -> bool {
        self.skipped.fetch_add(1, Relaxed) >= self.pause.load(Relaxed)
    }

    fn learn(&self, found: bool) {
        let pause = if found { 0 } else { (self.pause.load(Relaxed) * 2 + 1).min(MOST_SKIPPED) };
        self.pause.store(pause, Relaxed);
        self.skipped.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_vain_get_rarer_and_one_that_finds_something_brings_them_back() {
        let lookout = Lookout::default();
        let looks = |sleeps: u32, found: bool| {
            let look = |_: &u32| {
                let due = lookout.is_due();
                if due {
                    lookout.learn(found);
                }
                due
            };
            (0..sleeps).filter(look).count()
        };
        assert_eq!(looks(100, true), 100);
        assert!(looks(10_000, false) < 50);
        assert!(looks(256, true) > 0, "one is due");
        assert_eq!(looks(100, true), 100);
    }
}
