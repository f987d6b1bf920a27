//! How a request reaches the blocking rules: on a blocking thread, cancelled when its caller goes
//! away, or as a stream of batches that stops when nobody reads it.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Span;

use super::{layer_status, status};
use crate::{layer_store, snapshot};

/// Entries in one message of a stream, as containerd's own server sends them.
pub(super) const BATCH: usize = 100;
/// Batches made ahead of the reader.
const AHEAD: usize = 4;

/// Requests that wait for their answer, and streams that are being read.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// How many requests have not been answered yet. Connections that ask nothing don't count.
pub(super) fn running() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// Counts as a running request while it lives.
#[derive(Debug)]
pub(super) struct Running(());

impl Running {
    /// One request more.
    pub(super) fn start() -> Self {
        RUNNING.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream of answers; its work is cancelled when it is dropped.
#[derive(Debug)]
pub struct Answers<M> {
    from: ReceiverStream<Result<M, Status>>,
    _cancel: CancelOnDrop,
    _running: Option<Running>,
}

impl<M> Stream for Answers<M> {
    type Item = Result<M, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.from).poll_next(context)
    }
}

/// Runs `work` on a blocking thread, in the caller's span.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> snapshot::Result<T> + Send + 'static,
{
    on_blocking_thread(move || work().map_err(status::of)).await
}

/// Like [`blocking`], for work on layers.
pub(super) async fn blocking_for<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> layer_store::Result<T> + Send + 'static,
{
    on_blocking_thread(move || work().map_err(layer_status::of)).await
}

async fn on_blocking_thread<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Status> + Send + 'static,
{
    let (span, _running) = (Span::current(), Running::start());
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(panicked) => {
            Err(Status::internal(format!("the request failed inside the daemon: {panicked}")))
        }
    }
}

/// Like [`blocking`]; the flag that `work` gets is set when the caller goes away.
pub(super) async fn cancellable<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&AtomicBool) -> snapshot::Result<T> + Send + 'static,
{
    let guard = CancelOnDrop(Arc::default());
    let flag = Arc::clone(&guard.0);
    let result = blocking(move || work(&flag)).await;
    drop(guard);
    result
}

/// tonic drops a request's future, or the stream of its answers, when its caller goes away.
#[derive(Debug)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Collects items into messages of up to [`BATCH`] and sends them to the stream's reader.
pub(super) struct Batches<T, M> {
    items: Vec<T>,
    encode: fn(Vec<T>) -> M,
    to: mpsc::Sender<Result<M, Status>>,
}

impl<T, M> Batches<T, M> {
    /// Adds an item; breaks when nobody reads any more.
    pub(super) fn push(&mut self, item: T) -> ControlFlow<()> {
        self.items.push(item);
        if self.items.len() < BATCH { ControlFlow::Continue(()) } else { self.flush() }
    }

