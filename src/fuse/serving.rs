//! The threads that read requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::lookout::Lookout;
use super::proto::Device;
use super::proto::init::BUFFER;
use super::serve::Adapter;

/// The most threads. Above this, requests wait for those of other snapshots.
const MOST: usize = 256;

/// Threads that serve until nothing is mounted any more.
#[derive(Debug)]
pub struct Serving(Arc<Readers>);

/// As many as `kept` stay. When all are busy another is started, so that there is one who reads requests.
struct Readers {
    device: Arc<Device>,
    adapter: Adapter,
    lookout: Lookout,
    kept: usize,
    alive: AtomicUsize,
    /// Those that wait for a request.
    idle: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} threads, {} idle", self.alive.load(Relaxed), self.idle.load(Relaxed))
    }
}

impl Serving {
    /// Starts them.
    pub fn start(device: Arc<Device>, adapter: Adapter, threads: usize) -> io::Result<Self> {
        let readers = Arc::new(Readers {
            device,
            adapter,
            lookout: Lookout::new(),
            kept: threads.max(1),
            alive: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            threads: Mutex::default(),
        });
        for _ in 0..readers.kept {
            readers.start(true)?;
        }
        Ok(Self(readers))
    }

    /// Whether nothing is served any more.
    pub fn is_finished(&self) -> bool {
        self.0.alive.load(Relaxed) == 0
    }

    /// Waits until nothing is served any more.
    pub fn join(self) {
        loop {
            let Some(thread) = self.0.threads.lock().pop() else { return };
            // It can only have panicked, and has said so.
            drop(thread.join());
        }
    }
}

impl Readers {
    fn start(self: &Arc<Self>, stays: bool) -> io::Result<()> {
        self.alive.fetch_add(1, Relaxed);
        self.idle.fetch_add(1, Relaxed);
        let readers = Arc::clone(self);
        let serve = move || {
            readers.serve(stays);
            readers.alive.fetch_sub(1, Relaxed);
        };
        let started = std::thread::Builder::new().name("fuse".into()).spawn(serve);
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(started.inspect_err(|_| {
            self.alive.fetch_sub(1, Relaxed);
            self.idle.fetch_sub(1, Relaxed);
        })?);
        Ok(())
    }

    fn serve(self: &Arc<Self>, stays: bool) {
        // Written to, so that the pages are there: into one that isn't the kernel can't copy a request any more when the
        // daemon is being killed, and answers that request with EIO itself.
        let mut buffer = if stays { vec![1; BUFFER] } else { vec![0; BUFFER] };
        loop {
            self.lookout.look(&self.device);
            match self.device.receive(&mut buffer) {
                Ok(Some(request)) => {
                    if self.idle.fetch_sub(1, Relaxed) == 1 {
                        self.start_another();
                    }
                    self.adapter.handle(&self.device, request);
                }
                Ok(None) => return,
                Err(errno) => return tracing::error!(%errno, "cannot read requests any more"),
            }
            if !stays && self.idle.load(Relaxed) >= self.kept {
                return;
            }
            self.idle.fetch_add(1, Relaxed);
        }
    }

    fn start_another(self: &Arc<Self>) {
        if self.alive.load(Relaxed) < MOST
            && let Err(error) = self.start(false)
        {
            tracing::error!(%error, "cannot start another thread: requests wait");
        }
    }
}
