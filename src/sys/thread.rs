//! Threads that work for nobody who waits. No unsafe code.

/// The nice value of such a thread: about a tenth of the processor that one has whom somebody waits for, when both
/// want it. It still gets on, for it holds locks at times.
const BACKGROUND: i32 = 10;

/// Lets all other threads have the processor first. For the calling thread alone: on Linux a nice value is a thread's.
pub fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND) {
        tracing::debug!(%error, "this thread keeps its priority");
    }
}
