//! Threads for what may take long (a device to activate, an fsync, a large truncation), so that the threads
//! which read requests never wait.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A pool that starts threads as they are needed, up to a limit; jobs beyond that queue.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
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
    /// At most `limit` threads.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::default(), limit: limit.max(1) }
    }

    /// Runs the job as soon as a thread is free.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(Box::new(job));
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
            if state.threads == 0 {
                // Dropping a job answers its request with EIO.
                state.jobs.clear();
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
            if let Some(job) = state.jobs.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a file operation panicked; its caller got EIO");
                    }
                });
            } else if state.closed {
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

    #[test]
    fn blocked_jobs_leave_threads_for_others_up_to_the_limit() {
        let pool = Pool::new(3);
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        for _ in 0..2 {
            let blocked = Arc::clone(&blocked);
            pool.run(move || assert!(blocked.lock().recv().is_err()));
        }
        let (done, finished) = mpsc::channel();
        for job in 0..10 {
            let done = done.clone();
            pool.run(move || done.send(job).unwrap());
        }
        let jobs: Vec<i32> = (0..10)
            .map(|_| finished.recv_timeout(std::time::Duration::from_secs(5)).unwrap())
            .collect();
        assert_eq!(jobs, (0..10).collect::<Vec<_>>());
        assert_eq!(pool.shared.state.lock().threads, 3);
        drop(release);
    }

    #[test]
    fn panicking_job_leaves_the_pool_working() {
        let pool = Pool::new(1);
        pool.run(|| panic!("a test's panic"));
        let (done, finished) = mpsc::channel();
        pool.run(move || done.send(()).unwrap());
        finished.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    }
}
