//! Leases: what holds resources until it is deleted or expires.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{SystemTime, UNIX_EPOCH};

use super::source::{Resource, SNAPSHOT};
use super::{Collector, labels};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::snapshot::{Error, LabelUpdate, Result};
use crate::types::{
    EXPIRE_LABEL, Event, Labels, Lease, LeaseId, Leased, Namespace, SnapshotKey, Topic,
    check_labels,
};

impl Collector {
    /// Makes a lease, under a new id if none is given. It ends at the time in its label
    /// [`EXPIRE_LABEL`](crate::types::EXPIRE_LABEL), if it has one.
    pub fn create_lease(
        &self,
        ns: &Namespace,
        id: Option<LeaseId>,
        labels: Labels,
    ) -> Result<Lease> {
        self.refuse_containerds(ns)?;
        check_labels(&labels)?;
        let id = id.map_or_else(new_id, Ok)?;
        let lease = Lease { id, created: SystemTime::now(), labels };
        let _leases = self.snapshots().change_leases();
        if self.store().lease(ns, &lease.id)?.is_some() {
            return Err(Error::Exists { what: "lease", name: lease.id.to_string() });
        }
        let made = event(Topic::LEASE_CREATE, ns, &lease);
        self.put_lease(ns, lease, Some(made))
    }

    /// Changes a lease's labels; so also when it ends.
    pub fn label_lease(&self, ns: &Namespace, id: &LeaseId, change: LabelUpdate) -> Result<Lease> {
        let leases = self.snapshots().change_leases();
        let old = self.snapshots().existing_lease(ns, id)?;
        let labels = change.apply(&old.labels);
        check_labels(&labels)?;
        let renewed_only = without_end(&labels).eq(without_end(&old.labels));
        let flattened = labels::is_flat(&labels) && !labels::is_flat(&old.labels);
        let lease = Lease { labels, ..old };
        // `lease run` renews its own again and again: nobody wants to be told.
        let updated = (!renewed_only).then(|| event(Topic::LEASE_UPDATE, ns, &lease));
        let lease = self.put_lease(ns, lease, updated)?;
        drop(leases);
        if flattened {
            self.freed(ns); // what its labels led to is held no longer
        }
        Ok(lease)
    }

    fn put_lease(&self, ns: &Namespace, lease: Lease, event: Option<Event>) -> Result<Lease> {
        let mut batch = Batch::of(Step::StoreLease);
        batch.put_lease(ns, &lease);
        event.into_iter().for_each(|event| batch.publish(event));
        self.store().write(batch)?;
        if let Some(end) = labels::expires(&lease.labels) {
            self.expires_at(end, ns, &lease.id);
        }
        Ok(lease)
    }

    /// All leases of the namespace, by id.
    pub fn leases(&self, ns: &Namespace) -> Result<Vec<Lease>> {
        Ok(self.store().leases(ns)?)
    }

    /// A lease with all that it holds.
    pub fn lease(&self, ns: &Namespace, id: &LeaseId) -> Result<(Lease, Vec<Leased>)> {
        let lease = self.snapshots().existing_lease(ns, id)?;
        Ok((lease, self.store().held_by(ns, id)?))
    }

    /// Deletes a lease. What only it held is collected soon; ask for a run and wait for it to have
    /// it collected now.
    pub fn delete_lease(&self, ns: &Namespace, id: &LeaseId) -> Result<()> {
        let held = {
            let _leases = self.snapshots().change_leases();
            self.snapshots().existing_lease(ns, id)?;
            self.delete_lease_locked(ns, id, Topic::LEASE_DELETE)?
        };
        tracing::info!(%ns, lease = %id, "lease deleted");
        self.freed_these(ns, held);
        Ok(())
    }

