//! Leases against what they hold, and the list of what was made under one.

use super::{Check, snapshot_name};
use crate::meta::batch::Batch;
use crate::meta::columns::{Collectable, Column, Holders, LeaseResources, Leases};
use crate::meta::error::Result;
use crate::types::{LEASED_SNAPSHOT, LeaseId, Leased, Namespace, Snapshot, SnapshotKey};

impl Check<'_> {
    /// A lease and what it holds know of each other, and both exist.
    pub(super) fn leases(&mut self) -> Result<()> {
        self.each(
            Column::LeaseResources,
            |check, row_key, _| match LeaseResources::decode_row_key(row_key) {
                Ok((ns, lease, what)) => check.hold(&ns, &lease, &what),
                Err(error) => check.bad_row(Column::LeaseResources, row_key, &error.to_string()),
            },
        )?;
        self.each(Column::Holders, |check, row_key, _| {
            let (ns, lease, what) = match Holders::decode_row_key(row_key) {
                Ok(row) => row,
                Err(error) => return check.bad_row(Column::Holders, row_key, &error.to_string()),
            };
            let row = LeaseResources::row_key(&ns, &lease, &what);
            let sound = check.moment.get(Column::LeaseResources, &row)?.is_some();
            check.unless(sound, Column::Holders, row_key, || {
                format!("{} names lease {lease}, which doesn't hold it", name(&ns, &what))
            })
        })?;
        self.each(Column::Collectable, |check, row_key, _| {
            let (ns, key) = match Collectable::decode_row_key(row_key) {
                Ok(row) => row,
                Err(error) => {
                    return check.bad_row(Column::Collectable, row_key, &error.to_string());
                }
            };
            let sound = check.record(&ns, &key)?.is_some_and(|snapshot| snapshot.collectable);
            check.unless(sound, Column::Collectable, row_key, || {
                format!("{ns}/{key} is listed as made under a lease, but wasn't, or is missing")
            })
        })
    }

    fn hold(&mut self, ns: &Namespace, lease: &LeaseId, what: &Leased) -> Result<()> {
        let held = name(ns, what);
        let gone = match self.moment.get(Column::Leases, &Leases::row_key(ns, lease))? {
            None => Some(format!("it is held by lease {lease}, which is missing")),
            Some(_) if self.is_missing(ns, what)? => {
                Some(format!("it is held by lease {lease}, but is missing"))
            }
            Some(_) => None,
        };
        let mut mend = Batch::default();
        if let Some(problem) = gone {
            mend.let_go(ns, lease, what);
            self.mendable(held, problem, "forget that the lease holds it", mend);
        } else if self.moment.get(Column::Holders, &Holders::row_key(ns, lease, what))?.is_none() {
            mend.hold(ns, lease, what);
            let problem = format!("it doesn't know that lease {lease} holds it");
            self.mendable(held, problem, "make the row anew", mend);
        }
        Ok(())
    }

    /// Of other kinds the layer above knows.
    fn is_missing(&self, ns: &Namespace, what: &Leased) -> Result<bool> {
        match SnapshotKey::new(what.id.clone()) {
            Ok(key) if what.kind == LEASED_SNAPSHOT => Ok(self.record(ns, &key)?.is_none()),
            _ => Ok(what.kind == LEASED_SNAPSHOT),
        }
    }

    /// A snapshot that was made under a lease is listed as such.
    pub(super) fn collectable(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let row = Collectable::row_key(ns, key);
        if !snapshot.collectable || self.moment.get(Column::Collectable, &row)?.is_some() {
            return Ok(());
        }
        let mut mend = Batch::default();
        mend.put(Column::Collectable, row, []);
        let problem = "it is missing among those made under a lease".to_owned();
        self.mendable(snapshot_name(ns, key), problem, "make the row anew", mend);
        Ok(())
    }
}

fn name(ns: &Namespace, what: &Leased) -> String {
    format!("{} {ns}/{}", what.kind, what.id)
}
