//! What a run did, and what all runs did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::source::{Kind, Resource};
use crate::types::Namespace;

/// One resource of a run, with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its namespace.
    pub namespace: Namespace,
    /// The resource.
    pub resource: Resource,
    /// Why it went, or why it didn't.
    pub why: String,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.namespace, self.resource, self.why)
    }
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Whether it changed nothing.
    pub dry: bool,
    /// Namespaces that were scanned.
    pub namespaces: usize,
    /// Resources that were scanned, by kind.
    pub scanned: BTreeMap<Kind, usize>,
    /// What went, or would go.
    pub collected: Vec<Item>,
    /// Garbage that stayed: it was busy, or mounted, or something had come to need it. Looked at again.
    pub stayed: Vec<Item>,
    /// What couldn't be removed, or not even scanned. Tried again.
    pub failed: Vec<String>,
    /// Leases that had expired, `namespace/id`.
    pub expired: Vec<String>,
    /// Time spent on finding garbage.
    pub mark: Duration,
    /// Time spent on removing it.
    pub sweep: Duration,
    /// When the next lease or hold expires.
    pub(super) next_expiry: Option<SystemTime>,
}

impl Report {
    /// How long the run took.
    pub fn took(&self) -> Duration {
        self.mark + self.sweep
    }

    /// How many went, by kind.
    pub fn collected_by_kind(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for item in &self.collected {
            *counts.entry(item.resource.kind).or_default() += 1;
        }
        counts
    }
}

/// All runs since the daemon's start.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Runs, failed ones included.
    pub runs: u64,
    /// Runs that left something undone by a failure.
    pub failed: u64,
    /// What went, by kind.
    pub collected: BTreeMap<Kind, u64>,
    /// Leases that expired.
    pub expired: u64,
    /// Time spent on finding garbage.
    pub mark: Duration,
    /// Time spent on removing it.
    pub sweep: Duration,
    /// The longest run.
    pub longest: Duration,
    /// When the last run ended.
    pub last: Option<SystemTime>,
    /// How long the last run spent on finding garbage, and on removing it.
    pub last_took: (Duration, Duration),
    /// How many garbage resources the last run left because they were busy.
    pub stayed: u64,
    /// Why the last run failed, if it did.
    pub error: Option<String>,
}

impl Totals {
    pub(super) fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(!report.failed.is_empty());
        for (kind, count) in report.collected_by_kind() {
            *self.collected.entry(kind).or_default() += count;
        }
        self.expired += report.expired.len() as u64;
        self.mark += report.mark;
        self.sweep += report.sweep;
        self.longest = self.longest.max(report.took());
        self.last = Some(SystemTime::now());
        self.last_took = (report.mark, report.sweep);
        self.stayed = report.stayed.len() as u64;
        self.error = report.failed.first().cloned();
    }
}
