//! Writes a record while a layer is unpacked.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use rustix::io::pread;

use super::encoding::{self, ChunkHeader, ChunkKind};
use super::{Body, Sink};
use crate::layer::error::{Error, Result};
use crate::layer::tar::Tap;
use crate::types::DiffId;

/// Operations are compressed and written when they have grown to this.
const FULL: usize = 1 << 20;
/// Bytes of the tar in one operation.
const MOST_RAW: usize = 64 << 10;
/// Bytes of a rescued content in one chunk.
const PIECE: usize = 1 << 20;

/// Writes a record to `out`. It is complete only after [`Recorder::finish`]; an incomplete one is
/// refused when it is read.
pub struct Recorder<W> {
    out: W,
    /// Encoded operations.
    operations: Vec<u8>,
    /// Bytes of the tar that aren't encoded yet.
    raw: Vec<u8>,
    bodies: u64,
}

impl<W: Write> Recorder<W> {
    /// Begins a record.
    pub fn new(mut out: W) -> Result<Self> {
        out.write_all(encoding::MAGIC).map_err(Error::RecordOutput)?;
        Ok(Self { out, operations: Vec::new(), raw: Vec::new(), bodies: 0 })
    }

    /// Ends the record with what is known of the tar once it is read, and flushes it to `out`.
    pub fn finish(mut self, diff_id: DiffId, tar_size: u64) -> Result<W> {
        self.end_raw();
        let mut end = diff_id.as_bytes().to_vec();
        end.extend_from_slice(&tar_size.to_le_bytes());
        end.extend_from_slice(&self.bodies.to_le_bytes());
        self.write_operations()
            .and_then(|()| self.chunk(ChunkKind::End, &end))
            .and_then(|()| self.out.flush())
            .map_err(Error::RecordOutput)?;
        Ok(self.out)
    }

    fn end_raw(&mut self) {
        for piece in self.raw.chunks(MOST_RAW) {
            encoding::put_raw(&mut self.operations, piece);
        }
        self.raw.clear();
    }

    fn write_operations(&mut self) -> io::Result<()> {
        if self.operations.is_empty() {
            return Ok(());
        }
        let payload = encoding::compress(&self.operations)?;
        self.operations.clear();
        self.chunk(ChunkKind::Operations, &payload)
    }

    fn write_if_full(&mut self) -> io::Result<()> {
        if self.operations.len() < FULL { Ok(()) } else { self.write_operations() }
    }

    fn chunk(&mut self, kind: ChunkKind, payload: &[u8]) -> io::Result<()> {
        let header = ChunkHeader::of(kind, payload)
            .ok_or_else(|| io::Error::other("a chunk is longer than any layer needs"))?;
        self.out.write_all(&header.encode())?;
        self.out.write_all(payload)
    }

    fn rescue_piece(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend_from_slice(&encoding::compress(bytes)?);
        self.chunk(ChunkKind::Rescued, &payload)
    }
}

impl<W: Write> Tap for Recorder<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() < MOST_RAW {
            return Ok(());
        }
        self.end_raw();
        self.write_if_full()
    }
}

impl<W: Write> Sink for Recorder<W> {
    const WANTED: bool = true;

    fn body(&mut self, body: &Body<'_>) -> Result<u64> {
        self.end_raw();
        encoding::put_body(&mut self.operations, body);
        self.write_if_full().map_err(Error::RecordOutput)?;
        self.bodies += 1;
        Ok(self.bodies - 1)
    }

    fn rescue(&mut self, number: u64, file: BorrowedFd<'_>, extents: &[(u64, u64)]) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        for &(mut offset, mut left) in extents {
            while left > 0 {
                let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = pread(file, &mut buffer[..wanted], offset)
                    .map_err(|errno| Error::RecordInput(errno.into()))?;
                if read == 0 {
                    return Err(Error::Verify("a file became shorter while unpacking".to_owned()));
                }
                self.rescue_piece(number, &buffer[..read]).map_err(Error::RecordOutput)?;
                offset += read as u64;
                left -= read as u64;
            }
        }
        Ok(())
    }
}
