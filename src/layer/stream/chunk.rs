//! The buffers that a layer's bytes travel in, which are used again and again.

use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;

/// Length of a buffer: large enough that handing it over costs nothing, small enough to stay in the cache until
/// all have seen it.
pub(in crate::layer) const CHUNK: usize = 512 << 10;

/// Buffers that nobody uses. Gives as many as are asked for: who asks is bounded by the channels.
#[derive(Debug, Default, Clone)]
pub(super) struct Pool(Arc<Mutex<Vec<Box<[u8]>>>>);

impl Pool {
    /// An empty chunk.
    pub(super) fn take(&self) -> Chunk {
        let spare = self.0.lock().pop();
        let buffer = spare.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        Chunk { pool: self.clone(), buffer, used: 0 }
    }
}

/// Bytes in a buffer that goes back when they are done with.
#[derive(Debug)]
pub(super) struct Chunk {
    pool: Pool,
    buffer: Box<[u8]>,
    used: usize,
}

impl Chunk {
    /// What is in it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.used == CHUNK
    }

    /// Room for more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// So much of the room is filled.
    pub(super) fn filled(&mut self, length: usize) {
        self.used += length;
    }

    /// Reads until it is full or the input ends.
    pub(super) fn fill(&mut self, input: &mut impl Read) -> io::Result<()> {
        while !self.is_full() {
            match input.read(self.room()) {
                Ok(0) => break,
                Ok(length) => self.filled(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.0.lock().push(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_starts_empty() {
        let pool = Pool::default();
        let mut chunk = pool.take();
        chunk.fill(&mut &b"abc"[..]).unwrap();
        let at = chunk.bytes().as_ptr();
        assert_eq!(chunk.bytes(), b"abc");
        drop(chunk);
        let again = pool.take();
        assert_eq!((again.bytes(), again.bytes().as_ptr()), (&b""[..], at));
    }
}
