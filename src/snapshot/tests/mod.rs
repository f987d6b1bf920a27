//! Tests of the rules, on real volumes and a real store.
//!
//! [`conformance::run`] holds what any backend must pass; the other files test what takes a faulty
//! backend, a faulty store or many threads.

pub(crate) mod conformance;
mod crashes;
mod faulty;
pub(crate) mod fixture;
mod model;
mod native;
mod parallel;
mod reaping;
mod repairing;
mod scale;
pub(crate) mod thin;
mod together;
mod watching;

use std::time::{Duration, Instant};

/// Waits for what happens in the background.
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
