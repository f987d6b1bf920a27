//! Rows as RocksDB takes and logs them, so that each caller encodes its own part and who writes a group only puts them
//! one behind the other.
//!
//! ```text
//! batch  = sequence number (8 bytes) count (4 bytes) row*
//! row    = 5 column key value | 4 column key          puts | deletes
//! column = number of the column family (varint; ours are below 127)
//! key, value = length (varint) bytes
//! ```
//!
//! It is the form of RocksDB's log, which every later version must be able to replay. [`Numbers::learn`] sees at each
//! opening that the RocksDB at hand means the same by it.

use rocksdb::{DB, WriteBatch};

use super::columns::Column;
use super::rows::handle;

const PUT: u8 = 5;
const DELETE: u8 = 4;
/// Sequence number and count.
pub(super) const HEADER: usize = 12;

/// Stands for the column until [`Encoded::address`]: RocksDB refuses it.
const UNKNOWN: u8 = 0x7f;

/// Rows one behind the other. They get the column families' numbers of a store when it is known which.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) column: Column,
    pub(super) start: usize,
    pub(super) key: usize,
    pub(super) key_end: usize,
    pub(super) end: usize,
}

impl Row {
    /// Where it stands behind others.
    pub(super) fn behind(self, at: usize) -> Self {
        Self {
            start: at + self.start,
            key: at + self.key,
            key_end: at + self.key_end,
            end: at + self.end,
            ..self
        }
    }

    pub(super) fn key_in(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.key..self.key_end]
    }

    pub(super) fn all_in(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..self.end]
    }
}

impl Encoded {
    pub(super) fn reserve(&mut self, bytes: usize, rows: usize) {
        self.bytes.reserve(bytes);
        self.rows.reserve(rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Tells where the key stands.
    pub(super) fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> usize {
        self.add(PUT, column, key, Some(value))
    }

    pub(super) fn delete(&mut self, column: Column, key: &[u8]) {
        self.add(DELETE, column, key, None);
    }

    /// Adds the rows of another behind these, and tells where they begin.
    pub(super) fn append(&mut self, other: &Encoded) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.rows.extend(other.rows.iter().map(|row| row.behind(at)));
        at
    }

    /// Puts in the column families' numbers of the store that it is for.
    pub(super) fn address(&mut self, numbers: &Numbers) {
        for row in &self.rows {
            self.bytes[row.start + 1] = numbers.0[row.column as usize];
        }
    }

    /// For RocksDB, once they have its numbers.
    pub(super) fn to_rocksdb(&self) -> WriteBatch {
        WriteBatch::from_data(&with_header(&self.bytes, self.rows.len()))
    }

    fn add(&mut self, tag: u8, column: Column, key: &[u8], value: Option<&[u8]>) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[tag, UNKNOWN]);
        self.push(key);
        let key_end = self.bytes.len();
        if let Some(value) = value {
            self.push(value);
        }
        let at = key_end - key.len();
        self.rows.push(Row { column, start, key: at, key_end, end: self.bytes.len() });
        at
    }

    fn push(&mut self, text: &[u8]) {
        let mut length = text.len();
        while length >= 0x80 {
            self.bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.bytes.push(length as u8);
        self.bytes.extend_from_slice(text);
    }
}

/// RocksDB's numbers of a store's column families, in the order of [`Column::ALL`].
#[derive(Debug, Clone)]
pub(super) struct Numbers([u8; Column::ALL.len()]);

impl Numbers {
    /// Has RocksDB encode rows and compares; `None`: it does so in another way.
    pub(super) fn learn(db: &DB) -> Option<Self> {
        let mut numbers = Self([0; Column::ALL.len()]);
        for (at, column) in Column::ALL.into_iter().enumerate() {
            let (mut theirs, mut ours) = (WriteBatch::default(), Encoded::default());
            for (key, value) in [(&b"key"[..], &b""[..]), (b"", &[7; 300])] {
                theirs.put_cf(handle(db, column), key, value);
                theirs.delete_cf(handle(db, column), key);
                ours.put(column, key, value);
                ours.delete(column, key);
            }
            numbers.0[at] = *theirs.data().get(HEADER + 1).filter(|number| **number < UNKNOWN)?;
            ours.address(&numbers);
            let ours = with_header(ours.bytes(), ours.rows.len());
            (ours == theirs.data()).then_some(())?;
        }
        Some(numbers)
    }
}

fn with_header(rows: &[u8], count: usize) -> Vec<u8> {
    let mut batch = vec![0; HEADER];
    batch.extend_from_slice(rows);
    number_rows(&mut batch, count);
    batch
}

/// Writes the header of a batch that begins with room for it. RocksDB gives the sequence number.
pub(super) fn number_rows(batch: &mut [u8], count: usize) {
    let count = u32::try_from(count).expect("a batch of gigabytes doesn't fit into memory");
    batch[8..HEADER].copy_from_slice(&count.to_le_bytes());
}
