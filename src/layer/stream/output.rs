//! A layer that is written.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::chunk::{Chunk, Pool};
use super::{Digest, Passed, QUEUE, digest, join};
use crate::layer::error::{Error, Result};
use crate::types::DiffId;

/// The producer's end: an output that is digested and written by other threads.
pub(in crate::layer) struct Digesting<'a> {
    /// `None`: the threads aren't started yet.
    to_digest: Option<SyncSender<Passed>>,
    start: &'a mut dyn FnMut() -> SyncSender<Passed>,
    pool: Pool,
    current: Chunk,
}

impl Digesting<'_> {
    /// Writes, through a buffer.
    pub(in crate::layer) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.current.is_full() {
                self.pass_on()?;
            }
            let room = self.current.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.current.filled(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// Room for so many bytes, at most [`CHUNK`], in one piece. What is put there is written when
    /// [`Digesting::filled`] says so, and not before.
    pub(in crate::layer) fn room(&mut self, length: usize) -> Result<&mut [u8]> {
        if self.current.room().len() < length {
            self.pass_on()?;
        }
        Ok(&mut self.current.room()[..length])
    }

    /// So many bytes of the room are to be written.
    pub(in crate::layer) fn filled(&mut self, length: usize) {
        self.current.filled(length);
    }

    fn pass_on(&mut self) -> Result<()> {
        let chunk = std::mem::replace(&mut self.current, self.pool.take());
        let to_digest = self.to_digest.get_or_insert_with(&mut *self.start);
        // The writer hung up, and says why when it is joined.
        to_digest.send(Ok(chunk)).map_err(|_| Error::Output(io::ErrorKind::BrokenPipe.into()))
    }
}

/// Digests what `produce` writes, and writes it to `out`. When it fails, what is still in the buffer is not written.
pub(in crate::layer) fn digesting<T>(
    out: impl Write + Send,
    produce: impl FnOnce(&mut Digesting<'_>) -> Result<T>,
) -> Result<(T, DiffId, u64)> {
    let mut out = Some(out);
    thread::scope(|scope| {
        let mut threads = None;
        let mut start = || {
            let (to_digest, from_producer) = sync_channel(QUEUE);
            let (to_writer, from_digest) = sync_channel(QUEUE);
            let out = out.take().expect("the threads are started once");
            let digest = scope.spawn(move || digest(&from_producer, &to_writer));
            threads = Some((digest, scope.spawn(move || write(out, &from_digest))));
            to_digest
        };
        let pool = Pool::default();
        let current = pool.take();
        let mut digesting = Digesting { to_digest: None, start: &mut start, pool, current };
        let mut produced = produce(&mut digesting);
        if produced.is_ok() && digesting.to_digest.is_some() {
            produced = produced.and_then(|produced| digesting.pass_on().map(|()| produced));
        }
        let Digesting { to_digest, current, .. } = digesting;
        drop(to_digest);
        let (diff_id, length) = match (threads, out) {
            (Some((digest, writer)), _) => {
                let digest = join(digest);
                join(writer).map_err(Error::Output)?;
                digest
            }
            (None, Some(out)) if produced.is_ok() => alone(out, current.bytes())?,
            (None, _) => Digest::default().end(),
        };
        Ok((produced?, diff_id, length))
    })
}

/// Digests and writes all there is.
fn alone(mut out: impl Write, all: &[u8]) -> Result<(DiffId, u64)> {
    let mut digest = Digest::default();
    digest.add(all);
    out.write_all(all).and_then(|()| out.flush()).map_err(Error::Output)?;
    Ok(digest.end())
}

fn write(mut out: impl Write, chunks: &Receiver<Passed>) -> io::Result<()> {
    for chunk in chunks {
        out.write_all(chunk?.bytes())?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn what_is_put_and_what_is_filled_is_written_in_order() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let mut written = Vec::new();
        let produce = |out: &mut Digesting<'_>| {
            for (index, piece) in bytes.chunks(70_001).enumerate() {
                if index % 2 == 0 {
                    out.put(piece)?;
                } else {
                    out.room(piece.len())?.copy_from_slice(piece);
                    out.filled(piece.len());
                }
            }
            Ok(())
        };
        let ((), diff_id, length) = digesting(&mut written, produce).unwrap();
        assert!(written == bytes);
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(diff_id.as_bytes()[..], Sha256::digest(&bytes)[..]);
    }

    #[test]
    fn a_producer_that_fails_writes_nothing_more() {
        let mut written = Vec::new();
        let produce = |out: &mut Digesting<'_>| {
            out.put(b"of no use")?;
            Err::<(), _>(Error::Cancelled)
        };
        assert!(matches!(digesting(&mut written, produce), Err(Error::Cancelled)));
        assert_eq!(written, b"");
    }

    #[test]
    fn an_output_that_fails_ends_an_endless_producer_and_says_why() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let produce = |out: &mut Digesting<'_>| -> Result<()> {
            loop {
                out.put(&[7; 10_000])?;
            }
        };
        match digesting(Full, produce) {
            Err(Error::Output(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            other => panic!("{other:?}"),
        }
    }
}
