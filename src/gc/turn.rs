//! A turn of the collector: what it looks at, what it leaves to the next one, and who is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use parking_lot::MutexGuard;

use super::policy::End;
use super::report::{Report, Totals};
use super::source::Resource;
use super::suspects::{Scope, Suspects};
use super::{Collector, labels};
use crate::snapshot::{Error, Result, with_causes};
use crate::types::{self, LeaseId, Namespace, Publisher as _, Topic};

impl Collector {
    /// Runs now, over all namespaces, and waits for it. A dry run looks and marks in the same way,
    /// but changes nothing.
    pub fn collect(&self, dry: bool) -> Result<Report> {
        let _one = self.turn()?;
        Ok(if dry { self.look(None, true) } else { self.counted(true) })
    }

    /// Does now, and waits for it, what the scheduler would do next: looks at what may have become garbage since the
    /// last run.
    pub fn catch_up(&self) -> Result<Report> {
        let _one = self.turn()?;
        Ok(self.counted(false))
    }

    fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        let turn = self.running.lock();
        if self.is_stopping() { Err(Error::Stopping) } else { Ok(turn) }
    }

    /// What comes from here on is for the next run. In one step: what came between the two would be a suspect of a run
    /// that nothing calls for.
    fn begin(&self, everything: bool) -> Scope {
        let mut state = self.scheduler.state.lock();
        state.policy.begin();
        state.collecting = Some(std::thread::current().id());
        if everything { None } else { state.touched.replace(BTreeMap::new()) }
    }

    /// What all runs did so far.
    pub fn totals(&self) -> Totals {
        self.scheduler.state.lock().totals.clone()
    }

    /// A run that the scheduler and the statistics know of: over everything, or over what may have become garbage.
    pub(super) fn counted(&self, everything: bool) -> Report {
        let scope = self.begin(everything);
        let report = self.look(scope, false);
        let (now, at) =
            (self.scheduler.now(), report.next_expiry.map(|end| self.scheduler.at(end)));
        let mut state = self.scheduler.state.lock();
        state.collecting = None;
        let before = state.totals.error.take();
        state.totals.add(&report);
        let end = match (report.failed.is_empty(), report.stayed.is_empty()) {
            (false, _) => End::Failed,
            (true, false) => End::Busy,
            (true, true) => End::Clean,
        };
        state.policy.end(end, report.took(), now);
        match (end, &mut state.touched) {
            (End::Busy, Some(touched)) => {
                for item in &report.stayed {
                    let suspects = touched.entry(item.namespace.clone()).or_default();
                    suspects.add([item.resource.clone()]);
                }
            }
            (End::Failed, touched) => *touched = None,
            (End::Clean, _) | (End::Busy, None) => {}
        }
        at.into_iter().for_each(|at| state.policy.alarm(at));
        drop(state);
        tell(&report);
        events_of(&report, before.as_deref())
            .into_iter()
            .for_each(|event| self.store().publish(event));
        report
    }

    /// One run, in the namespaces of `scope` and those where something has ended. What goes wrong
    /// in one doesn't stop the others.
    fn look(&self, scope: Scope, dry: bool) -> Report {
        let mut report = Report { dry, ..Report::default() };
        // One moment for all of the run: what ends in the middle of it lasts to its end, and is for the next one.
        let now = SystemTime::now();
        let _watch = self.snapshots().references().watch();
        self.sources().iter().for_each(|source| source.begin());
        let started = Instant::now();
        let found = self.namespaces_of(scope, now, &mut report);
        report.mark += started.elapsed();
        match found {
            Ok(namespaces) => {
                for (ns, suspects) in namespaces {
                    if let Err(error) = self.run_in(&ns, &suspects, now, dry, &mut report) {
                        report.failed.push(format!("{ns}: {}", with_causes(&error)));
                    }
                }
            }
            Err(error) => report.failed.push(with_causes(&error)),
        }
        report.next_expiry = self.next_end(now);
        report
    }

    /// Ends the leases that have expired; then where to look, and at what. Without a scope that is everything
    /// everywhere; with one, it costs nothing for what was not touched.
    fn namespaces_of(
        &self,
        scope: Scope,
        now: SystemTime,
        report: &mut Report,
    ) -> Result<BTreeMap<Namespace, Suspects>> {
        self.learn_ends()?;
        let mut suspects = match scope {
            Some(scope) => scope,
            None => self.namespaces()?.into_keys().map(|ns| (ns, Suspects::Anything)).collect(),
        };
        let (ended, due) = (self.ended(now), self.due(now));
        for (_, ns, resource) in &ended {
            suspects.entry(ns.clone()).or_default().add([resource.clone()]);
        }
        for (_, ns, id) in &due {
            let held = match report.dry {
                true => self.held_if_ended(ns, id, now)?,
                false => self.end_lease(ns, id, now)?,
            };
            let Some(held) = held else { continue };
            report.expired.push(format!("{ns}/{id}"));
            suspects.entry(ns.clone()).or_default().add(held);
        }
        // A dry run leaves them to the next one that isn't.
        if !report.dry {
            let mut state = self.scheduler.state.lock();
            ended.iter().for_each(|seen_to| _ = state.holds.remove(seen_to));
            due.iter().for_each(|seen_to| _ = state.ends.remove(seen_to));
        }
        Ok(suspects)
    }

    /// Snapshots for which a hold has ended that they had by their own labels.
    fn ended(&self, now: SystemTime) -> Vec<(SystemTime, Namespace, Resource)> {
        let state = self.scheduler.state.lock();
        state.holds.iter().take_while(|(end, ..)| *end <= now).cloned().collect()
    }

    /// When the next lease or hold ends, of those that had not ended by then.
    fn next_end(&self, now: SystemTime) -> Option<SystemTime> {
        let state = self.scheduler.state.lock();
        let leases = state.ends.iter().map(|(end, ..)| *end).find(|end| *end > now);
        let holds = state.holds.iter().map(|(end, ..)| *end).find(|end| *end > now);
        [leases, holds].into_iter().flatten().min()
    }

    /// Once after the start: when the leases end that were made before it.
    fn learn_ends(&self) -> Result<()> {
        if self.scheduler.state.lock().knows_ends {
            return Ok(());
        }
        let mut ends = BTreeSet::new();
        for ns in self.namespaces()?.into_keys() {
            for lease in self.leases(&ns)? {
                ends.extend(labels::expires(&lease.labels).map(|end| (end, ns.clone(), lease.id)));
            }
        }
        let mut state = self.scheduler.state.lock();
        state.ends.append(&mut ends);
        state.knows_ends = true;
        Ok(())
    }

    /// Leases whose time may have come.
    fn due(&self, now: SystemTime) -> Vec<(SystemTime, Namespace, LeaseId)> {
        let state = self.scheduler.state.lock();
        state.ends.iter().take_while(|(end, ..)| *end <= now).cloned().collect()
    }
}

