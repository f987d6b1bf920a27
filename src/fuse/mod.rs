//! The mount: FUSE requests in, answers out. Decodes, calls [`crate::fs`], encodes; decides nothing about
//! files.
//!
//! ```text
//! kernel ── /dev/fuse ──▶ 8 threads or more: Turn (one method an operation) ──▶ fs::Fs
//!    ▲                          │ would have to wait? ──▶ Pool ──▶ fs::Fs
//!    │                          └ open: Backings hand the file to the kernel (passthrough)
//!    └── notices ◀── one thread ◀── fs::Invalidator (and at once, before an open that lets attributes change past us)
//! ```
//!
//! A thread can get stuck in a snapshot whose device is slow or stuck, since what isn't cached must be read. So there is
//! always one more that reads requests, and a [`crowd::Crowd`] of requests occupies a limited number of threads for each
//! snapshot.
//!
//! What the kernel may do without asking is what makes it fast: it caches names (absent ones too),
//! attributes, links and listings without expiry, opens directories without a request, and where it can
//! reads and writes backing files itself. [`Stats`] counts the requests that remain.
//!
//! **Set-user-id bits.** With `HANDLE_KILLPRIV_V2` the kernel leaves it to us to take them away when a file
//! changes (without it, it asks for `security.capability` before each write: 8 times the cost of an append),
//! and says with each request whether the caller may leave them ([`crate::fs`] does as it says). Of what is
//! written past us it says nothing. So a file that has such a bit when it is opened isn't handed to the kernel;
//! and of one that is given the bit while it is open, the kernel takes it away at the next write, whoever
//! writes: it uses the credentials that our thread had, which is without `CAP_FSETID` ([`crate::sys::creds`]).
//!
//! **Survival.** The daemon may die and another take its mount over: see [`takeover`].
//!
//! The protocol itself is [`proto`].

mod again;
mod answer;
mod backing;
mod convert;
mod crowd;
mod ledger;
mod opening;
mod ops;
mod pool;
mod proto;
mod serve;
mod serving;
mod session;
mod stats;
mod takeover;
#[cfg(test)]
mod tests;

pub use session::{MountConfig, Session, Unmounted, clear_stale_mount};
pub use stats::{Op, Stats};
pub use takeover::Kept;
