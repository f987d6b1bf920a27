//! Telling the kernel that something changed behind its back.
//!
//! The kernel handles such a notice under the lock of the directory or file concerned, which a request that
//! we are just answering may hold: so no notice is ever sent by a thread that answers requests. All go
//! through one queue to one thread. (But for attributes alone, which need no such lock: see `fuse`.)

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::types::NodeId;

/// What the kernel is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A name in a directory, with all that the kernel knows below it.
    Entry(NodeId, OsString),
    /// A node's attributes, ACLs and content: for a directory its cached listing.
    Content(NodeId),
}

/// The way to the kernel.
pub trait Kernel: Send {
    /// Delivers a notice. What the kernel doesn't know needs no dropping, so there is no failure to report.
    fn tell(&self, notice: &Notice);
}

/// The queue of notices. Without a kernel to tell (nothing is mounted) notices are dropped.
#[derive(Debug, Default)]
pub struct Invalidator {
    queue: Mutex<Queue>,
    arrived: Condvar,
    delivered: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    notices: VecDeque<Notice>,
    open: bool,
    queued: u64,
    told: u64,
}

impl Invalidator {
    /// Queues a notice; never waits.
    pub fn notify(&self, notice: Notice) {
        let mut queue = self.queue.lock();
        if !queue.open || queue.notices.back() == Some(&notice) {
            return;
        }
        queue.notices.push_back(notice);
        queue.queued += 1;
        self.arrived.notify_one();
    }

    /// Waits until everything queued so far has reached the kernel, at most this long. Says whether it has.
    /// Not for threads that answer the kernel's requests.
    pub fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut queue = self.queue.lock();
        let target = queue.queued;
        while queue.open && queue.told < target {
            if self.delivered.wait_until(&mut queue, deadline).timed_out() {
                return queue.told >= target;
            }
        }
        true
    }

    /// Starts the thread that tells `kernel`. It ends at [`Invalidator::close`].
    pub fn start(
        self: &Arc<Self>,
        kernel: impl Kernel + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        self.queue.lock().open = true;
        let invalidator = Arc::clone(self);
        std::thread::Builder::new()
            .name("invalidator".into())
            .spawn(move || invalidator.run(&kernel))
    }

    /// Ends the thread; what is still queued is dropped.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.open = false;
        queue.notices.clear();
        queue.told = queue.queued;
        self.arrived.notify_all();
        self.delivered.notify_all();
    }

    fn run(&self, kernel: &dyn Kernel) {
        let mut queue = self.queue.lock();
        while queue.open {
            let Some(notice) = queue.notices.pop_front() else {
                self.arrived.wait(&mut queue);
                continue;
            };
            parking_lot::MutexGuard::unlocked(&mut queue, || kernel.tell(&notice));
            queue.told = queue.queued - queue.notices.len() as u64;
            self.delivered.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Recorder(mpsc::Sender<Notice>);
    impl Kernel for Recorder {
        fn tell(&self, notice: &Notice) {
            self.0.send(notice.clone()).unwrap();
        }
    }

    #[test]
    fn settle_returns_once_everything_queued_has_been_told() {
        let invalidator = Arc::new(Invalidator::default());
        let (sender, told) = mpsc::channel();
        let thread = invalidator.start(Recorder(sender)).unwrap();
        for node in 1..=100 {
            invalidator.notify(Notice::Content(NodeId(node)));
        }
        assert!(invalidator.settle(Duration::from_secs(5)));
        assert_eq!(told.try_iter().count(), 100);
        invalidator.close();
        thread.join().unwrap();
    }

    #[test]
    fn settle_gives_up_after_its_patience() {
        struct Stuck(mpsc::Receiver<()>);
        impl Kernel for Stuck {
            fn tell(&self, _: &Notice) {
                self.0.recv().unwrap();
            }
        }
        let invalidator = Arc::new(Invalidator::default());
        let (release, stuck) = mpsc::channel();
        let thread = invalidator.start(Stuck(stuck)).unwrap();
        invalidator.notify(Notice::Content(NodeId(1)));
        assert!(!invalidator.settle(Duration::from_millis(20)));
        invalidator.close();
        release.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn without_a_kernel_nothing_is_queued() {
        let invalidator = Invalidator::default();
        invalidator.notify(Notice::Content(NodeId(1)));
        assert!(invalidator.settle(Duration::ZERO));
    }
}
