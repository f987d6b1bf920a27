//! How fast the pool fills, and when it will be full at that pace: samples in, numbers out, no I/O.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(60);
/// Less says nothing.
const LEAST: Duration = Duration::from_secs(3);
/// At most one sample in this time.
const STEP: Duration = Duration::from_secs(1);
/// Nobody plans further ahead than a year.
const FAR: f64 = 365.0 * 86_400.0;

/// Bytes in use over the last minute.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, u64)>);

/// How fast something fills.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Pace {
    /// Bytes a second over the last minute; negative while it empties.
    pub(super) bytes_a_second: i64,
    /// When it will be full; `None`: not within a year.
    pub(super) full_in: Option<Duration>,
}

impl Samples {
    /// So much is in use now.
    pub(super) fn add(&mut self, now: Instant, used: u64) {
        match self.0.back_mut() {
            Some((at, last)) if now.duration_since(*at) < STEP => *last = used,
            _ => self.0.push_back((now, used)),
        }
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.0.pop_front();
        }
    }

    /// The pace of what was added, with so much `free` now.
    pub(super) fn pace(&self, free: u64) -> Pace {
        let (Some(&(began, before)), Some(&(ended, after))) = (self.0.front(), self.0.back())
        else {
            return Pace::default();
        };
        let elapsed = ended.duration_since(began);
        if elapsed < LEAST {
            return Pace::default();
        }
        let rate = (after as f64 - before as f64) / elapsed.as_secs_f64();
        let seconds = free as f64 / rate;
        let full_in = (rate >= 1.0 && seconds < FAR).then(|| Duration::from_secs_f64(seconds));
        Pace { bytes_a_second: rate as i64, full_in }
    }
}

/// In words for `status` and the log.
impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| match bytes {
            0..1024 => format!("{bytes} B/s"),
            1024..1_048_576 => format!("{} KiB/s", bytes >> 10),
            _ => format!("{:.1} MiB/s", bytes as f64 / 1_048_576.0),
        };
        match (self.bytes_a_second, self.full_in) {
            (0, _) => f.write_str("not at the moment"),
            (rate @ ..0, _) => write!(f, "emptying at {}", size(rate.unsigned_abs())),
            (rate, None) => f.write_str(&size(rate.unsigned_abs())),
            (rate, Some(left)) => {
                write!(f, "{}, full in about {}", size(rate.unsigned_abs()), roughly(left))
            }
        }
    }
}

fn roughly(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn filled(rate: i64, seconds: u64) -> Samples {
        let (start, mut samples) = (Instant::now(), Samples::default());
        for second in 0..=seconds {
            let used = (1000 * MIB as i64 + rate * second as i64) as u64;
            samples.add(start + Duration::from_secs(second), used);
        }
        samples
    }

    #[test]
    fn a_steady_writer_fills_it_when_the_arithmetic_says() {
        let pace = filled(2 * MIB as i64, 30).pace(600 * MIB);
        assert_eq!(pace.bytes_a_second, 2 * MIB as i64);
        assert_eq!(pace.full_in, Some(Duration::from_secs(300)));
        assert_eq!(pace.to_string(), "2.0 MiB/s, full in about 5 min");
    }

    #[test]
    fn only_the_last_minute_counts() {
        let mut samples = filled(0, 100);
        let start = samples.0.back().unwrap().0;
        for second in 1..=60 {
            samples.add(start + Duration::from_secs(second), (1000 + second) * MIB);
        }
        assert_eq!(samples.pace(0).bytes_a_second, MIB as i64);
        assert!(samples.0.len() <= 62);
    }

    #[test]
    fn what_empties_or_rests_will_not_be_full() {
        for (rate, words) in [(0, "not at the moment"), (-(MIB as i64), "emptying at 1.0 MiB/s")] {
            let pace = filled(rate, 10).pace(MIB);
            assert_eq!((pace.full_in, pace.to_string().as_str()), (None, words));
        }
        assert_eq!(filled(MIB as i64, 2).pace(MIB), Pace::default(), "too short a time to tell");
    }
}
