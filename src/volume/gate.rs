//! Who writes to an activated volume, and whether anybody may.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A seal is being tried: new writers wait for its outcome.
const SEALING: u32 = 1 << 31;
/// Nobody writes any more.
const READ_ONLY: u32 = 1 << 30;
/// The rest counts writers.
const COUNT: u32 = READ_ONLY - 1;

/// Counts writers, and closes when there are none.
///
/// ```text
///          close, no writers left          decide(ReadOnly)
///   open ───────────────────────▶ sealing ─────────────────▶ read-only
///     ▲     (writers remain: Busy)   │
///     └──────────────────────────────┘ decide(Open)
/// ```
#[derive(Debug)]
pub(super) struct Gate {
    /// Entering and leaving touch only this.
    state: AtomicU32,
    /// Held to change SEALING and to wait for a change.
    decision: Mutex<()>,
    changed: Condvar,
}

/// What a seal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Writing goes on.
    Open,
    /// Writing is over.
    ReadOnly,
}

/// Why a gate didn't close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// So many writers remained.
    Writers(u32),
    /// Another seal of the same volume is undecided.
    Sealing,
}

impl Gate {
    pub(super) fn new(writable: bool) -> Self {
        let state = AtomicU32::new(if writable { 0 } else { READ_ONLY });
        Self { state, decision: Mutex::new(()), changed: Condvar::new() }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.state.load(Ordering::Acquire) & READ_ONLY != 0
    }

    pub(super) fn writers(&self) -> u32 {
        self.state.load(Ordering::Relaxed) & COUNT
    }

    /// Counts one more writer. False: the volume is read-only. Waits while a seal is undecided.
    pub(super) fn enter(&self) -> bool {
        loop {
            match self.try_enter() {
                Some(entered) => return entered,
                None => self.wait_for_decision(),
            }
        }
    }

    /// Counts one more writer. False: the volume is read-only. `None`: a seal is undecided.
    pub(super) fn try_enter(&self) -> Option<bool> {
        let entered = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & (SEALING | READ_ONLY) == 0).then_some(state + 1)
        });
        match entered {
            Ok(_) => Some(true),
            Err(state) if state & SEALING == 0 => Some(false),
            Err(_) => None,
        }
    }

    /// Counts one more writer beside one that is there: always allowed, never waits.
    pub(super) fn enter_beside(&self) {
        self.state.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & SEALING != 0 && before & COUNT == 1 {
            // With the lock, so that the sealer is either before its look at the count, or waiting.
            let _decision = self.decision.lock();
            self.changed.notify_all();
        }
    }

    fn wait_for_decision(&self) {
        let mut decision = self.decision.lock();
        while self.state.load(Ordering::Acquire) & SEALING != 0 {
            self.changed.wait(&mut decision);
        }
    }

    /// Stops new writers and waits for the present ones. After Ok the gate is shut until
    /// [`Gate::decide`]; after Err all is as before.
    pub(super) fn close(&self, patience: Duration) -> Result<(), Refused> {
        let deadline = Instant::now().checked_add(patience);
        let mut decision = self.decision.lock();
        if self.state.fetch_or(SEALING, Ordering::AcqRel) & SEALING != 0 {
            return Err(Refused::Sealing);
        }
        loop {
            let writers = self.state.load(Ordering::Acquire) & COUNT;
            if writers == 0 {
                return Ok(());
            }
            let timed_out = match deadline {
                Some(deadline) => self.changed.wait_until(&mut decision, deadline).timed_out(),
                None => {
                    self.changed.wait(&mut decision);
                    false
                }
            };
            if timed_out && self.writers() != 0 {
                self.state.fetch_and(!SEALING, Ordering::AcqRel);
                self.changed.notify_all();
                return Err(Refused::Writers(writers));
            }
        }
    }

    /// Ends what [`Gate::close`] began.
    pub(super) fn decide(&self, outcome: Decision) {
        let _decision = self.decision.lock();
        let flags = match outcome {
            Decision::Open => 0,
            Decision::ReadOnly => READ_ONLY,
        };
        // Nobody has entered since the gate was shut.
        self.state.store(flags, Ordering::Release);
        self.changed.notify_all();
    }
}
