//! OCI layers: tar streams in, identical tar streams out.
//!
//! ```text
//!  .tar .tar.gz .tar.zst                    directory tree             .tar, byte-identical
//!        │ input (magic, decompress)            ▲  │                           ▲
//!        ▼                                      │  ▼                           │
//!     stream ── chunks ──┬─► tar::Reader ─► apply  split::reassemble ◄── tar-split record
//!                        │         └─ raw bytes, body references ─► split::Recorder
//!                        └─► sha256 ─► DiffId
//! ```
//!
//! [`apply`](apply::apply) unpacks a layer onto a tree that holds its parent's content and computes
//! the [`DiffId`]; a [`split::Recorder`] beside it keeps what isn't file content, so that
//! [`split::reassemble`] can give the very same bytes back. [`diff_tar`] writes a new layer from the
//! changes between two trees.
//!
//! Everything here works on directory descriptors and byte streams. It knows no snapshot, no volume
//! and no store, and it never takes a path of the archive to the kernel: names are resolved one
//! component at a time below the root that the caller gives.

pub mod apply;
mod error;
mod export;
mod input;
pub mod split;
mod stream;
pub mod tar;

#[cfg(test)]
mod tests;

pub use crate::types::{ChainId, DiffId, InvalidDigest};
pub use apply::{Applied, Limits, Options, apply};
pub use error::{Error, Result};
pub use export::{Written, diff_tar};
pub use input::{Compression, decompress};
