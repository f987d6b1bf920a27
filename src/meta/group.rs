//! Batches of several callers that become one synced write.

use std::mem;
use std::sync::{Arc, OnceLock};

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::batch::Batch;
use super::columns::{Column, Events};
use super::counts::{Change, Counted};
use super::encoded::{HEADER, Row, number_rows};
use super::flag::Flag;
use super::rows::handle;
use super::tail::Tail;
use super::write::Outcome;

/// How many bytes one synced write gathers: more would make the first of the group wait.
const GROUP: usize = 4 << 20;
/// Room for so many bytes is kept from group to group.
const KEPT: usize = 1 << 20;

/// Batches that are written together, and what their callers wait for.
#[derive(Debug, Default)]
pub(super) struct Group {
    batches: usize,
    /// Rows as RocksDB takes them, in the order in which the callers came.
    bytes: Vec<u8>,
    /// Where they stand, by column.
    rows: [Vec<Row>; Column::ALL.len()],
    /// Where the events' numbers stand.
    events: Vec<usize>,
    counts: Change,
    /// What RocksDB gets.
    sorted: Vec<u8>,
    fate: Arc<Fate>,
}

/// What becomes of a group.
#[derive(Debug, Default)]
pub(super) struct Fate {
    outcome: OnceLock<Outcome>,
    known: Flag,
}

impl Fate {
    pub(super) fn decide(&self, outcome: Outcome) {
        let _ = self.outcome.set(outcome);
        self.known.raise();
    }

    /// Waits until it is known.
    pub(super) fn wait(&self) -> Outcome {
        self.known.wait();
        self.outcome.get().cloned().expect("it is set before the flag is raised")
    }
}

impl Group {
    pub(super) fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    #[cfg(test)]
    pub(super) fn batches(&self) -> usize {
        self.batches
    }

    pub(super) fn has_room_for(&self, batch: &Batch) -> bool {
        self.batches == 0 || self.bytes.len() + batch.rows.bytes().len() <= GROUP
    }

    /// Adds a batch that has the store's column numbers.
    pub(super) fn add(&mut self, batch: Batch) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(batch.rows.bytes());
        for row in batch.rows.rows() {
            self.rows[row.column as usize].push(row.behind(at));
        }
        self.events.extend(batch.events.iter().map(|event| at + event));
        self.counts.append(batch.counts);
        self.batches += 1;
    }

    /// The room that it took, for another one.
    pub(super) fn emptied(mut self) -> Option<Self> {
        if self.bytes.capacity() > KEPT {
            return None;
        }
        self.batches = 0;
        self.bytes.clear();
        self.rows.iter_mut().for_each(Vec::clear);
        self.events.clear();
        self.counts = Change::default();
        self.fate = Arc::default();
        Some(self)
    }

    /// Writes it as one batch, synced, with its events numbered on from `tail`.
    pub(super) fn write(
        &mut self,
        db: &DB,
        tail: &Tail,
        counted: &Counted,
    ) -> Result<(), rocksdb::Error> {
        let mut bounds = tail.bounds();
        for at in &self.events {
            bounds.last += 1;
            let number = Events::row_key(bounds.last);
            self.bytes[*at..*at + number.len()].copy_from_slice(&number);
        }
        self.sort();
        let mut all = WriteBatch::from_data(&self.sorted);
        if let Some(first) = bounds.to_drop() {
            let events = handle(db, Column::Events);
            all.delete_range_cf(events, Events::row_key(0), Events::row_key(first));
            bounds.first = first;
        }
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        db.write_opt(all, &durable)?;
        counted.apply(mem::take(&mut self.counts));
        tail.moved(bounds);
        Ok(())
    }

    /// RocksDB finds the place of a row in a few steps if it lies near that of the row before. Rows of the same key stay
    /// in their order: the last one counts.
    fn sort(&mut self) {
        let (bytes, all) = (&self.bytes, &mut self.sorted);
        all.clear();
        all.resize(HEADER, 0);
        let mut count = 0;
        for rows in &mut self.rows {
            if self.batches > 1 {
                rows.sort_by(|a, b| a.key_in(bytes).cmp(b.key_in(bytes)));
            }
            count += rows.len();
            rows.iter().for_each(|row| all.extend_from_slice(row.all_in(bytes)));
        }
        number_rows(all, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_larger_than_a_group_goes_alone() {
        let of_size = |size: usize| {
            let mut batch = Batch::default();
            batch.put(Column::Labels, b"key", vec![7; size]);
            batch
        };
        let mut group = Group::default();
        assert!(group.has_room_for(&of_size(GROUP + 1)), "the first one always");
        group.add(of_size(GROUP / 2));
        assert!(
            group.has_room_for(&of_size(GROUP / 2 - 100))
                && !group.has_room_for(&of_size(GROUP / 2))
        );
        group.add(of_size(GROUP));
        assert!(!group.has_room_for(&of_size(1)));
        assert!(group.emptied().is_none(), "its room is not kept");
    }
}
