//! When the collector runs: containerd's settings with its names and defaults, in the table `[gc]`
//! of the file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::Span;

/// What one layer says; `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[group(id = "gc")]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct Settings {
    /// Most of the time that may go into collecting, 0 to 0.5 [default: 0.02]
    #[arg(long = "gc-pause-threshold", value_name = "SHARE", env = "THINFS_GC_PAUSE_THRESHOLD")]
    #[arg(hide_env_values = true, help_heading = HEADING)]
    pause_threshold: Option<Fraction>,
    /// Deletions after which to collect at once; 0: never [default: 0]
    #[arg(long = "gc-deletion-threshold", value_name = "N", env = "THINFS_GC_DELETION_THRESHOLD")]
    #[arg(hide_env_values = true, help_heading = HEADING)]
    deletion_threshold: Option<u32>,
    /// Other changes that call for a collection; 0: none do [default: 100]
    #[arg(long = "gc-mutation-threshold", value_name = "N", env = "THINFS_GC_MUTATION_THRESHOLD")]
    #[arg(hide_env_values = true, help_heading = HEADING)]
    mutation_threshold: Option<u32>,
    /// From what calls for a collection to its start [default: 0ms]
    #[arg(long = "gc-schedule-delay", value_name = "TIME", env = "THINFS_GC_SCHEDULE_DELAY")]
    #[arg(hide_env_values = true, help_heading = HEADING)]
    schedule_delay: Option<Span>,
    /// From the daemon's start to the first collection [default: 100ms]
    #[arg(long = "gc-startup-delay", value_name = "TIME", env = "THINFS_GC_STARTUP_DELAY")]
    #[arg(hide_env_values = true, help_heading = HEADING)]
    startup_delay: Option<Span>,
}

const HEADING: &str = "When to collect garbage";

impl Settings {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            pause_threshold: self.pause_threshold.or(below.pause_threshold),
            deletion_threshold: self.deletion_threshold.or(below.deletion_threshold),
            mutation_threshold: self.mutation_threshold.or(below.mutation_threshold),
            schedule_delay: self.schedule_delay.or(below.schedule_delay),
            startup_delay: self.startup_delay.or(below.startup_delay),
        }
    }
}

/// When the collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collecting {
    /// Most of the time that may go into collecting.
    pub pause_threshold: Fraction,
    /// Deletions after which to collect at once; 0: never.
    pub deletion_threshold: u32,
    /// Other changes that call for a collection; 0: none do.
    pub mutation_threshold: u32,
    /// From what calls for a collection to its start.
    pub schedule_delay: Duration,
    /// From the daemon's start to the first collection.
    pub startup_delay: Duration,
}

impl From<Settings> for Collecting {
    fn from(settings: Settings) -> Self {
        let span = |span: Option<Span>, default| span.map_or(default, |span| span.0);
        Self {
            pause_threshold: settings.pause_threshold.unwrap_or(Fraction(20_000)),
            deletion_threshold: settings.deletion_threshold.unwrap_or(0),
            mutation_threshold: settings.mutation_threshold.unwrap_or(100),
            schedule_delay: span(settings.schedule_delay, Duration::ZERO),
            startup_delay: span(settings.startup_delay, Duration::from_millis(100)),
        }
    }
}

/// A share of the time between 0 and a half, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Fraction {
    /// As a number.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    fn new(share: f64) -> Result<Self, String> {
        if (0.0..=0.5).contains(&share) {
            // Within 0 and 500,000.
            Ok(Self((share * 1e6).round() as u32))
        } else {
            Err(format!("{share} is not between 0 and 0.5"))
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text.parse().map_err(|_| format!("{text:?} is not a number"))?)
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
