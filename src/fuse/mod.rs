//! The mount: FUSE requests in, answers out. Decodes, calls [`crate::fs`], encodes; decides nothing about
//! files.
//!
//! ```text
//! kernel ── /dev/fuse ──▶ 8 threads: Adapter (one method an operation) ──▶ fs::Fs
//!    ▲                          │ would have to wait? ──▶ Pool ──▶ fs::Fs
//!    │                          └ open: Backings hand the file to the kernel (passthrough)
//!    └── notices ◀── one thread ◀── fs::Invalidator
//! ```
//!
//! What the kernel may do without asking is what makes it fast: it caches names (absent ones too),
//! attributes, links and listings without expiry, opens directories without a request, and where it can
//! reads and writes backing files itself. [`Stats`] counts the requests that remain.
//!
//! **Set-user-id bits.** With `HANDLE_KILLPRIV_V2` the kernel leaves it to us to take them away when a file
//! changes (without it, it asks for `security.capability` before each write: 8 times the cost of an append).
//! It tells us so by flags, and not at all where it writes past us. So we rely on neither: every thread here runs without `CAP_FSETID` ([`crate::sys::creds`]), hence the backing
//! filesystem takes the bits away at each write, truncation and allocation, and at those of the kernel too,
//! which uses the credentials that the thread had when it handed the file over. The price: a write by root
//! clears them as well, where other filesystems spare root.
//!
//! The protocol itself is [`proto`].

mod answer;
mod backing;
mod convert;
mod ops;
mod pool;
mod proto;
mod serve;
mod serving;
mod session;
mod stats;
#[cfg(test)]
mod tests;

pub use session::{MountConfig, Session, Unmounted, clear_stale_mount};
pub use stats::{Op, Stats};
