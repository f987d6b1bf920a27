//! What leases have to do with snapshots: a snapshot and the lease that holds it change together.

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::error::{Error, Result};
use super::locks::Mode;
use super::references::References;
use super::{Info, Snapshots};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Lease, LeaseId, Leased, Namespace, SnapshotKey};

impl Snapshots {
    /// References in the making; see there.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// To be held from the look at a lease until the batch that makes it hold something is durable.
    pub fn leases_stay(&self) -> RwLockReadGuard<'_, ()> {
        self.leases.read()
    }

    /// To be held while a lease is changed or deleted.
    pub fn change_leases(&self) -> RwLockWriteGuard<'_, ()> {
        self.leases.write()
    }

    /// The lease with this id.
    pub fn existing_lease(&self, ns: &Namespace, id: &LeaseId) -> Result<Lease> {
        let lease = self.store.lease(ns, id)?;
        lease.ok_or_else(|| Error::NoSuch { what: "lease", name: id.to_string() })
    }

    /// The lease holds the snapshot from now on. Both must exist.
    pub fn hold_under(&self, ns: &Namespace, lease: &LeaseId, key: &SnapshotKey) -> Result<()> {
        // A layer's snapshot goes with the layer, which a lease can hold itself.
        Self::refuse_layers(ns)?;
        let _running = self.running()?;
        let _held = self.locks.hold(ns, &[(key, Mode::Shared)]);
        let _noted = self.references.note(ns, [key]);
        self.existing(ns, key)?;
        let _leases = self.leases_stay();
        self.existing_lease(ns, lease)?;
        let mut batch = Batch::of(Step::StoreLease);
        batch.hold(ns, lease, &Leased::snapshot(key));
        Ok(self.store.write(batch)?)
    }

    /// Writes the batch of a new snapshot, together with the lease's hold on it.
    pub(super) fn write_leased(
        &self,
        mut batch: Batch,
        info: &Info,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let Some(lease) = lease else { return Ok(self.store.write(batch)?) };
        let _leases = self.leases_stay();
        self.existing_lease(&info.namespace, lease)?;
        batch.hold(&info.namespace, lease, &Leased::snapshot(&info.key));
        Ok(self.store.write(batch)?)
    }

    /// Writes the batch of a commit. What held the active snapshot holds the committed one.
    pub(super) fn write_renamed(
        &self,
        mut batch: Batch,
        key: &SnapshotKey,
        info: &Info,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let (ns, active, committed) =
            (&info.namespace, Leased::snapshot(key), Leased::snapshot(&info.key));
        let _leases = self.leases_stay();
        if let Some(lease) = lease {
            self.existing_lease(ns, lease)?;
            batch.hold(ns, lease, &committed);
        }
        for holder in self.store.holders(ns, &active)? {
            batch.let_go(ns, &holder, &active);
            batch.hold(ns, &holder, &committed);
        }
        Ok(self.store.write(batch)?)
    }
}
