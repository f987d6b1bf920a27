//! Calls that come at the same time, as one piece of work on one thread.
//!
//! The first call has a blocking thread begin at once. Those that come meanwhile gather, and are its next group: so a
//! single call waits for nobody, and a hundred cost two changes of threads instead of two hundred.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use super::call::Running;
use super::status;
use crate::snapshot;

/// Calls in one group, at most: the first of them waits for the last, and answers to one group are sent while the next
/// one is worked on.
const MOST: usize = 16;

/// Who waits for an answer.
pub(super) struct Caller<R> {
    answer: oneshot::Sender<Result<R, Status>>,
    _running: Running,
}

impl<R: Send + 'static> Caller<R> {
    /// A caller that has gone away hears nothing.
    pub(super) fn answer(self, answer: snapshot::Result<R>) {
        let _ = self.answer.send(answer.map_err(status::of));
    }

    /// Does the rest for this caller on a thread of its own.
    pub(super) fn answer_later(self, rest: impl FnOnce() -> snapshot::Result<R> + Send + 'static) {
        drop(tokio::task::spawn_blocking(move || self.answer(rest())));
    }
}

type Work<T, R> = Box<dyn Fn(Vec<(T, Caller<R>)>) + Send + Sync>;

/// Gathers calls of one kind.
pub(super) struct Together<T, R> {
    /// Answers each, sooner or later. Called by one thread at a time.
    work: Work<T, R>,
    /// Held for moments.
    queue: Mutex<Queue<T, R>>,
}

struct Queue<T, R> {
    waiting: VecDeque<(T, Caller<R>)>,
    /// A thread is at work, and looks for more when it is done.
    busy: bool,
}

impl<T, R> fmt::Debug for Together<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

impl<T: Send + 'static, R: Send + 'static> Together<T, R> {
    /// `work` is given one call or several.
    pub(super) fn new(work: impl Fn(Vec<(T, Caller<R>)>) + Send + Sync + 'static) -> Arc<Self> {
        let queue = Queue { waiting: VecDeque::new(), busy: false };
        Arc::new(Self { work: Box::new(work), queue: Mutex::new(queue) })
    }

    /// Waits for the answer. What was asked for is done even if the caller goes away.
    pub(super) async fn call(self: &Arc<Self>, asked: T) -> Result<R, Status> {
        let (answer, answered) = oneshot::channel();
        if self.gather(asked, Caller { answer, _running: Running::start() }) {
            let this = Arc::clone(self);
            tokio::task::spawn_blocking(move || this.work_off());
        }
        let lost = |_| Status::internal("the request failed inside the daemon");
        answered.await.map_err(lost)?
    }

    /// Whether somebody is to begin working.
    fn gather(&self, asked: T, caller: Caller<R>) -> bool {
        let mut queue = self.queue.lock();
        queue.waiting.push_back((asked, caller));
        !std::mem::replace(&mut queue.busy, true)
    }

    /// Who is in a group over which the work panics hears of it; those behind go on.
    fn work_off(&self) {
        while let Some(group) = self.next_group() {
            if catch_unwind(AssertUnwindSafe(|| (self.work)(group))).is_err() {
                tracing::error!("a group of calls panicked; each of its callers got an error");
            }
        }
    }

    fn next_group(&self) -> Option<Vec<(T, Caller<R>)>> {
        let mut queue = self.queue.lock();
        let count = queue.waiting.len().min(MOST);
        queue.busy = count > 0;
        queue.busy.then(|| queue.waiting.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits in its first group until it is told to go on; answers a call with the size of its group.
    fn gathering() -> (Arc<Together<(), usize>>, mpsc::Sender<()>) {
        let (go, wait) = mpsc::channel();
        let wait = Mutex::new(Some(wait));
        let together = Together::new(move |group: Vec<((), Caller<usize>)>| {
            let first = wait.lock().take();
            if let Some(wait) = first {
                wait.recv().expect("the test lets it go on");
            }
            let size = group.len();
            group.into_iter().for_each(|(_, caller)| caller.answer(Ok(size)));
        });
        (together, go)
    }

    #[tokio::test]
    async fn calls_that_come_while_one_is_worked_on_are_the_next_groups() {
        let (together, go) = gathering();
        let call = || {
            let together = Arc::clone(&together);
            tokio::spawn(async move { together.call(()).await.expect("it is answered") })
        };
        let first = call();
        let begun = || {
            let queue = together.queue.lock();
            queue.busy && queue.waiting.is_empty()
        };
        while !begun() {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..MOST + 1).map(|_| call()).collect();
        while together.queue.lock().waiting.len() <= MOST {
            tokio::task::yield_now().await;
        }
        go.send(()).expect("it waits");
        let mut sizes = vec![first.await.expect("no panic")];
        for other in others {
            sizes.push(other.await.expect("no panic"));
        }
        assert_eq!(sizes[0], 1);
        assert_eq!(sizes.iter().filter(|&&size| size == MOST).count(), MOST);
        assert_eq!(sizes.last(), Some(&1));
        assert!(!together.queue.lock().busy);
        assert_eq!(together.call(()).await.expect("a new thread begins"), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_its_group_and_keeps_nobody_else_waiting() {
        let first = Mutex::new(true);
        let together = Together::new(move |group: Vec<((), Caller<()>)>| {
            assert!(!std::mem::take(&mut *first.lock()), "a test has the first group panic");
            group.into_iter().for_each(|(_, caller)| caller.answer(Ok(())));
        });
        assert_eq!(together.call(()).await.unwrap_err().code(), tonic::Code::Internal);
        together.call(()).await.expect("the next one is answered");
    }
}
