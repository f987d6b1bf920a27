//! The threads that read requests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::proto::Device;
use super::proto::init::BUFFER;
use super::serve::Adapter;

/// Threads that serve until nothing is mounted any more.
#[derive(Debug)]
pub struct Serving(Vec<JoinHandle<()>>);

impl Serving {
    /// Starts them.
    pub fn start(device: Arc<Device>, adapter: Adapter, threads: usize) -> io::Result<Self> {
        let adapter = Arc::new(adapter);
        let start = |_| {
            let (device, adapter) = (Arc::clone(&device), Arc::clone(&adapter));
            let thread = std::thread::Builder::new().name("fuse".into());
            thread.spawn(move || serve(&device, &adapter))
        };
        (0..threads.max(1)).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Whether nothing is served any more.
    pub fn is_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// Waits until nothing is served any more.
    pub fn join(self) {
        for thread in self.0 {
            // It can only have panicked, and has said so.
            drop(thread.join());
        }
    }
}

/// A panic ends the request, which is answered with `EIO`, not the thread.
fn serve(device: &Arc<Device>, adapter: &Adapter) {
    // Written to, so that the pages are there: into one that isn't the kernel can't copy a request any more when the
    // daemon is being killed, and answers that request with EIO itself.
    let mut buffer = vec![1; BUFFER];
    loop {
        match device.receive(&mut buffer) {
            Ok(Some(request)) => {
                let handled = catch_unwind(AssertUnwindSafe(|| adapter.handle(device, request)));
                if handled.is_err() {
                    tracing::error!("a file operation panicked; its caller got EIO");
                }
            }
            Ok(None) => return,
            Err(errno) => return tracing::error!(%errno, "cannot read requests any more"),
        }
    }
}
