//! Leases and what they hold. A resource row and its row among the holders change in one batch.

use std::ops::ControlFlow;

use super::columns::{Column, Holders, LeaseResources, Leases};
use super::error::Result;
use super::read::corrupt;
use super::rows::get;
use super::{Batch, Store};
use crate::types::{Lease, LeaseId, Leased, Namespace};

impl Batch {
    /// Adds or replaces a lease; what it holds stays.
    pub fn put_lease(&mut self, ns: &Namespace, lease: &Lease) {
        self.put(Column::Leases, Leases::row_key(ns, &lease.id), Leases::encode(lease));
    }

    /// Forgets a lease and that it holds these, which must be all.
    pub fn delete_lease(&mut self, ns: &Namespace, lease: &LeaseId, holds: &[Leased]) {
        self.delete(Column::Leases, Leases::row_key(ns, lease));
        holds.iter().for_each(|what| self.let_go(ns, lease, what));
    }

    /// The lease holds this from now on.
    pub fn hold(&mut self, ns: &Namespace, lease: &LeaseId, what: &Leased) {
        self.put(Column::LeaseResources, LeaseResources::row_key(ns, lease, what), []);
        self.put(Column::Holders, Holders::row_key(ns, lease, what), []);
    }

    /// The lease holds this no longer.
    pub fn let_go(&mut self, ns: &Namespace, lease: &LeaseId, what: &Leased) {
        self.delete(Column::LeaseResources, LeaseResources::row_key(ns, lease, what));
        self.delete(Column::Holders, Holders::row_key(ns, lease, what));
    }
}

impl Store {
    /// The lease with this id.
    pub fn lease(&self, ns: &Namespace, id: &LeaseId) -> Result<Option<Lease>> {
        let what = || format!("the record of lease {ns}/{id}");
        get(&self.db, Column::Leases, &Leases::row_key(ns, id), what)?
            .map(|record| {
                Leases::decode(id.clone(), &record).map_err(|source| corrupt(what(), source))
            })
            .transpose()
    }

    /// All leases of the namespace, by id.
    pub fn leases(&self, ns: &Namespace) -> Result<Vec<Lease>> {
        let mut leases = Vec::new();
        self.moment().scan_prefix(
            Column::Leases,
            &Leases::prefix(ns),
            &mut |row_key, record| {
                let (_, id) = Leases::decode_row_key(row_key)
                    .map_err(|e| corrupt(format!("a lease's row in namespace {ns}"), e))?;
                let what = format!("the record of lease {ns}/{id}");
                leases.push(Leases::decode(id, record).map_err(|source| corrupt(what, source))?);
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(leases)
    }

    /// All that a lease holds, in order.
    pub fn held_by(&self, ns: &Namespace, lease: &LeaseId) -> Result<Vec<Leased>> {
        let prefix = LeaseResources::prefix(ns, lease);
        let what = || format!("a row of what lease {ns}/{lease} holds");
        let mut holds = Vec::new();
        self.moment().scan_prefix(Column::LeaseResources, &prefix, &mut |row_key, _| {
            let (_, _, held) =
                LeaseResources::decode_row_key(row_key).map_err(|e| corrupt(what(), e))?;
            holds.push(held);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(holds)
    }

    /// The leases that hold this, in order.
    pub fn holders(&self, ns: &Namespace, what: &Leased) -> Result<Vec<LeaseId>> {
        let row = || format!("a row of the leases that hold {} {ns}/{}", what.kind, what.id);
        let mut leases = Vec::new();
        self.moment().scan_prefix(Column::Holders, &Holders::prefix(ns, what), &mut |key, _| {
            let (_, lease, _) = Holders::decode_row_key(key).map_err(|e| corrupt(row(), e))?;
            leases.push(lease);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(leases)
    }
}
