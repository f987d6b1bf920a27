//! The threads around one layer.
//!
//! ```text
//! in    reader (decompresses) ──▶ digest ──▶ the caller's own thread consumes
//! out   the caller's own thread produces ──▶ digest ──▶ writer
//! ```
//!
//! The stream flows in [`chunks`](chunk) of which each thread has one and each of the two channels between
//! them [`QUEUE`], so the slowest of the three sets the pace and bounds the memory. A chunk goes from hand to
//! hand and then back to be filled again: nothing is copied on the way, and nothing is shared. What fits one
//! chunk, as many layers do, is done by the caller's thread alone.

mod chunk;
mod input;
mod output;

use std::io;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::ScopedJoinHandle;

use sha2::{Digest as _, Sha256};

use crate::types::DiffId;
use chunk::Chunk;

pub(super) use chunk::CHUNK;
pub(super) use input::{Chunks, through};
pub(super) use output::{Digesting, digesting};

/// Chunks that wait between two threads.
const QUEUE: usize = 4;

/// What one thread hands to the next.
type Passed = io::Result<Chunk>;

/// Digest and length of what has come by.
#[derive(Debug, Default)]
struct Digest {
    hash: Sha256,
    length: u64,
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn end(self) -> (DiffId, u64) {
        (DiffId::from_bytes(self.hash.finalize().into()), self.length)
    }
}

/// Digests what comes by and passes it on, until it ends or nobody wants more.
fn digest(chunks: &Receiver<Passed>, next: &SyncSender<Passed>) -> (DiffId, u64) {
    let mut digest = Digest::default();
    for chunk in chunks {
        if let Ok(chunk) = &chunk {
            digest.add(chunk.bytes());
        }
        if next.send(chunk).is_err() {
            break;
        }
    }
    digest.end()
}

fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
