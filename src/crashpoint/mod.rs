//! Crash points: named steps around which a test has the process killed.
//!
//! Every call that changes something which outlives the process (a device-mapper ioctl, a batch of
//! the store, a mount, a rename) runs inside [`around`], under a [`Step`] of its own. Two points
//! belong to a step, `NAME.before` and `NAME.after`. In an armed process the point that was asked
//! for kills it at once, as `kill -9` does: no destructor, no flush, no answer. Unarmed, a point
//! costs one relaxed load and a comparison.
//!
//! ```text
//! THINFS_CRASH_POINT=pool.create_snap.after:3 thinfs serve …      dies after the third snapshot
//! ```
//! `fuse-tests/crash/points.rs` kills a daemon at every point of [`Step::ALL`] and compares what the
//! next start makes of it; `fuse-tests/layers.rs` sees that no such call is made outside of
//! [`around`]. Any layer may name this module; it knows none.

mod step;

pub use step::Step;

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable that arms a point: its name, and after a colon which time it is reached
/// (the first, if nothing is said).
pub const VARIABLE: &str = "THINFS_CRASH_POINT";

/// The armed point, as [`code`] numbers it; 0: none.
static ARMED: AtomicU32 = AtomicU32::new(0);
/// How many times it is to be reached yet.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Before or after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// A value of [`VARIABLE`] that names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE} is {0:?}: it takes STEP.before or STEP.after, and which time, like `dm.load.before:2`"
)]
pub struct Unknown(String);

/// Does a step, with a point before and one after it.
#[inline]
pub fn around<T>(step: Step, work: impl FnOnce() -> T) -> T {
    reach(code(step, Side::Before));
    let done = work();
    reach(code(step, Side::After));
    done
}

/// Arms the point that [`VARIABLE`] names, and says which; `None` where it isn't set.
pub fn arm_from_environment() -> Result<Option<String>, Unknown> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let text = text.to_string_lossy().into_owned();
    let (point, time) = parse(&text).ok_or_else(|| Unknown(text.clone()))?;
    LEFT.store(time, Ordering::Relaxed);
    ARMED.store(point, Ordering::Release);
    Ok(Some(text))
}

/// The names of both points of every step.
pub fn names() -> impl Iterator<Item = String> {
    let sides = |step: &Step| [format!("{}.before", step.name()), format!("{}.after", step.name())];
    Step::ALL.iter().flat_map(sides)
}

/// Never 0.
#[inline]
const fn code(step: Step, side: Side) -> u32 {
    2 * step as u32 + 1 + side as u32
}

#[inline]
fn reach(point: u32) {
    if ARMED.load(Ordering::Relaxed) == point {
        hit();
    }
}

#[cold]
fn hit() {
    if LEFT.fetch_sub(1, Ordering::AcqRel) == 1 {
        // Not through the log: it might be writing in another thread, and be slow.
        let note = format!("thinfs: killed at its crash point, pid {},\n", std::process::id());
        let _ = std::io::stderr().write_all(note.as_bytes());
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// The code of a point, and at which time it is to be reached.
fn parse(text: &str) -> Option<(u32, u32)> {
    let (point, time) = match text.split_once(':') {
        Some((point, time)) => (point, time.parse().ok().filter(|&time| time > 0)?),
        None => (text, 1),
    };
    let (step, side) = point.rsplit_once('.')?;
    let side = match side {
        "before" => Side::Before,
        "after" => Side::After,
        _ => return None,
    };
    let step = Step::ALL.iter().find(|known| known.name() == step)?;
    Some((code(*step, side), time))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_and_a_code_of_its_own() {
        let names: Vec<_> = names().collect();
        let codes: HashSet<_> =
            names.iter().map(|name| parse(name).expect("its own name").0).collect();
        assert_eq!(codes.len(), names.len());
        assert_eq!(names.len(), 2 * Step::ALL.len());
        assert!(!codes.contains(&0), "0 means that nothing is armed");
    }

    #[test]
    fn a_point_is_written_with_or_without_its_time() {
        let first = code(Step::DmLoad, Side::Before);
        assert_eq!(parse("dm.load.before"), Some((first, 1)));
        assert_eq!(parse("dm.load.before:12"), Some((first, 12)));
        for wrong in ["", "dm.load", "dm.load.during", "dm.load.before:0", "dm.load.before:x"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn unarmed_a_step_is_just_done() {
        assert_eq!(around(Step::DmLoad, || 7), 7);
    }
}
