//! The built-in source: snapshots.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use super::doomed::Doomed;
use super::source::{Found, Kind, Link, Resource, SNAPSHOT, Source, Tie};
use super::{labels, namespaces};
use crate::meta::Among;
use crate::snapshot::{Doom, Result, Snapshots};
use crate::types::{LAYERS, LabelReference, Namespace, Snapshot, SnapshotId, SnapshotKey};

/// How many of those that refer to a snapshot are asked for at once: mostly the first one knows.
const PAGE: usize = 16;

/// Snapshots, as resources.
pub(super) struct SnapshotSource {
    pub(super) snapshots: Arc<Snapshots>,
    /// Kinds that labels may name.
    pub(super) kinds: RwLock<Vec<Kind>>,
    /// Whether a namespace is collected as a whole may change between two batches, not during one.
    pub(super) policies: RwLock<()>,
    /// containerd's: its own collector sees to it.
    pub(super) never: Namespace,
}

impl SnapshotSource {
    /// Whether everything unreferenced in the namespace is garbage, however it was made.
    fn collects_all(&self, ns: &Namespace) -> Result<bool> {
        let record = self.snapshots.store().namespace(ns)?;
        Ok(*ns != self.never
            && ns.as_str() != LAYERS
            && record.is_some_and(|record| namespaces::collects_all(&record.labels)))
    }

    /// Why what is not subject to collection stays in this namespace; `None`: everything is.
    fn stays(&self, ns: &Namespace) -> Result<Option<&'static str>> {
        let all = self.collects_all(ns)?;
        Ok(match ns.as_str() == LAYERS {
            true => Some("the layer store sees to it"),
            false => (!all).then_some("it wasn't made under a lease"),
        })
    }

    /// `stays`: why one does that is not subject to collection.
    fn found(
        &self,
        key: &SnapshotKey,
        snapshot: Snapshot,
        stays: Option<&str>,
        now: SystemTime,
    ) -> Found {
        let (root, until) = match stays.filter(|_| !snapshot.collectable) {
            None => labels::root(&snapshot.labels, now),
            Some(why) => (Some(why.to_owned()), None),
        };
        let (mut edges, back) = labels::references(&snapshot.labels, &self.kinds.read());
        edges.extend(
            snapshot.parent.map(|parent| (Tie::Part, Resource::new(SNAPSHOT, parent.as_str()))),
        );
        let (id, version) = (key.as_str().to_owned(), snapshot.id.0.into());
        Found { id, version, root, until, edges, back }
    }
}

impl Source for SnapshotSource {
    fn kind(&self) -> Kind {
        SNAPSHOT
    }

    fn may_have_garbage(&self, ns: &Namespace) -> Result<bool> {
        if *ns == self.never {
            return Ok(false);
        }
        Ok(self.snapshots.store().has_collectable(ns)? || self.collects_all(ns)?)
    }

    fn scan(&self, ns: &Namespace, visit: &mut dyn FnMut(Found)) -> Result<()> {
        let (stays, now) = (self.stays(ns)?, SystemTime::now());
        self.snapshots.store().for_each_snapshot(ns, &mut |key, snapshot| {
            visit(self.found(&key, snapshot, stays, now));
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    fn can_trace(&self, _: &Namespace) -> bool {
        true
    }

    fn look(&self, ns: &Namespace, id: &str) -> Result<Option<Found>> {
        let Ok(key) = SnapshotKey::new(id) else { return Ok(None) };
        let Some(snapshot) = self.snapshots.store().snapshot(ns, &key)? else { return Ok(None) };
        Ok(Some(self.found(&key, snapshot, self.stays(ns)?, SystemTime::now())))
    }

    fn naming(
        &self,
        ns: &Namespace,
        to: &Resource,
        link: Link,
        after: Option<&str>,
    ) -> Result<Vec<String>> {
        let (kind, id) = (to.kind, to.id.as_str());
        let label = |back| Some(Among::Naming(LabelReference { kind, id, back }));
        let key = SnapshotKey::new(id).ok().filter(|_| kind == SNAPSHOT);
        let among = match link {
            Link::Part => key.as_ref().map(Among::ChildrenOf),
            Link::Label => label(false),
            Link::Back => label(true),
        };
        let Some(among) = among else { return Ok(Vec::new()) };
        let after = after.map(SnapshotKey::new).transpose()?;
        let page = self.snapshots.store().keys_among(ns, among, after.as_ref(), PAGE)?;
        Ok(page.into_iter().map(|key| key.as_str().to_owned()).collect())
    }

    fn exists(&self, ns: &Namespace, id: &str) -> Result<Option<bool>> {
        Ok(Some(self.snapshots.store().snapshot(ns, &SnapshotKey::new(id)?)?.is_some()))
    }

    fn remove(&self, ns: &Namespace, doomed: &mut Doomed<'_>) {
        let _policy = self.policies.read();
        if let Err(error) = self.remove_now(ns, doomed) {
            let why = crate::snapshot::with_causes(&error);
            doomed.left().into_iter().for_each(|at| doomed.fail(at, why.clone()));
        }
    }
}

impl SnapshotSource {
    fn remove_now(&self, ns: &Namespace, doomed: &mut Doomed<'_>) -> Result<()> {
        let keys = (0..doomed.len())
            .map(|at| SnapshotKey::new(doomed.id(at)))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let all = self.collects_all(ns)?;
        for at in doomed.left() {
            let snapshot = self.snapshots.store().snapshot(ns, &keys[at])?;
            if snapshot.is_some_and(|snapshot| !all && !snapshot.collectable) {
                doomed.keep(at, "its namespace isn't collected any more");
            }
        }
        self.snapshots.collect(ns, &mut Keyed { keys, doomed })
    }
}

/// Doomed resources as doomed snapshots.
struct Keyed<'a, 'b> {
    keys: Vec<SnapshotKey>,
    doomed: &'a mut Doomed<'b>,
}

impl Doom for Keyed<'_, '_> {
    fn left(&self) -> Vec<usize> {
        self.doomed.left()
    }

    fn goes(&self, at: usize) -> bool {
        self.doomed.goes(at)
    }

    fn key(&self, at: usize) -> &SnapshotKey {
        &self.keys[at]
    }

    fn snapshot_id(&self, at: usize) -> SnapshotId {
        SnapshotId(u32::try_from(self.doomed.version(at)).unwrap_or_default())
    }

    fn keep(&mut self, at: usize, why: &str) {
        self.doomed.keep(at, why);
    }
}
