//! What ends the daemon: signals, and panics.
//!
//! ```text
//! Run ── SIGTERM, SIGINT, a panic ──▶ Stop ── a second signal ──▶ Hurry
//! ```

use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Run,
    Stop,
    Hurry,
}

/// Whether to go on. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    phase: watch::Sender<Phase>,
    /// The first failure: it is what the daemon ends with.
    failure: Arc<Mutex<Option<Error>>>,
}

impl Stop {
    pub(super) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Run), failure: Arc::default() }
    }

    /// Listens for SIGTERM and SIGINT from now on.
    pub(super) fn on_signals(&self, runtime: &Runtime) -> Result<()> {
        let _entered = runtime.enter();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals =
                signal(kind).map_err(|source| Error::Runtime("signal handlers", source))?;
            let stop = self.clone();
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    stop.signalled();
                }
            });
        }
        Ok(())
    }

    /// From now on a panic in any thread is logged and stops the daemon.
    pub(super) fn on_panics(&self) {
        static STOP: OnceLock<Stop> = OnceLock::new();
        if STOP.set(self.clone()).is_ok() {
            panic::set_hook(Box::new(|info| {
                if let Some(stop) = STOP.get() {
                    stop.failed(panicked(info));
                }
            }));
        }
    }

    /// Stops the daemon with an error, which is logged.
    pub(super) fn failed(&self, error: Error) {
        tracing::error!("{}", crate::grpc::status::with_causes(&error));
        self.failure.lock().get_or_insert(error);
        self.advance(Phase::Stop);
    }

    fn signalled(&self) {
        let phase = *self.phase.borrow();
        match phase {
            Phase::Run => tracing::info!("stopping; a second signal hurries"),
            Phase::Stop => tracing::info!("hurrying"),
            Phase::Hurry => {}
        }
        self.advance(if phase == Phase::Run { Phase::Stop } else { Phase::Hurry });
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    /// Ready once the daemon is to stop.
    pub(super) async fn requested(&self) {
        // An error would mean that the sender is gone, but this is it.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Stop).await;
    }

    /// Ready once nobody is to be waited for any more.
    pub(super) async fn hurried(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Hurry).await;
    }

    /// Whether the daemon is to stop.
    pub(super) fn is_requested(&self) -> bool {
        *self.phase.borrow() >= Phase::Stop
    }

    /// Whether to wait for nobody any more.
    pub(super) fn is_hurried(&self) -> bool {
        *self.phase.borrow() == Phase::Hurry
    }

    /// What stopped the daemon, if it was no signal.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }
}

fn panicked(info: &PanicHookInfo) -> Error {
    let thread = std::thread::current();
    let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let said = info.payload().downcast_ref::<&str>().copied();
    let said = said
        .or_else(|| info.payload().downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::Panicked {
        thread: thread.name().unwrap_or("unnamed").to_owned(),
        message: format!("{said}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_stops_and_the_second_hurries() {
        let stop = Stop::new();
        assert!(!stop.is_requested());
        stop.signalled();
        assert!(stop.is_requested() && !stop.is_hurried());
        stop.signalled();
        assert!(stop.is_hurried());
    }

    /// The panic hook belongs to the whole process, so this asks a process of its own: it runs this
    /// test once more.
    #[test]
    fn a_panic_in_any_thread_stops_the_daemon_with_an_error_that_names_the_thread() {
        const INNER: &str = "THINFS_TEST_INNER";
        if std::env::var_os(INNER).is_some() {
            let stop = Stop::new();
            stop.on_panics();
            let thread = std::thread::Builder::new().name("reaper".into());
            thread.spawn(|| panic!("out of luck")).unwrap().join().unwrap_err();
            assert!(stop.is_requested());
            let failure = stop.take_failure().unwrap().to_string();
            assert!(
                failure.starts_with("stopped after a panic in thread reaper: out of luck at "),
                "{failure}"
            );
            return;
        }
        let name = "daemon::stop::tests::a_panic_in_any_thread_stops_the_daemon_with_an_error_that_names_the_thread";
        let inner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(INNER, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inner.stdout);
        assert!(inner.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_failure_stops_and_the_first_one_is_what_the_daemon_ends_with() {
        let stop = Stop::new();
        stop.failed(Error::NoFuse);
        stop.failed(Error::NotRoot);
        assert!(stop.is_requested() && !stop.is_hurried());
        assert!(matches!(stop.take_failure(), Some(Error::NoFuse)));
    }
}
