//! Namespaces as things of their own: records, and what makes one not empty.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::columns::{Collectable, Column, Leases, Namespaces, Snapshots};
use super::error::Result;
use super::read::corrupt;
use super::rows::{Moment, get};
use super::{Batch, Store};
use crate::types::{Namespace, NamespaceRecord};

impl Batch {
    /// Adds or replaces a namespace's record.
    pub fn put_namespace(&mut self, ns: &Namespace, record: &NamespaceRecord) {
        self.put(Column::Namespaces, Namespaces::row_key(ns), Namespaces::encode(record));
    }

    /// Forgets a namespace's record; what lives in it is the caller's to see to.
    pub fn delete_namespace(&mut self, ns: &Namespace) {
        self.delete(Column::Namespaces, Namespaces::row_key(ns));
    }
}

impl Store {
    /// The record of a namespace; `None`: it has none, whether or not anything lives in it.
    pub fn namespace(&self, ns: &Namespace) -> Result<Option<NamespaceRecord>> {
        let what = || format!("the record of namespace {ns}");
        get(&self.db, Column::Namespaces, &Namespaces::row_key(ns), what)?
            .map(|record| Namespaces::decode(&record).map_err(|source| corrupt(what(), source)))
            .transpose()
    }

    /// All namespaces, in order: those with a record, and those that hold a snapshot or a lease.
    pub fn all_namespaces(&self) -> Result<BTreeMap<Namespace, Option<NamespaceRecord>>> {
        let mut all = BTreeMap::new();
        all.extend(self.namespaces()?.into_iter().map(|ns| (ns, None)));
        all.extend(self.lease_namespaces()?.into_iter().map(|ns| (ns, None)));
        self.moment().scan(Column::Namespaces, b"", None, &mut |row_key, record| {
            let ns = Namespaces::decode_row_key(row_key)
                .map_err(|e| corrupt("a namespace's row".to_owned(), e))?;
            let record = Namespaces::decode(record)
                .map_err(|e| corrupt(format!("the record of namespace {ns}"), e))?;
            all.insert(ns, Some(record));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// Whether a snapshot lives in the namespace.
    pub fn has_snapshots(&self, ns: &Namespace) -> Result<bool> {
        any(&self.moment(), Column::Snapshots, &Snapshots::prefix(ns))
    }

    /// Whether the namespace has leases.
    pub fn has_leases(&self, ns: &Namespace) -> Result<bool> {
        any(&self.moment(), Column::Leases, &Leases::prefix(ns))
    }

    /// Whether a snapshot of the namespace was made under a lease.
    pub fn has_collectable(&self, ns: &Namespace) -> Result<bool> {
        any(&self.moment(), Column::Collectable, &Collectable::prefix(ns))
    }

    /// Namespaces with leases, in order. Jumps from one to the next.
    fn lease_namespaces(&self) -> Result<Vec<Namespace>> {
        let moment = self.moment();
        let mut namespaces: Vec<Namespace> = Vec::new();
        loop {
            let start = namespaces.last().map(Leases::after_namespace).unwrap_or_default();
            let before = namespaces.len();
            moment.scan(Column::Leases, &start, None, &mut |row_key, _| {
                let (ns, _) = Leases::decode_row_key(row_key)
                    .map_err(|e| corrupt("a lease's row".to_owned(), e))?;
                namespaces.push(ns);
                Ok(ControlFlow::Break(()))
            })?;
            if namespaces.len() == before {
                return Ok(namespaces);
            }
        }
    }
}

fn any(moment: &Moment<'_>, column: Column, prefix: &[u8]) -> Result<bool> {
    let mut found = false;
    moment.scan_prefix(column, prefix, &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
