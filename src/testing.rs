//! Random tests start from a number and do the same again, so that a run that has passed passes again, and a failure
//! can be looked at. The end-to-end tests share this file.
//!
//! `THINFS_TEST_SEED` is the number (1 unless set), `THINFS_TEST_TIMES` by how much to multiply the cases (1).
//! `scripts/test explore` sets both.

use proptest::test_runner::{Config, RngSeed};

/// What every random test starts from.
pub fn seed() -> u64 {
    number("THINFS_TEST_SEED").unwrap_or(1)
}

/// How often more than usual.
pub fn times() -> u32 {
    number("THINFS_TEST_TIMES").unwrap_or(1)
}

/// A test of `cases` random values; a failed one is made smaller in at most `shrinks` steps. Reports the whole value,
/// so nothing is kept in files.
pub fn random(cases: u32, shrinks: u32) -> Config {
    Config {
        cases: cases * times(),
        max_shrink_iters: shrinks,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..Config::default()
    }
}

#[track_caller]
fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: not a number")))
}
