//! The four ways in which GNU tar writes files with holes.

use super::header::Block;
use super::numbers::{decimal, numeric};
use super::{BLOCK, Extents};

/// What the PAX records of all sparse formats start with.
pub(super) const PREFIX: &[u8] = b"GNU.sparse.";

/// More runs of data than this in one file are refused: 2^20 fragments are a map of some 20 MB.
pub(super) const MOST_EXTENTS: usize = 1 << 20;

const DAMAGED: &str = "a sparse file's map is damaged";

/// The PAX records of a sparse file. Empty values count as absent.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxRecords {
    major: Vec<u8>,
    minor: Vec<u8>,
    pub name: Vec<u8>,
    size: Vec<u8>,
    real_size: Vec<u8>,
    blocks: Vec<u8>,
    map: Vec<u8>,
    /// Format 0.0 repeats two keys, offset and length by turns.
    pairs: Vec<Vec<u8>>,
}

/// Where a file's map is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PaxFormat {
    /// In the records (0.0, 0.1).
    Records,
    /// At the head of the content (1.0).
    Content,
}

impl PaxRecords {
    /// `None`: the value is not allowed at this place.
    pub(super) fn merge(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let field = match &key[PREFIX.len()..] {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.blocks,
            b"map" => &mut self.map,
            turn @ (b"offset" | b"numbytes") => {
                let expected: &[u8] =
                    if self.pairs.len().is_multiple_of(2) { b"offset" } else { b"numbytes" };
                if turn != expected || value.contains(&b',') {
                    return None;
                }
                self.pairs.push(value.to_vec());
                return Some(());
            }
            _ => return Some(()),
        };
        *field = value.to_vec();
        Some(())
    }

    fn map(&self) -> Vec<u8> {
        if self.pairs.is_empty() { self.map.clone() } else { self.pairs.join(&b','.to_owned()) }
    }

    /// Whether, and how, the file is sparse.
    pub(super) fn format(&self) -> Option<PaxFormat> {
        match (&*self.major, &*self.minor) {
            (b"0", b"0" | b"1") => Some(PaxFormat::Records),
            (b"1", b"0") => Some(PaxFormat::Content),
            (b"", b"") if !self.map().is_empty() => Some(PaxFormat::Records),
            _ => None,
        }
    }

    /// The file's true size, if it is given.
    pub(super) fn real_size(&self) -> Result<Option<i64>, &'static str> {
        let size = if self.size.is_empty() { &self.real_size } else { &self.size };
        if size.is_empty() { Ok(None) } else { decimal(size).ok_or(DAMAGED).map(Some) }
    }

    /// The map of the formats 0.0 and 0.1.
    pub(super) fn extents(&self) -> Result<Vec<(i64, i64)>, &'static str> {
        let map = self.map();
        let numbers = map.split(|&byte| byte == b',').filter(|_| !map.is_empty());
        let numbers: Vec<i64> = numbers.map(decimal).collect::<Option<_>>().ok_or(DAMAGED)?;
        let count = decimal(&self.blocks).and_then(|count| usize::try_from(count).ok());
        if !numbers.len().is_multiple_of(2) || count != Some(numbers.len() / 2) {
            return Err(DAMAGED);
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// The true size in an old GNU header.
pub(super) fn old_size(header: &Block) -> Result<i64, &'static str> {
    numeric(&header[483..495]).ok_or(DAMAGED)
}

/// The entries in an old GNU header (`extension` false) or in one of the blocks that follow it.
/// True: one more block follows.
pub(super) fn old_extents(
    block: &Block,
    extension: bool,
    extents: &mut Vec<(i64, i64)>,
) -> Result<bool, &'static str> {
    let (entries, more) = if extension { (0..504, 504) } else { (386..482, 482) };
    for entry in block[entries].chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        let number = |field| numeric(field).ok_or(DAMAGED);
        extents.push((number(&entry[..12])?, number(&entry[12..])?));
    }
    if extents.len() > MOST_EXTENTS {
        return Err("a sparse file has too many fragments");
    }
    Ok(block[more] > 0)
}

/// Reads the map of format 1.0, which is lines of decimal numbers padded to a block: how many
/// runs, then an offset and a length for each.
#[derive(Default)]
pub(super) struct ContentMap {
    line: Vec<u8>,
    count: Option<usize>,
    numbers: Vec<i64>,
}

impl ContentMap {
    /// Takes the next block. True: the map is complete.
    pub(super) fn feed(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        for &byte in block {
            if self.complete() {
                return Ok(true);
            }
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > 20 {
                    return Err(DAMAGED);
                }
                continue;
            }
            let number = decimal(&self.line).ok_or(DAMAGED)?;
            self.line.clear();
            if self.count.is_some() {
                self.numbers.push(number);
                continue;
            }
            let count = usize::try_from(number).map_err(|_| DAMAGED)?;
            if count > MOST_EXTENTS {
                return Err("a sparse file has too many fragments");
            }
            self.count = Some(count);
        }
        Ok(self.complete())
    }

    fn complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() == 2 * count)
    }

    /// The complete map.
    pub(super) fn extents(self) -> Vec<(i64, i64)> {
        self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }
}

/// Checks a map: in order, without overlap, within the file's size, and exactly as long as the
/// content that the archive holds.
pub(super) fn check(
    runs: &[(i64, i64)],
    size: i64,
    content: u64,
) -> Result<(u64, Extents), &'static str> {
    let size = u64::try_from(size).map_err(|_| DAMAGED)?;
    let (mut end, mut total) = (0, 0_u64);
    let mut extents = Vec::with_capacity(runs.len());
    for &(offset, length) in runs {
        let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
            return Err(DAMAGED);
        };
        // Neither sum can overflow: both numbers are below 2^63.
        if offset < end || offset + length > size {
            return Err(DAMAGED);
        }
        end = offset + length;
        total += length;
        if length > 0 {
            extents.push((offset, length));
        }
    }
    if total != content {
        return Err("a sparse file's map and its content differ in length");
    }
    Ok((size, extents))
}
