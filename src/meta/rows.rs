//! Reading rows: one by key, or all that share a prefix, as of one moment.

use std::ops::ControlFlow;

use rocksdb::{ColumnFamily, DB, ReadOptions};

use super::columns::Column;
use super::error::{Error, Result};

/// What a scan calls with each row's key and value.
pub(super) type VisitRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>;

/// The open column family.
pub(super) fn handle(db: &DB, column: Column) -> &ColumnFamily {
    db.cf_handle(column.name()).expect("the store is opened with every column family")
}

/// Reads one row as of now.
pub(super) fn get(
    db: &DB,
    column: Column,
    key: &[u8],
    what: impl FnOnce() -> String,
) -> Result<Option<Vec<u8>>> {
    db.get_cf(handle(db, column), key).map_err(|source| Error::Read { what: what(), source })
}

/// The store as of one moment: what is read through one `Moment` fits together, whatever is written
/// meanwhile. Holds no lock; old versions of rows are kept on disk while it lives.
pub(super) struct Moment<'a> {
    db: &'a DB,
    snapshot: rocksdb::Snapshot<'a>,
}

impl<'a> Moment<'a> {
    pub(super) fn now(db: &'a DB) -> Self {
        Self { db, snapshot: db.snapshot() }
    }

    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.snapshot
            .get_cf(handle(self.db, column), key)
            .map_err(|source| Error::Read { what: format!("column {}", column.name()), source })
    }

    /// Calls `visit` with each row from `start` up to, not including, `end`, in order, until it
    /// breaks.
    pub(super) fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        visit: VisitRow<'_>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = self.snapshot.raw_iterator_cf_opt(handle(self.db, column), options);
        rows.seek(start);
        while let Some((key, value)) = rows.item() {
            if visit(key, value)?.is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status()
            .map_err(|source| Error::Read { what: format!("column {}", column.name()), source })
    }

    /// [`Moment::scan`] over the rows that start with `prefix`.
    pub(super) fn scan_prefix(
        &self,
        column: Column,
        prefix: &[u8],
        visit: VisitRow<'_>,
    ) -> Result<()> {
        self.scan(column, prefix, Some(&end_of(prefix)), visit)
    }
}

/// The first row key after all that start with `prefix`, which holds a byte below 255 (the NUL after
/// its namespace).
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    let last = end.last_mut().expect("a prefix holds a NUL");
    *last += 1;
    end
}