    /// Sends what there is.
    pub(super) fn flush(&mut self) -> ControlFlow<()> {
        if self.items.is_empty() {
            return ControlFlow::Continue(());
        }
        let message = (self.encode)(std::mem::take(&mut self.items));
        match self.to.blocking_send(Ok(message)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Runs `work` on a blocking thread and streams what it pushes, then its error if it has one. The
/// flag that `work` gets is set when nobody reads any more.
pub(super) fn stream<T, M, F>(encode: fn(Vec<T>) -> M, work: F) -> Answers<M>
where
    T: Send + 'static,
    M: Send + 'static,
    F: FnOnce(&mut Batches<T, M>, &AtomicBool) -> Result<(), Status> + Send + 'static,
{
    let (work, mut answers) = streaming(encode, work);
    tokio::task::spawn_blocking(work);
    answers._running = Some(Running::start());
    answers
}

/// Like [`stream`], for readers that stay for ever. Each has a thread of its own, and a stop waits for none: so
/// readers hold up nobody, however many there are, and whether or not they read.
pub(super) fn follow<T, M, F>(encode: fn(Vec<T>) -> M, work: F) -> Result<Answers<M>, Status>
where
    T: Send + 'static,
    M: Send + 'static,
    F: FnOnce(&mut Batches<T, M>, &AtomicBool) -> Result<(), Status> + Send + 'static,
{
    let (work, answers) = streaming(encode, work);
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(work);
    thread.map_err(|error| {
        Status::resource_exhausted(format!("starting a thread for one more reader: {error}"))
    })?;
    Ok(answers)
}

/// The work of a stream, for whatever thread, and what it makes.
fn streaming<T, M, F>(
    encode: fn(Vec<T>) -> M,
    work: F,
) -> (impl FnOnce() + Send + 'static, Answers<M>)
where
    T: Send + 'static,
    M: Send + 'static,
    F: FnOnce(&mut Batches<T, M>, &AtomicBool) -> Result<(), Status> + Send + 'static,
{
    let (to, from) = mpsc::channel(AHEAD);
    let cancel = CancelOnDrop(Arc::default());
    let cancelled = Arc::clone(&cancel.0);
    let span = Span::current();
    let made = move || {
        let _entered = span.enter();
        let mut batches = Batches { items: Vec::new(), encode, to };
        let result = work(&mut batches, &cancelled);
        // Either send fails only if nobody reads any more: then there is nobody to tell.
        let _ = batches.flush();
        if let Err(status) = result {
            let _ = batches.to.blocking_send(Err(status));
        }
    };
    (made, Answers { from: ReceiverStream::new(from), _cancel: cancel, _running: None })
}

/// Runs `work` on a blocking thread and streams what `tell` says, every `often`, until it ends; then
/// its result. `cancel` is called when nobody reads any more.
pub(super) fn working<M, F>(
    often: Duration,
    tell: impl Fn() -> M + Send + 'static,
    cancel: impl Fn() + Send + 'static,
    work: F,
) -> Answers<M>
where
    M: Send + 'static,
    F: FnOnce() -> Result<M, Status> + Send + 'static,
{
    let (to, from) = mpsc::channel(AHEAD);
    let unread = CancelOnDrop(Arc::default());
    tokio::spawn(async move {
        let mut done = std::pin::pin!(on_blocking_thread(work));
        let result = loop {
            tokio::select! {
                result = &mut done => break result,
                () = tokio::time::sleep(often) => {}
                () = to.closed() => {
                    cancel();
                    // Nobody hears of the result; the work cleans up behind itself.
                    let _ = done.await;
                    return;
                }
            }
            // A reader that is slow misses some; one that is gone is seen above.
            let _ = to.try_send(Ok(tell()));
        };
        let _ = to.send(result).await;
    });
    Answers { from: ReceiverStream::new(from), _cancel: unread, _running: Some(Running::start()) }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stream_comes_in_batches_of_a_hundred_and_ends_with_the_error() {
        let mut stream = stream(
            |items: Vec<u32>| items.len(),
            |batches, _| {
                (0..250)
                    .try_for_each(|i| batches.push(i))
                    .is_continue()
                    .then_some(())
                    .expect("the reader is there");
                Err(Status::aborted("at the end"))
            },
        );
        let mut sizes = Vec::new();
        while let Some(Ok(size)) = stream.next().await {
            sizes.push(size);
        }
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[tokio::test]
    async fn a_stream_without_a_reader_stops() {
        let (done, is_done) = tokio::sync::oneshot::channel();
        let unread = stream(
            |items: Vec<u32>| items.len(),
            move |batches, _| {
                let mut pushed = 0_u64;
                while batches.push(0).is_continue() {
                    pushed += 1;
                }
                done.send(pushed).expect("the test waits");
                Ok(())
            },
        );
        drop(unread);
        assert!(is_done.await.expect("the work ends") <= ((AHEAD + 1) * BATCH) as u64);
    }

    /// More than the runtime has threads for blocking work.
    #[tokio::test]
    async fn hundreds_of_readers_that_do_not_read_hold_up_nobody() {
        let endless = |batches: &mut Batches<u32, usize>, _: &AtomicBool| {
            while batches.push(0).is_continue() {}
            Ok(())
        };
        let unread: Vec<_> = (0..600)
            .map(|_| follow(|items: Vec<u32>| items.len(), endless).expect("a thread"))
            .collect();
        assert!(unread.iter().all(|reader| reader._running.is_none()), "a stop waits for none");
        assert_eq!(blocking(|| Ok(7)).await.expect("it is answered"), 7);
        drop(unread);
    }

    #[tokio::test]
    async fn the_flag_is_set_when_the_caller_goes_away() {
        let (seen, is_seen) = tokio::sync::oneshot::channel();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let request = tokio::spawn(cancellable(move |cancel| {
            started.send(()).expect("the test waits");
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            seen.send(()).expect("the test waits");
            Ok(())
        }));
        has_started.await.expect("it starts");
        request.abort();
        is_seen.await.expect("the work sees that nobody waits for it");
    }
}
