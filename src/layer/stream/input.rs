//! A layer that is read.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::chunk::{Chunk, Pool};
use super::{Digest, Passed, QUEUE, digest, join};
use crate::layer::error::{Error, Result};
use crate::layer::input::{Compression, decompress};
use crate::types::DiffId;

/// What is known of a stream at its end.
#[derive(Debug, Clone, Copy)]
pub(in crate::layer) struct Summary {
    pub diff_id: DiffId,
    /// Uncompressed length.
    pub length: u64,
    pub compression: Compression,
}

/// Gives `consume` the uncompressed bytes of `input`, at most `limit` of them, and digests them before. A `consume`
/// that succeeds has read to the end. When it fails, this returns as soon as the read of `input` under way returns.
pub(in crate::layer) fn through<T>(
    input: impl Read + Send,
    limit: u64,
    consume: impl FnOnce(&mut Chunks) -> Result<T>,
) -> Result<(T, Summary)> {
    let (mut input, compression) = decompress(input)?;
    let pool = Pool::default();
    let mut first = pool.take();
    let read = first.fill(&mut input);
    let (consumed, (diff_id, length)) = match read.map(|()| first) {
        Ok(first) if first.is_full() => by_threads((first, pool), input, limit, consume),
        first => alone(first, limit, consume),
    };
    Ok((consumed.map_err(inner)?, Summary { diff_id, length, compression }))
}

/// All there is was read, or its beginning with an error behind it.
fn alone<T>(
    all: Passed,
    limit: u64,
    consume: impl FnOnce(&mut Chunks) -> Result<T>,
) -> (Result<T>, (DiffId, u64)) {
    let mut digest = Digest::default();
    if let Ok(all) = &all {
        digest.add(all.bytes());
    }
    (consume(&mut Chunks::new(From::Hand(Some(all)), limit)), digest.end())
}

fn by_threads<T>(
    (first, pool): (Chunk, Pool),
    input: impl Read + Send,
    limit: u64,
    consume: impl FnOnce(&mut Chunks) -> Result<T>,
) -> (Result<T>, (DiffId, u64)) {
    let (to_digest, from_reader) = sync_channel(QUEUE);
    let (to_consumer, from_digest) = sync_channel(QUEUE);
    thread::scope(|scope| {
        let digest = scope.spawn(move || digest(&from_reader, &to_consumer));
        let reader = scope.spawn(move || read(first, &pool, input, &to_digest));
        let mut chunks = Chunks::new(From::Digest(from_digest), limit);
        let consumed = consume(&mut chunks);
        drop(chunks);
        join(reader);
        (consumed, join(digest))
    })
}

/// Sends the first chunk and the rest of the input until it ends or nobody wants more.
fn read(first: Chunk, pool: &Pool, mut input: impl Read, next: &SyncSender<Passed>) {
    let mut passed = Ok(first);
    loop {
        let ended = passed.is_err();
        if next.send(passed).is_err() || ended {
            return;
        }
        let mut chunk = pool.take();
        passed = match chunk.fill(&mut input) {
            Ok(()) if chunk.bytes().is_empty() => return,
            Ok(()) => Ok(chunk),
            // The consumer reports it; if it has gone already, for an error of its own.
            Err(error) => Err(error),
        };
    }
}

/// Where chunks come from.
enum From {
    Digest(Receiver<Passed>),
    Hand(Option<Passed>),
}

/// The consumer's end of a stream.
pub(in crate::layer) struct Chunks {
    from: From,
    current: Option<Chunk>,
    /// Bytes of the current chunk that are consumed.
    taken: usize,
    /// Bytes that may still come.
    left: u64,
    limit: u64,
}

impl Chunks {
    fn new(from: From, limit: u64) -> Self {
        Self { from, current: None, taken: 0, left: limit, limit }
    }

    fn rest(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.taken..])
    }

    fn next(&mut self) -> io::Result<()> {
        (self.current, self.taken) = (None, 0);
        let next = match &mut self.from {
            // It hangs up at the input's end.
            From::Digest(chunks) => chunks.recv().ok(),
            From::Hand(all) => all.take(),
        };
        let Some(next) = next.transpose()? else { return Ok(()) };
        let length = next.bytes().len() as u64;
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| io::Error::other(Error::Limit { limit: self.limit, what: "bytes" }))?;
        self.current = Some(next);
        Ok(())
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            self.next()?;
        }
        Ok(self.rest())
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

/// The limit's error, which came through `io::Error`.
fn inner(error: Error) -> Error {
    match error {
        Error::Input(source) => source.downcast().unwrap_or_else(Error::Input),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

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
