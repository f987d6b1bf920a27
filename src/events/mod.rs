//! Reading events: from any number on, and on as they come.
//!
//! The store keeps the newest events in order ([`crate::meta`]), and readers fetch them from there
//! at their own pace. So nobody who publishes ever waits for a reader, and a slow one costs no
//! memory; at worst, events are dropped before it gets to them, and then it is told which
//! ([`Item::Gone`]) and goes on with the oldest that is left. A reader that was cut off resumes
//! with the number that it saw last.
//!
//! Knows the store's list of events; nothing of snapshots, gRPC or the command line.

use std::sync::Arc;
use std::time::Duration;

use crate::meta::{self, Store, Waited};
use crate::types::Published;

/// Events fetched at once.
const PAGE: usize = 100;

/// Why there is nothing more to read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number asked for hasn't been given yet.
    #[error("there is no event {since} yet: the newest is {newest}")]
    Ahead {
        /// What was asked for.
        since: u64,
        /// The newest.
        newest: u64,
    },
    /// The daemon is stopping.
    #[error("thinfs is stopping; the last event was {0}")]
    Ended(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] meta::Error),
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// What happened.
    Event(Published),
    /// These events are gone: there are more than the store keeps, or it was restored from a
    /// backup. What follows is what comes next.
    Gone {
        /// The first that is gone.
        from: u64,
        /// The last.
        to: u64,
    },
}

/// Reads events in order.
#[derive(Debug)]
pub struct Reader {
    store: Arc<Store>,
    after: u64,
}

impl Reader {
    /// Reads what came after event `since` (0: all that is kept), or without it what comes from now
    /// on.
    pub fn new(store: Arc<Store>, since: Option<u64>) -> Result<Self, Error> {
        let newest = store.event_bounds().last;
        match since {
            Some(since) if since > newest => Err(Error::Ahead { since, newest }),
            // Nobody who asks for all that is kept misses what isn't.
            Some(0) => Ok(Self { after: store.event_bounds().first - 1, store }),
            Some(since) => Ok(Self { store, after: since }),
            None => Ok(Self { store, after: newest }),
        }
    }

    /// The number of the last event read, to resume from.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The next events that there are; none if there are no more yet.
    pub fn read(&mut self) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        for event in self.store.events_after(self.after, PAGE)? {
            if event.sequence > self.after + 1 {
                items.push(Item::Gone { from: self.after + 1, to: event.sequence - 1 });
            }
            self.after = event.sequence;
            items.push(Item::Event(event));
        }
        Ok(items)
    }

    /// Waits a while for more. True: there are.
    pub fn wait(&self, patience: Duration) -> Result<bool, Error> {
        match self.store.wait_for_events(self.after, patience) {
            Waited::More => Ok(true),
            Waited::TimedOut => Ok(false),
            Waited::Ended => Err(Error::Ended(self.after)),
        }
    }
}

#[cfg(test)]
mod tests;
