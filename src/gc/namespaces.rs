//! Namespaces: made, listed, labelled and deleted like anything else.
//!
//! A namespace need not be made first: using one is enough. A record is there for its labels, and
//! for one that is to be listed while it is empty.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Collector;
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::snapshot::{Error, LabelUpdate, Result};
use crate::types::{Event, LAYERS, Labels, Namespace, NamespaceRecord, Topic, check_labels};

/// Label of a namespace that says which snapshots without a lease are collected as well.
pub const COLLECT_LABEL: &str = "thinfs.io/gc.collect";
/// All that nothing refers to, as in containerd's own database.
pub const COLLECT_UNREFERENCED: &str = "unreferenced";

/// Whether labels of a namespace say that everything unreferenced in it is garbage.
pub(super) fn collects_all(labels: &Labels) -> bool {
    labels.get(COLLECT_LABEL).is_some_and(|value| value == COLLECT_UNREFERENCED)
}

impl Collector {
    /// Makes a namespace that has no record yet, whether or not something lives in it.
    pub fn create_namespace(&self, ns: &Namespace, labels: Labels) -> Result<NamespaceRecord> {
        let _policies = self.snapshot_source().policies.write();
        if self.store().namespace(ns)?.is_some() {
            return Err(Error::Exists { what: "namespace", name: ns.to_string() });
        }
        let record = NamespaceRecord { created: SystemTime::now(), labels };
        self.put_namespace(ns, record, Topic::NAMESPACE_CREATE)
    }

    /// Changes a namespace's labels; makes its record if there is none.
    pub fn label_namespace(&self, ns: &Namespace, change: LabelUpdate) -> Result<NamespaceRecord> {
        let _policies = self.snapshot_source().policies.write();
        let old = self.store().namespace(ns)?;
        let what = match old {
            Some(_) => Topic::NAMESPACE_UPDATE,
            None => Topic::NAMESPACE_CREATE,
        };
        let new = NamespaceRecord { created: SystemTime::now(), labels: Labels::new() };
        let old = old.unwrap_or(new);
        let labels = change.apply(&old.labels);
        self.put_namespace(ns, NamespaceRecord { labels, ..old }, what)
    }

    /// All namespaces: those with a record, and those that something lives in.
    pub fn namespaces(&self) -> Result<BTreeMap<Namespace, Option<NamespaceRecord>>> {
        Ok(self.store().all_namespaces()?)
    }

    /// Deletes a namespace that nothing lives in.
    pub fn delete_namespace(&self, ns: &Namespace) -> Result<()> {
        let _policies = self.snapshot_source().policies.write();
        if let Some(what) = self.inhabitants(ns)? {
            return Err(Error::FailedPrecondition(format!(
                "cannot delete namespace {ns}: it holds {what}, remove them first"
            )));
        }
        if self.store().namespace(ns)?.is_none() {
            return Err(Error::NoSuch { what: "namespace", name: ns.to_string() });
        }
        let mut batch = Batch::of(Step::StoreNamespace);
        batch.delete_namespace(ns);
        batch.publish(about(Topic::NAMESPACE_DELETE, ns));
        Ok(self.store().write(batch)?)
    }

    /// What lives in a namespace, in a word; `None`: it is empty.
    fn inhabitants(&self, ns: &Namespace) -> Result<Option<String>> {
        if self.store().has_snapshots(ns)? {
            return Ok(Some("snapshots".to_owned()));
        }
        if self.store().has_leases(ns)? {
            return Ok(Some("leases".to_owned()));
        }
        for source in self.sources() {
            let mut any = false;
            source.scan(ns, &mut |_| any = true)?;
            if any {
                return Ok(Some(format!("resources of the kind {}", source.kind())));
            }
        }
        Ok(None)
    }

    fn put_namespace(
        &self,
        ns: &Namespace,
        record: NamespaceRecord,
        what: Topic,
    ) -> Result<NamespaceRecord> {
        check_labels(&record.labels)?;
        self.check_policy(ns, &record.labels)?;
        let mut batch = Batch::of(Step::StoreNamespace);
        batch.put_namespace(ns, &record);
        batch.publish(about(what, ns));
        self.store().write(batch)?;
        self.freed(ns);
        Ok(record)
    }

    fn check_policy(&self, ns: &Namespace, labels: &Labels) -> Result<()> {
        let Some(value) = labels.get(COLLECT_LABEL) else { return Ok(()) };
        if *ns == self.snapshot_source().never {
            return Err(Error::InvalidArgument(format!(
                "namespace {ns} is containerd's, whose own collector sees to it: \
                 it can't have the label {COLLECT_LABEL}"
            )));
        }
        if ns.as_str() == LAYERS {
            return Err(Error::InvalidArgument(format!(
                "namespace {ns} is the layer store's: what nobody holds goes there anyway; \
                 it can't have the label {COLLECT_LABEL}"
            )));
        }
        match value.as_str() {
            COLLECT_UNREFERENCED => Ok(()),
            _ => Err(Error::InvalidArgument(format!(
                "label {COLLECT_LABEL} is {value:?}: it takes {COLLECT_UNREFERENCED:?} only"
            ))),
        }
    }
}

/// The namespace is where it happens, and to what.
fn about(topic: Topic, ns: &Namespace) -> Event {
    Event::about(topic, ns, "")
}
