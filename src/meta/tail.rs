//! The end of the list of events: which numbers there are, and who waits for the next.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rocksdb::{DB, IteratorMode};

use super::columns::{Column, Events};
use super::error::{Error, Result};
use super::read::corrupt;
use super::rows::handle;
use super::{Batch, Store};
use crate::types::{Event, Published, Publisher};

/// How many events are kept.
pub const KEPT: u64 = 1 << 16;
/// So many more may gather before the oldest are dropped.
const SLACK: u64 = 1 << 10;

/// Numbers of the oldest and the newest event; the newest is one less than the oldest while there
/// is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest.
    pub first: u64,
    /// The newest.
    pub last: u64,
}

impl Bounds {
    /// The new `first`, if it is time to drop some.
    pub(super) fn to_drop(self) -> Option<u64> {
        let kept = (self.last + 1).saturating_sub(self.first);
        (kept > KEPT + SLACK).then(|| self.last + 1 - KEPT)
    }
}

/// Moved by the committer alone, after each durable write.
#[derive(Debug)]
pub(super) struct Tail {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    closed: bool,
}

impl Tail {
    pub(super) fn load(db: &DB) -> Result<Self> {
        let last = end(db, IteratorMode::End)?.unwrap_or(0);
        let first = end(db, IteratorMode::Start)?.unwrap_or(last + 1);
        let state = State { bounds: Bounds { first, last }, closed: false };
        Ok(Self { state: Mutex::new(state), moved: Condvar::new() })
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.state.lock().bounds
    }

    pub(super) fn moved(&self, bounds: Bounds) {
        let mut state = self.state.lock();
        if state.bounds != bounds {
            state.bounds = bounds;
            self.moved.notify_all();
        }
    }
}

fn end(db: &DB, from: IteratorMode<'_>) -> Result<Option<u64>> {
    let what = || "the list of events".to_owned();
    match db.iterator_cf(handle(db, Column::Events), from).next() {
        None => Ok(None),
        Some(Err(source)) => Err(Error::Read { what: what(), source }),
        Some(Ok((row_key, _))) => {
            Events::decode_row_key(&row_key).map(Some).map_err(|e| corrupt(what(), e))
        }
    }
}

/// What a wait for events ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// There are events with greater numbers.
    More,
    /// Not yet.
    TimedOut,
    /// There won't be: [`Store::end_events`] was called.
    Ended,
}

impl Store {
    /// Which events there are.
    pub fn event_bounds(&self) -> Bounds {
        self.tail.bounds()
    }

    /// Up to `limit` events with numbers greater than `after`, in order. Of the oldest, only
    /// [`KEPT`] are there: the first number tells whether some are missing.
    pub fn events_after(&self, after: u64, limit: usize) -> Result<Vec<Published>> {
        let mut events = Vec::new();
        let start = Events::row_key(after.saturating_add(1));
        self.moment().scan(Column::Events, &start, None, &mut |row_key, record| {
            let event = Events::decode(row_key, record)
                .map_err(|e| corrupt("an event's record".to_owned(), e))?;
            events.push(event);
            let full = events.len() >= limit;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(events)
    }

    /// Waits until there are events with numbers greater than `after`.
    pub fn wait_for_events(&self, after: u64, patience: Duration) -> Waited {
        let deadline = Instant::now() + patience;
        let mut state = self.tail.state.lock();
        loop {
            if state.bounds.last > after {
                return Waited::More;
            }
            if state.closed {
                return Waited::Ended;
            }
            if self.tail.moved.wait_until(&mut state, deadline).timed_out() {
                return if state.bounds.last > after { Waited::More } else { Waited::TimedOut };
            }
        }
    }

    /// Nobody waits for events any more: the daemon is stopping.
    pub fn end_events(&self) {
        self.tail.state.lock().closed = true;
        self.tail.moved.notify_all();
    }
}

impl Publisher for Store {
    fn publish(&self, event: Event) {
        let topic = event.topic.clone();
        let mut batch = Batch::default();
        batch.publish(event);
        if let Err(error) = self.write(batch) {
            tracing::warn!(%topic, error = &error as &dyn std::error::Error, "an event is lost");
        }
    }
}
