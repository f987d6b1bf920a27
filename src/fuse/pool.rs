//! Threads for what may take long (a device to activate, an fsync, a large truncation), so that the threads
//! which read requests never wait. One snapshot occupies a part of them only.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::crowd::Crowd;
use crate::types::SnapshotId;

/// More than these leave when they have nothing to do.
const KEPT: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// A pool that starts threads as they are needed, up to a limit; jobs beyond that queue.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    crowd: Crowd<Job>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Option<SnapshotId>, Job)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        write!(f, "{} jobs, {} threads, {} idle", state.jobs.len(), state.threads, state.idle)
    }
}

impl Pool {
    /// At most `limit` threads in all, and `each` for one snapshot.
    pub fn new(limit: usize, each: usize) -> Self {
        let shared =
            Shared { crowd: Crowd::new(each), state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), limit: limit.max(1) }
    }

    /// Runs the job, which works for this snapshot, as soon as a thread is free.
    pub fn run(&self, snapshot: Option<SnapshotId>, job: impl FnOnce() + Send + 'static) {
        let mut job: Option<Job> = Some(Box::new(job));
        let may_begin = self.shared.crowd.begin(snapshot, || job.take().expect("not taken yet"));
        if let Some(job) = job.filter(|_| may_begin) {
            self.start(snapshot, job);
        }
    }

    fn start(&self, snapshot: Option<SnapshotId>, job: Job) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back((snapshot, job));
        if state.idle >= state.jobs.len() || state.threads >= self.limit {
            self.shared.changed.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        self.start_thread();
    }

    fn start_thread(&self) {
        let shared = Arc::clone(&self.shared);
        let started =
            std::thread::Builder::new().name("fuse-wait".into()).spawn(move || shared.work());
        if let Err(error) = started {
            let mut state = self.shared.state.lock();
            state.threads -= 1;
            tracing::error!(%error, threads = state.threads, "cannot start a thread");
            let dropped = match state.threads {
                0 => std::mem::take(&mut state.jobs),
                _ => VecDeque::new(),
            };
            drop(state);
            // Dropping a job answers its request with EIO.
            for (snapshot, job) in dropped {
                drop(job);
                while self.shared.crowd.end(snapshot).is_some() {}
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some((snapshot, job)) = state.jobs.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a file operation panicked; its caller got EIO");
                    }
                });
                // Behind what others wait for.
                let next = self.crowd.end(snapshot).map(|next| (snapshot, next));
                state.jobs.extend(next);
            } else if state.closed || state.idle >= KEPT {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                self.changed.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn blocked_jobs_leave_threads_for_others_up_to_the_limit() {
        let pool = Pool::new(3, 3);
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        for _ in 0..2 {
            let blocked = Arc::clone(&blocked);
            pool.run(None, move || assert!(blocked.lock().recv().is_err()));
        }
        let (done, finished) = mpsc::channel();
        for job in 0..10 {
            let done = done.clone();
            pool.run(None, move || done.send(job).unwrap());
        }
        let jobs: Vec<i32> =
            (0..10).map(|_| finished.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert_eq!(jobs, (0..10).collect::<Vec<_>>());
        assert_eq!(pool.shared.state.lock().threads, 3);
        drop(release);
    }

    #[test]
    fn a_snapshot_whose_jobs_are_blocked_leaves_threads_for_the_others() {
        let pool = Pool::new(4, 2);
        let [stuck, calm] = [1, 2].map(|id| Some(SnapshotId(id)));
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let (done, finished) = mpsc::channel();
        for _ in 0..20 {
            let (blocked, done) = (Arc::clone(&blocked), done.clone());
            pool.run(stuck, move || {
                assert!(blocked.lock().recv().is_err());
                done.send("stuck").unwrap();
            });
        }
        let wait = || finished.recv_timeout(Duration::from_secs(5)).unwrap();
        for _ in 0..3 {
            let done = done.clone();
            pool.run(calm, move || done.send("calm").unwrap());
            assert_eq!(wait(), "calm");
        }
        drop(release);
        assert_eq!((0..20).map(|_| wait()).collect::<Vec<_>>(), ["stuck"; 20]);
    }

    #[test]
    fn panicking_job_leaves_the_pool_working() {
        let pool = Pool::new(1, 1);
        let snapshot = Some(SnapshotId(1));
        pool.run(snapshot, || panic!("a test's panic"));
        let (done, finished) = mpsc::channel();
        pool.run(snapshot, move || done.send(()).unwrap());
        finished.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}
