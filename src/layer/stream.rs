//! The threads around one layer: one reads and decompresses, one computes the digest, and the
//! caller's own consumes. For a layer that is written: the caller's and the digest's.
//!
//! The stream flows as shared chunks through bounded channels, so the slowest of the three sets the
//! pace and memory holds [`CHUNKS`] chunks of [`CHUNK`] bytes.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::input::{self, Compression};
use crate::types::DiffId;

/// Bytes that are handed over at a time: large enough that handing over costs nothing, small enough
/// to stay in the cache until all have seen it.
const CHUNK: usize = 256 << 10;
/// Chunks between two threads.
const CHUNKS: usize = 16;

type Chunk = Arc<Vec<u8>>;

/// What is known of a stream at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    pub diff_id: DiffId,
    /// Uncompressed length.
    pub length: u64,
    pub compression: Compression,
}

/// Gives `consume` the uncompressed bytes of `input`, at most `limit` of them, and digests them
/// meanwhile. A `consume` that succeeds has read to the end. When it fails, this returns as soon as
/// the read of `input` under way returns.
pub(super) fn through<T>(
    input: impl Read + Send,
    limit: u64,
    consume: impl FnOnce(&mut Chunks) -> Result<T>,
) -> Result<(T, Summary)> {
    let (to_consumer, from_reader) = sync_channel(CHUNKS);
    thread::scope(|scope| {
        let (to_digest, digest_input) = sync_channel(CHUNKS);
        let digest = scope.spawn(move || digest(&digest_input));
        let reader = scope.spawn(move || {
            let (input, compression) = input::decompress(input)?;
            read(input, &to_consumer, &to_digest);
            Ok::<_, Error>(compression)
        });
        let mut chunks =
            Chunks { from_reader, current: Chunk::default(), taken: 0, left: limit, limit };
        let consumed = consume(&mut chunks);
        drop(chunks);
        let compression = join(reader);
        let (diff_id, length) = join(digest);
        let compression = compression?;
        Ok((consumed.map_err(inner)?, Summary { diff_id, length, compression }))
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Sends the input in chunks until it ends or nobody wants more.
fn read(
    mut input: impl Read,
    consumer: &SyncSender<io::Result<Chunk>>,
    digest: &SyncSender<Chunk>,
) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let result = input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        if let Err(error) = result {
            // The consumer reports it; if it has gone already, for an error of its own.
            drop(consumer.send(Err(error)));
            return;
        }
        let chunk = Arc::new(chunk);
        let ended = chunk.is_empty();
        if ended || digest.send(chunk.clone()).is_err() || consumer.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

fn digest(chunks: &Receiver<Chunk>) -> (DiffId, u64) {
    let (mut hash, mut length) = (Sha256::new(), 0);
    for chunk in chunks {
        hash.update(&*chunk);
        length += chunk.len() as u64;
    }
    (DiffId::from_bytes(hash.finalize().into()), length)
}

/// The consumer's end of a stream.
pub(super) struct Chunks {
    from_reader: Receiver<io::Result<Chunk>>,
    current: Chunk,
    /// Bytes of the current chunk that are consumed.
    taken: usize,
    /// Bytes that may still come.
    left: u64,
    limit: u64,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.current.len() {
            (self.current, self.taken) = (Chunk::default(), 0);
            // The reader hangs up at the input's end.
            if let Ok(next) = self.from_reader.recv() {
                self.current = next?;
                let length = self.current.len() as u64;
                self.left = self.left.checked_sub(length).ok_or_else(|| {
                    io::Error::other(Error::Limit { limit: self.limit, what: "bytes" })
                })?;
            }
        }
        Ok(&self.current[self.taken..])
    }

    fn consume(&mut self, length: usize) {
        self.taken += length;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let length = bytes.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// An output whose digest is computed by another thread.
pub(super) struct Digesting<'a, W> {
    out: W,
    to_digest: &'a SyncSender<Chunk>,
    current: Vec<u8>,
}

impl<W: Write> Digesting<'_, W> {
    /// Writes, through a buffer.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.current.len()));
            self.current.extend_from_slice(now);
            bytes = later;
            if self.current.len() == CHUNK {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let chunk = Arc::new(std::mem::replace(&mut self.current, Vec::with_capacity(CHUNK)));
        // It fails only if the digest panicked, which joining it reports.
        drop(self.to_digest.send(chunk.clone()));
        self.out.write_all(&chunk).map_err(Error::Output)
    }
}

/// Digests what `produce` writes to `out`. When it fails, what is still in the buffer is not
/// written.
pub(super) fn digesting<T, W: Write>(
    out: W,
    produce: impl FnOnce(&mut Digesting<'_, W>) -> Result<T>,
) -> Result<(T, DiffId, u64)> {
    let (to_digest, chunks) = sync_channel(CHUNKS);
    thread::scope(|scope| {
        let digest = scope.spawn(move || digest(&chunks));
        let mut out = Digesting { out, to_digest: &to_digest, current: Vec::with_capacity(CHUNK) };
        let produced = produce(&mut out).and_then(|produced| {
            out.pass_on()?;
            out.out.flush().map_err(Error::Output)?;
            Ok(produced)
        });
        drop(out);
        drop(to_digest);
        let (diff_id, length) = join(digest);
        Ok((produced?, diff_id, length))
    })
}

/// The limit's error, which came through `io::Error`.
fn inner(error: Error) -> Error {
    match error {
        Error::Input(source) => source.downcast().unwrap_or_else(Error::Input),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(chunks: &mut Chunks) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        chunks.read_to_end(&mut bytes).map_err(Error::Input)?;
        Ok(bytes)
    }

    #[test]
    fn consumer_and_digest_see_every_byte() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let zstd = zstd::encode_all(&*bytes, 1).unwrap();
        let (seen, summary) = through(&*zstd, u64::MAX, drain).unwrap();
        assert!(seen == bytes);
        assert_eq!(summary.length, bytes.len() as u64);
        assert_eq!(summary.compression, Compression::Zstd);
        assert_eq!(summary.diff_id.as_bytes()[..], Sha256::digest(&bytes)[..]);
    }

    #[test]
    fn a_consumer_that_fails_ends_the_stream() {
        let endless = io::repeat(0);
        let stop = |_: &mut Chunks| Err::<(), _>(Error::Cancelled);
        assert!(matches!(through(endless, u64::MAX, stop), Err(Error::Cancelled)));
    }

    #[test]
    fn more_bytes_than_allowed_are_an_error() {
        let result = through(io::repeat(0), 10_000_000, drain);
        assert!(matches!(result, Err(Error::Limit { limit: 10_000_000, .. })), "{result:?}");
    }

    #[test]
    fn a_broken_input_is_the_consumers_error() {
        let zstd = zstd::encode_all(&[1; 1000][..], 1).unwrap();
        let result = through(&zstd[..zstd.len() - 3], u64::MAX, drain);
        assert!(matches!(result, Err(Error::Input(_))), "{result:?}");
    }
}