    /// Deletes a lease if it has ended by now: it may have been renewed since somebody looked. Gives what it held, if
    /// it has.
    pub(super) fn end_lease(
        &self,
        ns: &Namespace,
        id: &LeaseId,
        now: SystemTime,
    ) -> Result<Option<Vec<Resource>>> {
        let _leases = self.snapshots().change_leases();
        match self.store().lease(ns, id)? {
            Some(lease) if labels::has_ended(&lease, now) => {
                let held = self.delete_lease_locked(ns, id, Topic::LEASE_EXPIRE)?;
                tracing::info!(%ns, lease = %id, "lease expired");
                Ok(Some(held))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// What [`end_lease`](Self::end_lease) would give, without ending it.
    pub(super) fn held_if_ended(
        &self,
        ns: &Namespace,
        id: &LeaseId,
        now: SystemTime,
    ) -> Result<Option<Vec<Resource>>> {
        match self.store().lease(ns, id)? {
            Some(lease) if labels::has_ended(&lease, now) => {
                Ok(Some(self.resources(self.store().held_by(ns, id)?)))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Gives what it held.
    fn delete_lease_locked(
        &self,
        ns: &Namespace,
        id: &LeaseId,
        why: Topic,
    ) -> Result<Vec<Resource>> {
        let held = self.store().held_by(ns, id)?;
        let mut batch = Batch::of(Step::StoreLease);
        batch.publish(Event::about(why, ns, id));
        batch.delete_lease(ns, id, &held);
        self.store().write(batch)?;
        Ok(self.resources(held))
    }

    fn resources(&self, held: Vec<Leased>) -> Vec<Resource> {
        held.into_iter().filter_map(|held| self.resource(held)).collect()
    }

    /// The lease holds a resource from now on, which must exist. Twice is fine.
    pub fn hold(&self, ns: &Namespace, id: &LeaseId, what: &Leased) -> Result<()> {
        if what.kind == SNAPSHOT {
            return self.snapshots().hold_under(ns, id, &SnapshotKey::new(what.id.clone())?);
        }
        let mut hold = || {
            let _leases = self.snapshots().leases_stay();
            self.snapshots().existing_lease(ns, id)?;
            let mut batch = Batch::of(Step::StoreLease);
            batch.hold(ns, id, what);
            Ok(self.store().write(batch)?)
        };
        let source = self.sources().into_iter().find(|source| source.kind() == what.kind);
        match source.map_or(Ok(None), |s| s.while_existing(ns, &what.id, &mut hold))? {
            Some(true) => Ok(()),
            Some(false) => Err(Error::NotFound(format!("{} {}", what.kind, what.id))),
            None => {
                let text = format!(
                    "leases hold snapshots, layers and read-write layers (`snapshot`, `layer`, `rw`), not a {}",
                    what.kind
                );
                Err(Error::InvalidArgument(text))
            }
        }
    }

    /// The lease holds a resource no longer. Not holding it is fine.
    pub fn let_go(&self, ns: &Namespace, id: &LeaseId, what: &Leased) -> Result<()> {
        {
            let _leases = self.snapshots().change_leases();
            self.snapshots().existing_lease(ns, id)?;
            let mut batch = Batch::of(Step::StoreLease);
            batch.let_go(ns, id, what);
            self.store().write(batch)?;
        }
        self.freed_these(ns, self.resource(what.clone()));
        Ok(())
    }

    fn refuse_containerds(&self, ns: &Namespace) -> Result<()> {
        if *ns != self.snapshot_source().never {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "namespace {ns} is containerd's, which has leases of its own: use `ctr leases`"
        )))
    }
}

fn event(topic: Topic, ns: &Namespace, lease: &Lease) -> Event {
    let event = Event::about(topic, ns, &lease.id);
    match labels::expires(&lease.labels) {
        Some(end) => event.with("expires", labels::expiry(end)),
        None => event,
    }
}

/// The labels but for the one that says when the lease ends.
fn without_end(labels: &Labels) -> impl Iterator<Item = (&String, &String)> {
    labels.iter().filter(|(label, _)| *label != EXPIRE_LABEL)
}

/// An id that nobody else has: the time, and 64 random bits.
fn new_id() -> Result<LeaseId> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Keyed afresh by the standard library each time.
    let random = std::hash::RandomState::new().build_hasher().finish();
    Ok(LeaseId::new(format!("{}-{random:016x}", since.as_secs()))?)
}
