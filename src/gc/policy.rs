//! When to collect: containerd's scheduler as a pure function of the time.
//!
//! It differs from containerd's in two things. It doesn't wake up to find that there is nothing to
//! do: a run that isn't needed when its time has come waits for the event that makes it so. And it
//! knows when leases expire.

use std::time::Duration;

/// Since some moment in the past; only goes up.
pub(super) type Time = Duration;

/// A run counts as at least this long, lest quick ones follow each other at once.
const LEAST_RUN: Duration = Duration::from_millis(5);
/// Between two runs before the first one's length is known, and all runs if there is no pause
/// threshold.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer to wait after a failed run.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Between runs for what was busy: half of the first wait (each is twice the last), and the longest.
const BUSY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// containerd's settings (its `io.containerd.gc.v1.scheduler`), with its defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The most of the time that may be spent collecting, over many runs: 0.0 (a run a second) to
    /// 0.5.
    pub pause_threshold: f64,
    /// After how many deletions to collect at once, whatever the pause threshold says; 0: never.
    pub deletion_threshold: u32,
    /// How many changes that delete nothing call for a run; 0: none ever do.
    pub mutation_threshold: u32,
    /// From the event that calls for a run to the run.
    pub schedule_delay: Duration,
    /// From the start to the first run; 0: the first event calls for it.
    pub startup_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Something was removed, so what it referred to may be garbage.
    Deletion,
    /// Something changed otherwise.
    Mutation,
    /// Somebody asks for a run.
    Asked,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All garbage is gone.
    Clean,
    /// Some garbage was busy.
    Busy,
    /// Something couldn't be removed or read.
    Failed,
}

/// The scheduler's state.
#[derive(Debug)]
pub(super) struct Policy {
    settings: Settings,
    /// The earliest time for the next run, should it be needed.
    next: Option<Time>,
    /// When something ends that holds resources, or busy ones are to be looked at again.
    alarm: Option<Time>,
    ran: bool,
    interval: Duration,
    spent: Duration,
    runs: u32,
    asked: bool,
    failed: bool,
    deletions: u32,
    mutations: u32,
    busy: u32,
}

impl Policy {
    pub(super) fn new(settings: Settings, now: Time) -> Self {
        let delayed = !settings.startup_delay.is_zero();
        Self {
            settings,
            next: delayed.then(|| now + settings.startup_delay),
            alarm: None,
            ran: false,
            interval: FIRST_INTERVAL,
            spent: Duration::ZERO,
            runs: 0,
            asked: false,
            failed: false,
            deletions: 0,
            mutations: 0,
            busy: 0,
        }
    }

    /// Something has happened.
    pub(super) fn event(&mut self, event: Event, now: Time) {
        match event {
            Event::Deletion => {
                self.deletions = self.deletions.saturating_add(1);
                self.mutations = self.mutations.saturating_add(1);
            }
            Event::Mutation => self.mutations = self.mutations.saturating_add(1),
            Event::Asked => self.asked = true,
        }
        let many = self.settings.deletion_threshold;
        let at_once = self.asked || (many > 0 && self.deletions >= many);
        let first = self.next.is_none() && self.is_called_for();
        let soon = now + self.settings.schedule_delay;
        if (at_once || first) && self.next.is_none_or(|next| next > soon) {
            self.next = Some(soon);
        }
    }

