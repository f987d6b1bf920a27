//! The scheduler's thread, and whoever asks for a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::Collector;
use super::policy::{Event, Policy, Settings, Time};
use super::report::Totals;
use super::source::Resource;
use super::suspects::{Scope, Suspects};
use crate::snapshot::{Error, Result};
use crate::types::{LeaseId, Namespace};

/// When the collector runs by itself.
pub(super) struct Scheduler {
    began: Instant,
    /// Held for moments.
    pub(super) state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct State {
    pub(super) policy: Policy,
    /// What may have become garbage since the last run. `None`: anything anywhere, as after a start.
    pub(super) touched: Scope,
    /// When holds end that snapshots have by their own labels. One that was changed since is still here: it is
    /// looked at when its time has come.
    pub(super) holds: BTreeSet<(SystemTime, Namespace, Resource)>,
    /// When leases end, so that no run has to read them all. One that was renewed or deleted since is still
    /// here: the store is asked when its time has come.
    pub(super) ends: BTreeSet<(SystemTime, Namespace, LeaseId)>,
    /// Whether `ends` has the leases of before the start, too.
    pub(super) knows_ends: bool,
    /// The thread that collects now: what it removes is no news to it.
    pub(super) collecting: Option<ThreadId>,
    pub(super) totals: Totals,
    stopping: bool,
}

impl Scheduler {
    pub(super) fn new(settings: Settings) -> Self {
        let state = State {
            policy: Policy::new(settings, Time::ZERO),
            touched: None,
            holds: BTreeSet::new(),
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

    pub(super) fn now(&self) -> Time {
        self.began.elapsed()
    }

    /// The scheduler's time of a moment of the wall clock, as the two stand to each other now.
    pub(super) fn at(&self, time: SystemTime) -> Time {
        let ahead = time.duration_since(SystemTime::now()).unwrap_or_default();
        // Later than any daemon lives.
        self.now() + ahead.min(Duration::from_secs(1 << 32))
    }

    /// Something has happened that may have made garbage of these; `None`: of anything in the namespace.
    pub(super) fn event(
        &self,
        ns: &Namespace,
        event: Event,
        suspects: Option<impl IntoIterator<Item = Resource>>,
    ) {
        let now = self.now();
        let mut state = self.state.lock();
        if state.collecting == Some(std::thread::current().id()) {
            return;
        }
        if let Some(touched) = &mut state.touched {
            let before = touched.entry(ns.clone()).or_default();
            match suspects {
                Some(these) => before.add(these),
                None => *before = Suspects::Anything,
            }
        }
        let before = state.policy.wake();
        state.policy.event(event, now);
        // Most changes put off or bring on nothing: the thread sleeps on.
        if state.policy.wake() != before {
            self.changed.notify_all();
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

    /// Something in the namespace was let go that may have kept anything.
    pub fn freed(&self, ns: &Namespace) {
        self.scheduler.event(ns, Event::Deletion, None::<[Resource; 0]>);
    }

    /// These were let go.
    pub(super) fn freed_these(&self, ns: &Namespace, these: impl IntoIterator<Item = Resource>) {
        self.scheduler.event(ns, Event::Deletion, Some(these));
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
    pub(super) fn held_until(
        &self,
        ns: &Namespace,
        ends: impl IntoIterator<Item = (SystemTime, Resource)>,
    ) {
        let mut state = self.scheduler.state.lock();
        let before = state.holds.first().map(|(end, ..)| *end);
        state.holds.extend(ends.into_iter().map(|(end, resource)| (end, ns.clone(), resource)));
        let first =
            state.holds.first().map(|(end, ..)| *end).filter(|first| Some(*first) != before);
        if let Some(first) = first {
            state.policy.alarm(self.scheduler.at(first));
            self.scheduler.changed.notify_all();
        }
    }

    /// Has it run soon, without waiting for it.
    pub fn ask(&self) {
        let now = self.scheduler.now();
        self.scheduler.state.lock().policy.event(Event::Asked, now);
        self.scheduler.changed.notify_all();
    }

    fn work(&self) {
        while self.wait_for_turn() {
            let _one = self.running.lock();
            self.counted(false);
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
}
