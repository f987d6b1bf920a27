//! The one who writes: RocksDB, what follows a durable batch, and why there won't be another one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use rocksdb::DB;

use super::batch::Batch;
use super::counts::Counted;
use super::group::Group;
use super::tail::Tail;
#[cfg(test)]
use super::write::Fate;
use super::write::{Failed, Outcome};

/// What writing takes.
#[cfg_attr(not(test), derive(Debug))]
pub(super) struct Writer {
    db: Arc<DB>,
    tail: Arc<Tail>,
    counted: Arc<Counted>,
    /// Why a write failed, once one has.
    poison: OnceLock<String>,
    /// The next write of a group.
    #[cfg(test)]
    fault: parking_lot::Mutex<Option<WriteFault>>,
    /// Every write.
    #[cfg(test)]
    fate: Option<Fate>,
}

/// Where a test makes a write fail.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFault {
    /// Nothing reaches the disk.
    Before,
    /// All of it reaches the disk, but the caller is told of a failure.
    After,
    /// Whoever writes panics before anything reaches the disk.
    Panic,
}

impl Writer {
    pub(super) fn new(db: Arc<DB>, tail: Arc<Tail>, counted: Arc<Counted>) -> Self {
        Self {
            db,
            tail,
            counted,
            poison: OnceLock::new(),
            #[cfg(test)]
            fault: Default::default(),
            #[cfg(test)]
            fate: None,
        }
    }

    /// Why nothing is written any more.
    pub(super) fn poison(&self) -> Option<&String> {
        self.poison.get()
    }

    /// Writes a group, synced. By one thread at a time.
    pub(super) fn write(&self, group: &mut Group) -> Outcome {
        self.unless_poisoned(|| {
            let write = |group: &mut Group| group.write(&self.db, &self.tail, &self.counted);
            #[cfg(test)]
            return failing(self.fault.lock().take().or_else(|| self.fate.as_ref()?()), || {
                write(group)
            });
            #[cfg(not(test))]
            write(group)
        })
    }

    /// Writes one batch beside the groups, without waiting for the disk. It publishes nothing: only who writes a
    /// group may give numbers.
    pub(super) fn write_beside(&self, batch: Batch) -> Outcome {
        debug_assert!(batch.events.is_empty(), "an event must not be lost");
        self.unless_poisoned(|| {
            let write = || self.db.write(batch.rows.to_rocksdb());
            #[cfg(test)]
            let write = || failing(self.fate.as_ref().and_then(|fate| fate()), write);
            write()?;
            self.counted.apply(batch.counts);
            Ok(())
        })
    }

    /// After a failure or a panic nobody knows what the disk holds.
    fn unless_poisoned(&self, write: impl FnOnce() -> Result<(), rocksdb::Error>) -> Outcome {
        if let Some(reason) = self.poison.get() {
            return Err(Failed::Poisoned(reason.clone()));
        }
        let written = catch_unwind(AssertUnwindSafe(write));
        let failed = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(source)) => Failed::Write(source),
            Err(_) => Failed::Panicked,
        };
        let _ = self.poison.set(match &failed {
            Failed::Write(source) => source.to_string(),
            _ => "a panic while writing".to_owned(),
        });
        Err(failed)
    }
}

#[cfg(test)]
impl Writer {
    pub(super) fn fail_next(&self, fault: WriteFault) {
        *self.fault.lock() = Some(fault);
    }

    pub(super) fn with_fate(self, fate: Fate) -> Self {
        Self { fate: Some(fate), ..self }
    }
}

/// A write as the fault has it.
#[cfg(test)]
fn failing(
    fault: Option<WriteFault>,
    write: impl FnOnce() -> Result<(), rocksdb::Error>,
) -> Result<(), rocksdb::Error> {
    match fault {
        None => write(),
        Some(WriteFault::Before) => Err(an_error()),
        Some(WriteFault::After) => write().and(Err(an_error())),
        Some(WriteFault::Panic) => panic!("a test has the write panic"),
    }
}

/// RocksDB's error type has no constructor; looking for a store where there is none gives one.
#[cfg(test)]
fn an_error() -> rocksdb::Error {
    DB::list_cf(&rocksdb::Options::default(), "/proc/self/no-store")
        .expect_err("/proc/self holds no store")
}
