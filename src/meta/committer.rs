//! Group commit: the batches of concurrent callers become durable in one synced write.
//!
//! A caller that comes while nobody writes does so at once, on its own thread. Whoever comes meanwhile adds its batch to
//! the group that gathers, and waits. A thread of the store's writes the groups, one after the other, for as long as there
//! are any: what it puts soon after one another stays in the cache of its processor, and no caller does the work of
//! others. Writing a group numbers the events, is one batch of RocksDB's with one fdatasync, and tells all its callers.
//!
//! RocksDB groups concurrent synced writes, too, but then nobody could number events in the order
//! in which they become visible, without gaps: a reader that has seen number 7 must never find a 6
//! afterwards.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::batch::Batch;
use super::group::Group;
use super::write::Outcome;

/// Writes a group. Called by one thread at a time; must not panic, for the group's callers wait for what it says.
type Write = Box<dyn Fn(&mut Group) -> Outcome + Send + Sync>;

/// Gathers the batches.
#[derive(Debug)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Held for moments only.
    queue: Mutex<Queue>,
    /// The thread has groups to write, or is to end.
    changed: Condvar,
    write: Write,
}

#[derive(Debug, Default)]
struct Queue {
    /// Not being written yet; the last one gathers.
    groups: VecDeque<Group>,
    writes: Writes,
    stopping: bool,
    /// Room that an earlier group has left.
    spare: Option<Group>,
}

/// Who writes, and sees to it that what gathers is written next.
#[derive(Debug, Default, PartialEq, Eq)]
enum Writes {
    #[default]
    Nobody,
    Caller,
    Thread,
}

impl Committer {
    pub(super) fn start(
        write: impl Fn(&mut Group) -> Outcome + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (queue, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { queue, changed, write: Box::new(write) });
        let at_work = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("committer".to_owned());
        Ok(Self { shared, thread: Some(thread.spawn(move || at_work.work())?) })
    }

    /// Makes the batch, which has the store's column numbers, durable, with those of other callers.
    pub(super) fn commit(&self, batch: Batch) -> Outcome {
        let mut queue = self.shared.queue.lock();
        queue.gather(batch);
        if queue.writes != Writes::Nobody {
            let fate = Arc::clone(queue.groups.back().expect("it was gathered").fate());
            drop(queue);
            return fate.wait();
        }
        queue.writes = Writes::Caller;
        let own = queue.groups.pop_front().expect("it was gathered");
        drop(queue);
        let (outcome, room) = self.shared.write(own);
        let mut queue = self.shared.queue.lock();
        queue.spare = room;
        if queue.groups.is_empty() {
            queue.writes = Writes::Nobody;
        } else {
            queue.writes = Writes::Thread;
            self.shared.changed.notify_one();
        }
        outcome
    }
}

impl Drop for Committer {
    /// Nobody waits any more: who does has borrowed it.
    fn drop(&mut self) {
        self.shared.queue.lock().stopping = true;
        self.shared.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes to the metadata store panicked");
        }
    }
}

impl Shared {
    /// The thread's.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            match queue.writes {
                Writes::Thread => match queue.groups.pop_front() {
                    Some(group) => {
                        drop(queue);
                        let (_, room) = self.write(group);
                        queue = self.queue.lock();
                        queue.spare = room;
                    }
                    None => queue.writes = Writes::Nobody,
                },
                _ if queue.stopping => return,
                _ => self.changed.wait(&mut queue),
            }
        }
    }

    /// Gives the outcome, and the room that the group took.
    fn write(&self, mut group: Group) -> (Outcome, Option<Group>) {
        let outcome = (self.write)(&mut group);
        group.fate().decide(outcome.clone());
        (outcome, group.emptied())
    }
}

impl Queue {
    fn gather(&mut self, batch: Batch) {
        if !self.groups.back().is_some_and(|group| group.has_room_for(&batch)) {
            self.groups.push_back(self.spare.take().unwrap_or_default());
        }
        self.groups.back_mut().expect("there is one").add(batch);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("queue", &self.queue).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A committer whose writes are told with their size and last until they are let go.
    fn watched() -> (Committer, mpsc::Receiver<usize>, mpsc::Sender<()>) {
        let ((told, sizes), (go, gone)) = (mpsc::channel(), mpsc::channel());
        let gone = Mutex::new(gone);
        let committer = Committer::start(move |group| {
            told.send(group.batches()).unwrap();
            gone.lock().recv().unwrap();
            Ok(())
        });
        (committer.unwrap(), sizes, go)
    }

    #[test]
    fn callers_that_come_while_a_group_is_written_go_together_into_the_next() {
        let (committer, sizes, go) = watched();
        let gathered = || committer.shared.queue.lock().groups.front().map_or(0, Group::batches);
        std::thread::scope(|scope| {
            scope.spawn(|| committer.commit(Batch::default()));
            assert_eq!(sizes.recv().unwrap(), 1);
            (0..7).for_each(|_| _ = scope.spawn(|| committer.commit(Batch::default())));
            while gathered() < 7 {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            assert_eq!(sizes.recv().unwrap(), 7);
            // The thread goes on with what came while it wrote.
            scope.spawn(|| committer.commit(Batch::default()));
            while gathered() < 1 {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            assert_eq!(sizes.recv().unwrap(), 1);
            go.send(()).unwrap();
        });
        while committer.shared.queue.lock().writes != Writes::Nobody {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_caller_that_is_alone_writes_itself() {
        let writers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&writers);
        let committer = Committer::start(move |_| {
            seen.lock().push(std::thread::current().id());
            Ok(())
        });
        let committer = committer.unwrap();
        (0..3).for_each(|_| committer.commit(Batch::default()).unwrap());
        assert_eq!(*writers.lock(), [std::thread::current().id(); 3]);
    }
}
