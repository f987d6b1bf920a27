//! The scheduler's thread, and whoever asks for a run.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::policy::{End, Event, Policy, Settings, Time};
use super::report::{Report, Totals};
use super::{Collector, labels};
use crate::snapshot::{Change, Error, Result, Watcher, with_causes};
use crate::types::{self, LeaseId, Namespace, Publisher as _, Topic};

/// When the collector runs by itself.
pub(super) struct Scheduler {
    began: Instant,
    /// Held for moments.
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    policy: Policy,
    /// Where something has changed since the last run. `None`: anywhere, as after a start.
    touched: Option<BTreeSet<Namespace>>,
    /// When a hold ends that snapshots of a namespace have by their own labels.
    waking: HashMap<Namespace, SystemTime>,
    /// When leases end, so that no run has to read them all. One that was renewed or deleted since is still
    /// here: the store is asked when its time has come.
    ends: BTreeSet<(SystemTime, Namespace, LeaseId)>,
    /// Whether `ends` has the leases of before the start, too.
    knows_ends: bool,
    /// The thread that collects now: what it removes is no news to it.
    collecting: Option<ThreadId>,
    totals: Totals,
    stopping: bool,
}

impl Scheduler {
    pub(super) fn new(settings: Settings) -> Self {
        let state = State {
            policy: Policy::new(settings, Time::ZERO),
            touched: None,
            waking: HashMap::new(),
            ends: BTreeSet::new(),
            knows_ends: false,
            collecting: None,
            totals: Totals::default(),
            stopping: false,
        };
        Self {
            began: Instant::now(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            thread: Mutex::default(),
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    /// The scheduler's time of a moment of the wall clock, as the two stand to each other now.
    fn at(&self, time: SystemTime) -> Time {
        let ahead = time.duration_since(SystemTime::now()).unwrap_or_default();
        // Later than any daemon lives.
        self.now() + ahead.min(Duration::from_secs(1 << 32))
    }

    fn event(&self, ns: &Namespace, event: Event) {
        let now = self.now();
        let mut state = self.state.lock();
        if state.collecting == Some(std::thread::current().id()) {
            return;
        }
        if let Some(touched) = &mut state.touched {
            touched.insert(ns.clone());
        }
        let before = state.policy.wake();
        state.policy.event(event, now);
        // Most changes put off or bring on nothing: the thread sleeps on.
        if state.policy.wake() != before {
            self.changed.notify_all();
        }
    }
}

/// Hears of changes to snapshots. Holds the collector weakly: the snapshots hold it.
struct Listener(Weak<Collector>);

pub(super) fn listen(collector: &Arc<Collector>) {
    collector.snapshots().watch(Arc::new(Listener(Arc::downgrade(collector))));
}

impl Watcher for Listener {
    /// A changed label may have been what kept something, so it counts as a deletion.
    fn changed(&self, change: &Change) {
        let Some(collector) = self.0.upgrade() else { return };
        let (info, event) = match change {
            Change::Removed(info) | Change::Updated(info) => (info, Event::Deletion),
            Change::Prepared(info) | Change::Committed { info, .. } => (info, Event::Mutation),
        };
        if info.namespace != collector.snapshot_source().never {
            collector.scheduler.event(&info.namespace, event);
        }
    }
}

impl Collector {
    /// Runs by itself from now on, until [`Collector::stop`].
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let collector = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || {
                crate::sys::thread::step_back();
                collector.work();
            })
            .map_err(|error| {
                Error::FailedPrecondition(format!("starting the collector's thread: {error}"))
            })?;
        *self.scheduler.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends a run after the batch at hand, and the thread. Twice is fine.
    pub fn stop(&self) {
        self.scheduler.state.lock().stopping = true;
        self.scheduler.changed.notify_all();
        let thread = self.scheduler.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the collector's thread panicked");
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.scheduler.state.lock().stopping
    }

    /// Something in the namespace was let go that may have kept something else.
    pub fn freed(&self, ns: &Namespace) {
        self.scheduler.event(ns, Event::Deletion);
    }

    /// A lease ends then.
    pub(super) fn expires_at(&self, end: SystemTime, ns: &Namespace, lease: &LeaseId) {
        let at = self.scheduler.at(end);
        let mut state = self.scheduler.state.lock();
        state.ends.insert((end, ns.clone(), lease.clone()));
        state.policy.alarm(at);
        self.scheduler.changed.notify_all();
    }

    /// Snapshots of the namespace are held by their own labels until then.
    pub(super) fn wake_for(&self, ns: &Namespace, end: Option<SystemTime>) {
        let mut state = self.scheduler.state.lock();
        match end {
            Some(end) => state.waking.insert(ns.clone(), end),
            None => state.waking.remove(ns),
        };
    }

    /// Has it run soon, without waiting for it.
    pub fn ask(&self) {
        let now = self.scheduler.now();
        self.scheduler.state.lock().policy.event(Event::Asked, now);
        self.scheduler.changed.notify_all();
    }

    /// Runs now, over all namespaces, and waits for it. A dry run looks and marks in the same way,
    /// but changes nothing.
    pub fn collect(&self, dry: bool) -> Result<Report> {
        self.collect_in(None, dry)
    }

    /// [`Collector::collect`] in one namespace, `None`: in all.
    pub fn collect_in(&self, ns: Option<&Namespace>, dry: bool) -> Result<Report> {
        let _one = self.running.lock();
        if self.is_stopping() {
            return Err(Error::Stopping);
        }
        let scope = ns.map(|ns| BTreeSet::from([ns.clone()]));
        Ok(if dry { self.look(scope, true) } else { self.counted(scope) })
    }

    /// What all runs did so far.
    pub fn totals(&self) -> Totals {
        self.scheduler.state.lock().totals.clone()
    }

    fn work(&self) {
        while self.wait_for_turn() {
            let _one = self.running.lock();
            let scope = self.scheduler.state.lock().touched.replace(BTreeSet::new());
            self.counted(scope);
        }
    }

    /// Until a run is due; false: until the end.
    fn wait_for_turn(&self) -> bool {
        let mut state = self.scheduler.state.lock();
        loop {
            let now = self.scheduler.now();
            if state.stopping || state.policy.is_due(now) {
                return !state.stopping;
            }
            match state.policy.wake() {
                Some(wake) => {
                    self.scheduler.changed.wait_for(&mut state, wake.saturating_sub(now));
                }
                None => self.scheduler.changed.wait(&mut state),
            }
        }
    }

    /// A run that the scheduler and the statistics know of.
    fn counted(&self, scope: Option<BTreeSet<Namespace>>) -> Report {
        {
            let mut state = self.scheduler.state.lock();
            state.policy.begin();
            state.collecting = Some(std::thread::current().id());
        }
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
                touched.extend(report.stayed.iter().map(|item| item.namespace.clone()));
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
    fn look(&self, scope: Option<BTreeSet<Namespace>>, dry: bool) -> Report {
        let mut report = Report { dry, ..Report::default() };
        let _watch = self.snapshots().references().watch();
        self.sources().iter().for_each(|source| source.begin());
        let started = Instant::now();
        let found = self.namespaces_of(scope, &mut report);
        report.mark += started.elapsed();
        match found {
            Ok(namespaces) => {
                for ns in namespaces {
                    if let Err(error) = self.run_in(&ns, dry, &mut report) {
                        report.failed.push(format!("{ns}: {}", with_causes(&error)));
                    }
                }
            }
            Err(error) => report.failed.push(with_causes(&error)),
        }
        let waking = self.scheduler.state.lock().waking.values().min().copied();
        report.next_expiry = [report.next_expiry, waking].into_iter().flatten().min();
        report
    }

    /// Ends the leases that have expired; then where to look. Without a scope that is everywhere; with one, it
    /// costs nothing for what was not touched.
    fn namespaces_of(
        &self,
        scope: Option<BTreeSet<Namespace>>,
        report: &mut Report,
    ) -> Result<BTreeSet<Namespace>> {
        let now = SystemTime::now();
        self.learn_ends()?;
        let mut namespaces = match scope {
            Some(scope) => scope,
            None => self.namespaces()?.into_keys().collect(),
        };
        namespaces.extend(self.woken(now, report.dry));
        let due = self.due(now);
        for (_, ns, id) in &due {
            let ended = match report.dry {
                true => self.store().lease(ns, id)?.is_some_and(|l| labels::has_ended(&l, now)),
                false => self.end_lease(ns, id, now)?,
            };
            if ended {
                report.expired.push(format!("{ns}/{id}"));
                namespaces.insert(ns.clone());
            }
        }
        let mut state = self.scheduler.state.lock();
        if !report.dry {
            for looked_at in &due {
                state.ends.remove(looked_at);
            }
        }
        report.next_expiry = state.ends.iter().map(|(end, ..)| *end).find(|end| *end > now);
        Ok(namespaces)
    }

    /// Namespaces in which a hold has ended that snapshots had by their own labels.
    fn woken(&self, now: SystemTime, dry: bool) -> Vec<Namespace> {
        let mut state = self.scheduler.state.lock();
        let ended = state.waking.iter().filter(|(_, end)| **end <= now);
        let ended: Vec<Namespace> = ended.map(|(ns, _)| ns.clone()).collect();
        if !dry {
            for ns in &ended {
                state.waking.remove(ns);
            }
        }
        ended
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