    /// A run is needed at this time, whatever happens.
    pub(super) fn alarm(&mut self, at: Time) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }

    /// When to look again; `None`: at the next event.
    pub(super) fn wake(&self) -> Option<Time> {
        let next = self.next.filter(|_| !self.ran || self.is_called_for());
        [next, self.alarm].into_iter().flatten().min()
    }

    /// Whether a run is due.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.wake().is_some_and(|wake| wake <= now)
    }

    /// A run begins: it sees all that has happened so far.
    pub(super) fn begin(&mut self) {
        (self.asked, self.failed, self.deletions, self.mutations) = (false, false, 0, 0);
        self.alarm = None;
    }

    /// A run that took so long has ended. The next one comes after an interval that keeps to the
    /// pause threshold on average.
    pub(super) fn end(&mut self, end: End, took: Duration, now: Time) {
        self.ran = true;
        if end == End::Failed {
            self.failed = true;
            self.next = Some(now + self.interval + AFTER_FAILURE);
            return;
        }
        self.spent += took;
        self.runs += 1;
        let threshold = self.settings.pause_threshold;
        if threshold > 0.0 {
            let average = (self.spent / self.runs).max(LEAST_RUN);
            self.interval = average.div_f64(threshold) - average;
        }
        self.next = Some(now + self.interval);
        self.busy = if end == End::Busy { self.busy + 1 } else { 0 };
        if end == End::Busy {
            let (first, most) = BUSY;
            self.alarm(now + first.saturating_mul(1 << self.busy.min(10)).min(most));
        }
    }

    fn is_called_for(&self) -> bool {
        let Settings { mutation_threshold: many, .. } = self.settings;
        self.asked || self.failed || self.deletions > 0 || (many > 0 && self.mutations >= many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn policy(change: impl FnOnce(&mut Settings)) -> Policy {
        let mut settings = Settings::default();
        change(&mut settings);
        Policy::new(settings, Time::ZERO)
    }

    /// Past its first run, of 10 ms, which ended at 1 s.
    fn settled(change: impl FnOnce(&mut Settings)) -> Policy {
        let mut policy = policy(change);
        policy.begin();
        policy.end(End::Clean, 10 * MS, 1000 * MS);
        policy
    }

    #[test]
    fn the_first_run_comes_after_the_startup_delay_called_for_or_not() {
        let policy = policy(|_| {});
        assert!(!policy.is_due(99 * MS));
        assert!(policy.is_due(100 * MS));
    }

    #[test]
    fn without_a_startup_delay_the_first_deletion_calls_for_the_first_run() {
        let mut policy = policy(|s| (s.startup_delay, s.schedule_delay) = (Duration::ZERO, 7 * MS));
        assert_eq!(policy.wake(), None);
        policy.event(Event::Mutation, 5 * MS);
        assert_eq!(policy.wake(), None);
        policy.event(Event::Deletion, 6 * MS);
        assert_eq!(policy.wake(), Some(13 * MS));
    }

    #[test]
    fn the_interval_keeps_to_the_pause_threshold_and_to_five_milliseconds() {
        // (length of the run, interval after it): average / 0.02 - average
        for (took, interval) in [(10, 490), (1, 245), (100, 4900)] {
            let mut policy = policy(|_| {});
            policy.begin();
            policy.end(End::Clean, took * MS, 1000 * MS);
            policy.event(Event::Deletion, 1001 * MS);
            assert_eq!(policy.wake(), Some((1000 + interval) * MS), "after {took} ms");
        }
        let mut policy = settled(|s| s.pause_threshold = 0.5);
        policy.begin();
        policy.end(End::Clean, 30 * MS, 2000 * MS);
        policy.event(Event::Deletion, 2001 * MS);
        assert_eq!(policy.wake(), Some(2020 * MS), "an average of 20 ms, half of the time");
    }

    #[test]
    fn nothing_happens_until_something_is_deleted_or_much_has_changed() {
        let mut policy = settled(|_| {});
        assert_eq!(policy.wake(), None);
        for _ in 0..99 {
            policy.event(Event::Mutation, 1100 * MS);
        }
        assert_eq!(policy.wake(), None);
        policy.event(Event::Mutation, 1200 * MS);
        assert_eq!(policy.wake(), Some(1490 * MS));

        let mut policy = settled(|s| s.mutation_threshold = 0);
        (0..1000).for_each(|_| policy.event(Event::Mutation, 1100 * MS));
        assert_eq!(policy.wake(), None, "a threshold of 0 means never");
        policy.event(Event::Deletion, 1100 * MS);
        assert_eq!(policy.wake(), Some(1490 * MS));
        policy.begin();
        assert_eq!(policy.wake(), None, "the run sees the deletion");
    }

    #[test]
    fn a_deletion_threshold_and_a_question_override_the_interval_but_not_the_delay() {
        let settings = |s: &mut Settings| (s.deletion_threshold, s.schedule_delay) = (3, 20 * MS);
        let mut policy = settled(settings);
        policy.event(Event::Deletion, 1001 * MS);
        policy.event(Event::Deletion, 1002 * MS);
        assert_eq!(policy.wake(), Some(1490 * MS));
        policy.event(Event::Deletion, 1003 * MS);
        assert_eq!(policy.wake(), Some(1023 * MS));
        let mut policy = settled(settings);
        policy.event(Event::Asked, 1001 * MS);
        assert_eq!(policy.wake(), Some(1021 * MS));
        policy.event(Event::Asked, 1010 * MS);
        assert_eq!(policy.wake(), Some(1021 * MS), "who asks again doesn't put it off");
    }

    #[test]
    fn a_failed_run_is_repeated_a_second_later_than_usual() {
        let mut policy = settled(|_| {});
        policy.event(Event::Deletion, 1100 * MS);
        policy.begin();
        policy.end(End::Failed, 3 * MS, 2000 * MS);
        assert_eq!(policy.wake(), Some(3490 * MS));
        policy.begin();
        policy.end(End::Clean, 10 * MS, 3500 * MS);
        assert_eq!(policy.wake(), None);
    }

    #[test]
    fn what_was_busy_is_looked_at_again_ever_less_often() {
        let mut policy = settled(|_| {});
        let mut waits = Vec::new();
        for round in 1..=10 {
            policy.begin();
            policy.end(End::Busy, MS, round * 100_000 * MS);
            waits.push((policy.wake().unwrap() - round * 100_000 * MS).as_millis());
        }
        assert_eq!(waits[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(waits[9], 60_000);
    }

    #[test]
    fn the_end_of_a_lease_calls_for_a_run_at_that_time() {
        let mut policy = settled(|_| {});
        policy.alarm(9000 * MS);
        policy.alarm(8000 * MS);
        policy.alarm(8500 * MS);
        assert!(!policy.is_due(7999 * MS));
        assert!(policy.is_due(8000 * MS));
        policy.begin();
        assert_eq!(policy.wake(), None);
    }
}
