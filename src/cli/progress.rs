//! A sign of life for work that takes long: on a terminal only, and not in the first second.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::ProgressBar;

const QUIET: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);

/// Waits for `work`, with a spinner that says `doing` once it takes long.
pub(super) async fn during<T>(doing: impl FnOnce() -> String, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(QUIET) => {}
    }
    let spinner = ProgressBar::new_spinner().with_message(doing());
    spinner.enable_steady_tick(TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}
