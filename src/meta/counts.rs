//! How many snapshots there are: counted once when the store is opened, then kept by who writes, so that asking
//! costs the same over any number.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use parking_lot::Mutex;
use rocksdb::DB;

use super::Store;
use super::columns::{Column, Kinds};
use super::rows::Moment;
use crate::types::{Counts, Kind, Namespace};

/// Snapshots that a batch adds and removes.
#[derive(Debug, Default)]
pub(super) struct Change(Vec<(Namespace, Kind, bool)>);

impl Change {
    pub(super) fn add(&mut self, ns: &Namespace, kind: Kind) {
        self.0.push((ns.clone(), kind, true));
    }

    pub(super) fn remove(&mut self, ns: &Namespace, kind: Kind) {
        self.0.push((ns.clone(), kind, false));
    }

    pub(super) fn append(&mut self, mut other: Change) {
        self.0.append(&mut other.0);
    }
}

/// The counts as of the last write. Follows the rows of `kinds`, whatever other rows say.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<BTreeMap<Namespace, Counts>>);

impl Counted {
    pub(super) fn load(db: &DB) -> Self {
        let counted = Self::default();
        counted.recount(db);
        counted
    }

    /// Counts anew. A row that can't be read is for `check` to tell; a number too small stops nobody.
    pub(super) fn recount(&self, db: &DB) {
        let mut counts: BTreeMap<Namespace, Counts> = BTreeMap::new();
        let counted = Moment::now(db).scan(Column::Kinds, b"", None, &mut |row_key, _| {
            if let Ok((ns, kind, _)) = Kinds::decode_row_key(row_key) {
                *counts.entry(ns).or_default().of(kind) += 1;
            }
            Ok(ControlFlow::Continue(()))
        });
        if let Err(error) = counted {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "not all snapshots could be counted: run `thinfs check`");
        }
        *self.0.lock() = counts;
    }

    /// The change has become durable.
    pub(super) fn apply(&self, change: Change) {
        let mut counts = self.0.lock();
        for (ns, kind, added) in change.0 {
            let of_namespace = match counts.get_mut(&ns) {
                Some(of_namespace) => of_namespace,
                None => counts.entry(ns.clone()).or_default(),
            };
            let count = of_namespace.of(kind);
            *count = if added { *count + 1 } else { count.saturating_sub(1) };
            if *of_namespace == Counts::default() {
                counts.remove(&ns);
            }
        }
    }
}

impl Store {
    /// How many snapshots each namespace holds that holds any. Reads nothing from the disk.
    pub fn counts(&self) -> BTreeMap<Namespace, Counts> {
        self.counted.0.lock().clone()
    }

    /// How many snapshots the namespace holds. Reads nothing from the disk.
    pub fn count_in(&self, ns: &Namespace) -> u64 {
        let counts = self.counted.0.lock();
        counts.get(ns).map_or(0, |counts| counts.active + counts.view + counts.committed)
    }
}
