//! Group commit: the batches of concurrent callers become durable in one synced write.
//!
//! The first caller of a group leads: it takes what has gathered, numbers the events, writes all of
//! it as one RocksDB batch with one fdatasync, and tells each caller the result. Whoever comes
//! meanwhile gathers for the next group, whose first caller leads as soon as this write is done. A
//! single caller writes at once, on its own thread.
//!
//! RocksDB groups concurrent synced writes, too, but then nobody could number events in the order
//! in which they become visible, without gaps: a reader that has seen number 7 must never find a 6
//! afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;

use parking_lot::Mutex;
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::batch::Batch;
use super::columns::{Column, Events};
use super::counts::{Change, Counted};
use super::rows::handle;
use super::tail::Tail;
use super::write::Failed;

/// How many bytes one synced write gathers: more would make the first of the group wait.
const GROUP: usize = 4 << 20;

/// What became of a write.
type Outcome = Result<(), Failed>;

/// Gathers the batches.
#[derive(Debug, Default)]
pub(super) struct Committer {
    /// Held for moments only.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Arc<Request>>,
    /// Somebody writes, and will name the next leader.
    led: bool,
}

/// A caller's batch.
#[derive(Debug)]
struct Request {
    /// Taken by who leads the group.
    batch: Mutex<Option<Batch>>,
    /// There once the stage is [`DONE`].
    outcome: Mutex<Option<Outcome>>,
    stage: AtomicU8,
    caller: Thread,
    size: usize,
}

/// In the queue, or being written.
const WAITING: u8 = 0;
/// This caller is to lead the next group.
const LEADING: u8 = 1;
/// It has been written, or couldn't be.
const DONE: u8 = 2;

impl Committer {
    /// Makes the batch durable, with those of other callers. `write` is called by one thread at a
    /// time.
    pub(super) fn commit(
        &self,
        batch: Batch,
        write: impl FnOnce(Vec<Batch>) -> Outcome,
    ) -> Outcome {
        let request = Arc::new(Request::new(batch));
        let mut queue = self.queue.lock();
        queue.waiting.push(Arc::clone(&request));
        if queue.led {
            drop(queue);
            if let Some(outcome) = request.wait() {
                return outcome;
            }
            queue = self.queue.lock();
        }
        queue.led = true;
        let group = queue.take_group();
        drop(queue);
        let outcome = write(group.iter().filter_map(|request| request.take()).collect());
        let next = self.queue.lock().pass_on();
        next.inspect(|next| next.lead());
        let others = group.into_iter().filter(|other| !Arc::ptr_eq(other, &request));
        others.for_each(|other| other.finish(outcome.clone()));
        outcome
    }
}

impl Queue {
    /// What the leader, who is the first in the queue, writes.
    fn take_group(&mut self) -> Vec<Arc<Request>> {
        let mut size = 0;
        let fits = |request: &&Arc<Request>| {
            size += request.size;
            size <= GROUP
        };
        let count = self.waiting.iter().take_while(fits).count().max(1);
        self.waiting.drain(..count).collect()
    }

    /// Who is to lead next.
    fn pass_on(&mut self) -> Option<Arc<Request>> {
        self.led = !self.waiting.is_empty();
        self.waiting.first().cloned()
    }
}

impl Request {
    fn new(batch: Batch) -> Self {
        let size = batch.size();
        Self {
            batch: Mutex::new(Some(batch)),
            outcome: Mutex::default(),
            stage: AtomicU8::new(WAITING),
            caller: std::thread::current(),
            size,
        }
    }

    /// Waits for the outcome; `None`: this caller leads now. Only the caller itself may wait.
    fn wait(&self) -> Option<Outcome> {
        loop {
            match self.stage.load(Ordering::Acquire) {
                LEADING => return None,
                DONE => return self.outcome.lock().take(),
                _ => std::thread::park(), // which may return for no reason
            }
        }
    }

    fn lead(&self) {
        self.stage.store(LEADING, Ordering::Release);
        self.caller.unpark();
    }

    fn take(&self) -> Option<Batch> {
        self.batch.lock().take()
    }

    fn finish(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.stage.store(DONE, Ordering::Release);
        self.caller.unpark();
    }
}

/// Writes the group as one batch, synced, with its events numbered on from `tail`.
pub(super) fn write_group(
    db: &DB,
    tail: &Tail,
    counted: &Counted,
    group: Vec<Batch>,
) -> Result<(), rocksdb::Error> {
    let mut bounds = tail.bounds();
    let mut counts = Change::default();
    let mut all = WriteBatch::default();
    let events = handle(db, Column::Events);
    for mut batch in group {
        for event in std::mem::take(&mut batch.events) {
            bounds.last += 1;
            all.put_cf(events, Events::row_key(bounds.last), event);
        }
        counts.append(std::mem::take(&mut batch.counts));
        batch.add_to(&mut all, db);
    }
    if let Some(first) = bounds.to_drop() {
        all.delete_range_cf(events, Events::row_key(0), Events::row_key(first));
        bounds.first = first;
    }
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    db.write_opt(all, &durable)?;
    counted.apply(counts);
    tail.moved(bounds);
    Ok(())
}

/// Writes one batch beside the groups, without waiting for the disk. It publishes nothing: only the leader
/// of a group may give numbers.
pub(super) fn write_beside(
    db: &DB,
    counted: &Counted,
    mut batch: Batch,
) -> Result<(), rocksdb::Error> {
    debug_assert!(batch.events.is_empty(), "an event must not be lost");
    let (mut all, counts) = (WriteBatch::default(), std::mem::take(&mut batch.counts));
    batch.add_to(&mut all, db);
    db.write(all)?;
    counted.apply(counts);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn callers_that_come_while_a_group_is_written_go_together_into_the_next() {
        let committer = Committer::default();
        let (groups, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let gathered = |least: usize| while committer.queue.lock().waiting.len() < least {};
        std::thread::scope(|scope| {
            scope.spawn(|| {
                committer.commit(Batch::default(), |group| {
                    groups.fetch_add(1, Ordering::Relaxed);
                    written.fetch_add(group.len(), Ordering::Relaxed);
                    gathered(7);
                    Ok(())
                })
            });
            while groups.load(Ordering::Relaxed) == 0 {}
            for _ in 0..7 {
                scope.spawn(|| {
                    committer.commit(Batch::default(), |group| {
                        groups.fetch_add(1, Ordering::Relaxed);
                        written.fetch_add(group.len(), Ordering::Relaxed);
                        Ok(())
                    })
                });
            }
        });
        assert_eq!((groups.into_inner(), written.into_inner()), (2, 8));
        assert!(!committer.queue.lock().led);
    }

    #[test]
    fn a_batch_larger_than_a_group_goes_alone() {
        let mut queue = Queue::default();
        for size in [GROUP + 1, 1, GROUP - 1, 1] {
            let request = Request { size, ..Request::new(Batch::default()) };
            queue.waiting.push(Arc::new(request));
        }
        let sizes = std::iter::from_fn(|| Some(queue.take_group().len()).filter(|n| *n > 0));
        // An empty queue has no leader, so nobody takes from it.
        assert_eq!(sizes.take(3).collect::<Vec<_>>(), [1, 2, 1]);
    }
}
