//! The bytes of a record: operations and chunks.

use std::io::{self, Read};

use super::Body;
use crate::layer::error::{Error, Result};

/// What a record begins with; the last byte is the version.
pub(super) const MAGIC: &[u8; 8] = b"TFSPLIT1";
/// Longest payload, compressed or not, that anybody writes: a map of 2^20 runs and a buffer.
pub(super) const MOST_PAYLOAD: u64 = 32 << 20;
/// Kind, length, checksum.
pub(super) const CHUNK_HEADER: usize = 9;

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkKind {
    Operations = 1,
    Rescued = 2,
    End = 3,
}

/// A chunk's first bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkHeader {
    pub kind: ChunkKind,
    pub length: u32,
    pub checksum: u32,
}

impl ChunkHeader {
    pub(super) fn of(kind: ChunkKind, payload: &[u8]) -> Option<Self> {
        let length = u32::try_from(payload.len()).ok()?;
        (u64::from(length) <= MOST_PAYLOAD).then(|| Self {
            kind,
            length,
            checksum: crc32c::crc32c(payload),
        })
    }

    pub(super) fn encode(self) -> [u8; CHUNK_HEADER] {
        let mut bytes = [0; CHUNK_HEADER];
        bytes[0] = self.kind as u8;
        bytes[1..5].copy_from_slice(&self.length.to_le_bytes());
        bytes[5..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; CHUNK_HEADER]) -> Result<Self> {
        let kind = match bytes[0] {
            1 => ChunkKind::Operations,
            2 => ChunkKind::Rescued,
            3 => ChunkKind::End,
            _ => return Err(Error::Record("a chunk of unknown kind")),
        };
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self { kind, length: number(1), checksum: number(5) };
        if u64::from(header.length) > MOST_PAYLOAD {
            return Err(Error::Record("a chunk is too long"));
        }
        Ok(header)
    }
}

pub(super) fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, zstd::DEFAULT_COMPRESSION_LEVEL)
}

pub(super) fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::with_buffer(bytes)
        .and_then(|decoder| decoder.take(MOST_PAYLOAD + 1).read_to_end(&mut plain))
        .map_err(|_| Error::Record("a chunk can't be decompressed"))?;
    if plain.len() as u64 > MOST_PAYLOAD {
        return Err(Error::Record("a chunk is too long"));
    }
    Ok(plain)
}

/// A step of putting a tar together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Raw(&'a [u8]),
    Body { path: &'a [u8], checksum: u32, parts: Parts },
}

/// Which parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parts {
    /// All; its length.
    Whole(u64),
    /// These runs.
    Extents(Vec<(u64, u64)>),
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(0);
    put_bytes(out, bytes);
}

pub(super) fn put_body(out: &mut Vec<u8>, body: &Body<'_>) {
    out.push(if body.extents.is_some() { 2 } else { 1 });
    put_bytes(out, body.path);
    out.extend_from_slice(&body.checksum.to_le_bytes());
    let Some(extents) = body.extents else { return put_number(out, body.size) };
    put_number(out, extents.len() as u64);
    let mut end = 0;
    for &(offset, length) in extents {
        put_number(out, offset - end);
        put_number(out, length);
        end = offset + length;
    }
}

/// Takes the operations of a chunk apart.
pub(super) struct Operations<'a>(pub &'a [u8]);

impl<'a> Operations<'a> {
    /// The next one, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Operation<'a>>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.operation().map(Some).ok_or(Error::Record("an operation is damaged"))
    }

    fn operation(&mut self) -> Option<Operation<'a>> {
        let tag = self.take(1)?[0];
        if tag == 0 {
            return self.bytes().map(Operation::Raw);
        }
        let path = self.bytes()?;
        let checksum = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        let parts = match tag {
            1 => Parts::Whole(self.number()?),
            2 => Parts::Extents(self.extents()?),
            _ => return None,
        };
        Some(Operation::Body { path, checksum, parts })
    }

    fn extents(&mut self) -> Option<Vec<(u64, u64)>> {
        let count = self.number()?;
        let mut extents = Vec::new();
        let mut end = 0_u64;
        for _ in 0..count {
            let offset = end.checked_add(self.number()?)?;
            let length = self.number()?;
            end = offset.checked_add(length)?;
            extents.push((offset, length));
        }
        Some(extents)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let digit = u64::from(byte & 0x7f);
            if digit << shift >> shift != digit {
                return None;
            }
            number |= digit << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_too_large_or_cut_short_is_damage() {
        let max = [&[0xff_u8; 9][..], &[0x01]].concat();
        assert_eq!(Operations(&max).number(), Some(u64::MAX));
        let larger = [&[0xff_u8; 9][..], &[0x02]].concat();
        assert_eq!(Operations(&larger).number(), None);
        assert_eq!(Operations(&[0x80; 11]).number(), None);
        assert_eq!(Operations(&[0x80]).number(), None);
    }

    fn operations(mut bytes: &[u8]) -> Result<Vec<Operation<'_>>> {
        let mut operations = Operations(std::mem::take(&mut bytes));
        let mut all = Vec::new();
        while let Some(operation) = operations.next()? {
            all.push(operation);
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(crate::testing::random(256, 1_000))]
        #[test]
        fn operations_round_trip(
            raw: Vec<u8>,
            path: Vec<u8>,
            checksum: u32,
            size: u64,
            runs: Vec<(u32, u32)>,
        ) {
            let mut end = 0;
            let extents: Vec<(u64, u64)> = runs.iter().map(|&(gap, length)| {
                let offset = end + u64::from(gap);
                end = offset + u64::from(length);
                (offset, u64::from(length))
            }).collect();
            let mut bytes = Vec::new();
            put_raw(&mut bytes, &raw);
            put_body(&mut bytes, &Body { path: &path, size, extents: None, checksum });
            put_body(&mut bytes, &Body { path: &path, size, extents: Some(&extents), checksum });
            let expected = vec![
                Operation::Raw(&raw),
                Operation::Body { path: &path, checksum, parts: Parts::Whole(size) },
                Operation::Body { path: &path, checksum, parts: Parts::Extents(extents) },
            ];
            prop_assert_eq!(operations(&bytes).unwrap(), expected);
        }

        #[test]
        fn damaged_operations_never_panic(bytes: Vec<u8>) {
            let _ = operations(&bytes);
        }
    }
}
