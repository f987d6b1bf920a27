//! How far long work is, told by counters that anybody may read, and how it is stopped.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Counters of one import or export.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the input that were read (compressed, if it is), or bytes written.
    pub moved: AtomicU64,
    /// How many there will be; 0: unknown.
    pub total: AtomicU64,
    /// Bytes of the current layer's uncompressed tar that are unpacked.
    pub unpacked: AtomicU64,
    /// The layer that is worked on, from 1.
    pub layer: AtomicU32,
    /// How many layers there are.
    pub layers: AtomicU32,
    /// Set by the caller: give up.
    pub cancel: AtomicBool,
}

/// An input whose bytes are counted.
pub struct Counting<'a, R> {
    input: R,
    progress: &'a Progress,
}

impl<'a, R: Read> Counting<'a, R> {
    /// Counts what is read from `input`.
    pub fn new(input: R, progress: &'a Progress) -> Self {
        Self { input, progress }
    }
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.progress.moved.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl<W: io::Write> io::Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.input.write(bytes)?;
        self.progress.moved.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

impl<'a, W: io::Write> Counting<'a, W> {
    /// Counts what is written to `output`.
    pub fn writing(output: W, progress: &'a Progress) -> Self {
        Self { input: output, progress }
    }
}
