//! Writing: synced batches, fail-stop, and the ranges that snapshot ids come from.

#[cfg(test)]
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::Batch;
use super::columns::{Column, System};
use super::error::{Error, Result};
#[cfg(test)]
use super::writer::{WriteFault, Writer};
use super::{Store, rows};
use crate::crashpoint::{Step, around};
use crate::types::SnapshotId;

/// How many snapshot ids one synced write reserves.
const IDS_A_RANGE: u64 = 1024;

/// Snapshot ids that this process may hand out without a write.
#[derive(Debug)]
pub(super) struct IdRange {
    next: u64,
    end: u64,
}

/// What became of a write.
pub(super) type Outcome = std::result::Result<(), Failed>;

/// Why a group of batches was not written; each caller of the group is told.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    /// An earlier write had failed: this one was not tried.
    Poisoned(String),
    /// RocksDB failed.
    Write(rocksdb::Error),
    /// Whoever wrote it panicked.
    Panicked,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Poisoned(reason) => Error::Poisoned { reason },
            Failed::Write(source) => Error::Write { source },
            Failed::Panicked => Error::WritePanicked,
        }
    }
}

impl IdRange {
    /// Ids from here on were never handed out, by any process.
    pub(super) fn reserved_end(&self) -> u64 {
        self.end
    }

    /// Ids that an earlier process reserved and may not have used are never given again.
    pub(super) fn load(db: &rocksdb::DB) -> Result<Mutex<Self>> {
        let what = || "the snapshot id counter".to_owned();
        let reserved_end = rows::get(db, Column::System, System::SNAPSHOT_IDS, what)?
            .map(|record| System::decode_snapshot_ids(&record))
            .transpose()
            .map_err(|source| Error::Corrupt { what: what(), source })?
            .unwrap_or(1);
        Ok(Mutex::new(Self { next: reserved_end, end: reserved_end }))
    }
}

impl Store {
    /// Applies a batch. When it returns Ok the batch is on stable storage and its events can be
    /// read; concurrent callers share one synced write (`committer.rs`).
    ///
    /// After a failure the store is poisoned: it can be read, but every later write is refused with
    /// [`Error::Poisoned`], for nobody knows what the disk holds until the store is opened anew.
    /// [`Error::may_have_been_written`] tells the two apart.
    pub fn write(&self, batch: Batch) -> Result<()> {
        Ok(self.write_named(batch)?)
    }

    /// [`write`](Self::write) for several batches in one synced write, with the crash points of the first one's step. One
    /// outcome for each.
    pub fn write_all(&self, batches: Vec<Batch>) -> Vec<Result<()>> {
        let count = batches.len();
        let Some(all) = batches.into_iter().reduce(Batch::and) else { return Vec::new() };
        let written = self.write_named(all);
        (0..count).map(|_| written.clone().map_err(Error::from)).collect()
    }

    fn write_named(&self, mut batch: Batch) -> Outcome {
        let step = batch.step();
        batch.rows.address(&self.numbers);
        // The points are the caller's, on its own thread, whoever writes the group.
        around_named(step, || self.committer.commit(batch))
    }

    /// Applies a batch without waiting for the disk: a power cut may undo it. It is never undone
    /// alone: what was written later goes with it, for the log is read up to its first tear. So
    /// for what is only a note that something is done which may be done again. Publishes no event.
    pub fn write_lazily(&self, mut batch: Batch) -> Result<()> {
        batch.rows.address(&self.numbers);
        let step = batch.step();
        Ok(around_named(step, || self.writer.write_beside(batch))?)
    }

    /// Makes the next write fail.
    #[cfg(test)]
    pub(crate) fn fail_next_write(&self, fault: WriteFault) {
        self.writer.fail_next(fault);
    }

    /// Why the store accepts no more changes, once a write has failed.
    pub fn poisoned(&self) -> Option<String> {
        self.writer.poison().cloned()
    }

    /// Whether any process ever reserved ids: else the store is new.
    pub fn has_given_ids(&self) -> bool {
        self.ids.lock().end > 1
    }

    /// Hands out the next snapshot id. Ranges of 1,024 are reserved durably ahead of use, so an id
    /// is never given twice, whatever crashes; those left over of a range are skipped by the next
    /// process.
    pub fn next_snapshot_id(&self) -> Result<SnapshotId> {
        let mut ids = self.ids.lock();
        if ids.next == ids.end {
            let end = ids.end + IDS_A_RANGE;
            if end > u64::from(u32::MAX) {
                return Err(Error::IdsExhausted);
            }
            let mut batch = Batch::of(Step::StoreIds);
            batch.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(end));
            self.write(batch)?;
            ids.end = end;
        }
        let id = u32::try_from(ids.next).map_err(|_| Error::IdsExhausted)?;
        ids.next += 1;
        Ok(SnapshotId(id))
    }
}

/// Does a write, with the crash points of the step that its batch is for, if it says one.
fn around_named<T>(step: Option<Step>, write: impl FnOnce() -> T) -> T {
    match step {
        Some(step) => around(step, write),
        None => write(),
    }
}

/// Asked at each write, by tests that let everything die at some moment.
#[cfg(test)]
pub(super) type Fate = Box<dyn Fn() -> Option<WriteFault> + Send + Sync>;

/// For tests that restart everything above the store thousands of times.
#[cfg(test)]
impl Store {
    /// The store as an open after a crash finds it, without the time that opening files takes.
    pub(crate) fn revived(self, fate: Fate) -> Result<Self> {
        let counted = Arc::new(super::counts::Counted::load(&self.db));
        let (db, tail) = (Arc::clone(&self.db), Arc::clone(&self.tail));
        let writer = Arc::new(Writer::new(db, tail, Arc::clone(&counted)).with_fate(fate));
        let (ids, committer) = (IdRange::load(&self.db)?, super::start(&writer)?);
        Ok(Self { ids, counted, committer, writer, ..self })
    }

    /// Empties it of all but its schema. To be revived next.
    pub(crate) fn wipe(&self) -> Result<()> {
        let mut batch = rocksdb::WriteBatch::default();
        for column in Column::ALL.into_iter().filter(|column| *column != Column::System) {
            rows::Moment::now(&self.db).scan(column, &[], None, &mut |key, _| {
                batch.delete_cf(rows::handle(&self.db, column), key);
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
        }
        for key in [System::POOL, System::KEEPING] {
            batch.delete_cf(rows::handle(&self.db, Column::System), key);
        }
        self.db.write(batch).map_err(|source| Error::Write { source })
    }
}

#[cfg(test)]
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