fn tell(report: &Report) {
    let (collected, stayed) = (report.collected.len(), report.stayed.len());
    if collected > 0 || !report.expired.is_empty() {
        let (mark, sweep) = (report.mark, report.sweep);
        tracing::info!(
            collected,
            stayed,
            expired = report.expired.len(),
            ?mark,
            ?sweep,
            "collected"
        );
    }
    for failure in &report.failed {
        tracing::error!("cannot collect: {failure}; will try again");
    }
}

/// What readers of events are told of a run. Each snapshot's removal has an event of its own; `before`: why the run
/// before failed, which is told once.
fn events_of(report: &Report, before: Option<&str>) -> Vec<types::Event> {
    let mut events = Vec::new();
    if !report.collected.is_empty() {
        let mut event = types::Event::new(Topic::GC_DONE)
            .with("stayed", report.stayed.len())
            .with("mark_us", report.mark.as_micros())
            .with("sweep_us", report.sweep.as_micros());
        for (kind, count) in report.collected_by_kind() {
            event = event.with(kind, count);
        }
        events.push(event);
    }
    if let Some(reason) = report.failed.first().filter(|reason| before != Some(reason.as_str())) {
        let event = types::Event::new(Topic::GC_FAIL);
        events.push(event.with("failed", report.failed.len()).with("reason", reason));
    }
    events
}
