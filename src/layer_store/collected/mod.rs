//! What the collector knows of the layer store: layers, read-write layers and imports, as kinds of resources.
//!
//! A layer lives as long as somebody refers to it, and goes with the last reference; no collector is needed for
//! that. It comes in for what is left then: a layer or read-write layer that a lease still held when its last
//! reference was given back, until the lease ends; and what could not be removed in its time.
//!
//! | kind | id | a root by itself | refers to |
//! |---|---|---|---|
//! | `layer` | chain id | users, images and imports have it | its snapshot, its parent |
//! | `rw` | name | somebody has a reference | its snapshots, its parent |
//! | `import` | key of the unfinished snapshot | the import runs | its parent |
//!
//! Streams under way hold what they read, mounts what is mounted. All of it is in the layers' namespace, so leases
//! of that namespace hold it. [`Source::remove`](crate::gc::Source::remove) looks again under the lock that whoever comes to refer takes.

mod held;
mod imports;
mod layers;
mod rw;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::{LayerStore, keys};
use crate::gc::{Collector, Doomed, Found, Kind, Resource, SNAPSHOT, Tie};
use crate::snapshot;
use crate::types::{ChainId, GivenName, LAYERS, Leased, Namespace, SnapshotKey};
use imports::Imports;
use layers::Layers;
use rw::RwLayers;

/// Layers. Ids are chain ids.
pub const LAYER: Kind = "layer";
/// Read-write layers. Ids are names.
pub const RW: Kind = "rw";
/// Snapshots of layers that are being unpacked. Ids are their keys.
pub const IMPORT: Kind = "import";

/// What the collector is answered with.
type Ruled<T> = std::result::Result<T, snapshot::Error>;

/// What the collector is to call the snapshot with this key.
pub fn resource_of(ns: &Namespace, key: &SnapshotKey) -> Resource {
    let text = key.as_str();
    match (ns.as_str() == LAYERS, text.strip_prefix(keys::RW)) {
        (true, Some(name)) => Resource::new(RW, name),
        (true, None) if text.parse::<ChainId>().is_ok() => Resource::new(LAYER, text),
        (true, None) | (false, _) => Resource::new(SNAPSHOT, text),
    }
}

/// What is read, or made, at the moment, and how often.
#[derive(Debug, Default)]
pub(super) struct Active(Mutex<HashMap<Resource, usize>>);

/// Lives while something is read or made; a collection leaves it alone.
pub(super) struct Working<'a> {
    layers: &'a LayerStore,
    resource: Resource,
}

impl Active {
    fn has(&self, kind: Kind, id: &str) -> bool {
        self.0.lock().contains_key(&Resource::new(kind, id))
    }

    fn all(&self) -> Vec<Resource> {
        self.0.lock().keys().cloned().collect()
    }

    fn begin(&self, resource: &Resource) {
        *self.0.lock().entry(resource.clone()).or_default() += 1;
    }

    fn end(&self, resource: &Resource) {
        let mut active = self.0.lock();
        if let Some(count) = active.get_mut(resource) {
            *count -= 1;
            if *count == 0 {
                active.remove(resource);
            }
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.layers.active.end(&self.resource);
        // A collection may have left it for us.
        if self.layers.loose.load(Ordering::SeqCst) {
            self.layers.leave();
        }
    }
}

/// The collector that sees to what is left.
#[derive(Debug, Default)]
pub(super) struct Collected(OnceLock<Weak<Collector>>);

impl LayerStore {
    /// From now on the collector sees to what leases held and to what could not be removed. Once, before the
    /// collector is started.
    pub fn collected_by(self: &Arc<Self>, collector: &Arc<Collector>) {
        collector.register(Arc::new(Layers(Arc::clone(self))));
        collector.register(Arc::new(RwLayers(Arc::clone(self))));
        collector.register(Arc::new(Imports(Arc::clone(self))));
        let _ = self.collected.0.set(Arc::downgrade(collector));
    }

    /// To be kept while this is read or made.
    pub(super) fn work_on(&self, kind: Kind, id: impl ToString) -> Working<'_> {
        let resource = Resource::new(kind, id.to_string());
        self.active.begin(&resource);
        Working { layers: self, resource }
    }

    /// Something is there that nobody refers to.
    pub(super) fn leave(&self) {
        self.loose.store(true, Ordering::SeqCst);
        if let Some(collector) = self.collected.0.get().and_then(Weak::upgrade) {
            collector.freed(&self.ns);
        }
    }

    /// Whether a lease holds it. To be asked under the lock of its name.
    pub(super) fn is_leased(&self, kind: Kind, id: impl ToString) -> Result<bool> {
        let what = Leased { kind: kind.to_owned(), id: id.to_string() };
        Ok(!self.store().holders(&self.ns, &what)?.is_empty())
    }

    fn is_mine(&self, ns: &Namespace) -> bool {
        *ns == self.ns
    }

    /// Leases of other namespaces hold nothing here: nothing crosses.
    fn refuse_others(&self, ns: &Namespace, kind: Kind) -> Ruled<()> {
        if self.is_mine(ns) {
            return Ok(());
        }
        Err(snapshot::Error::InvalidArgument(format!(
            "a lease of namespace {ns} cannot hold a {kind}: those are in namespace {LAYERS}, \
             make the lease there with `thinfs --namespace {LAYERS} lease create`"
        )))
    }

    /// What a scan found, and a note if some of it has nothing that keeps it.
    fn visit_all(&self, found: Result<Vec<Found>>, visit: &mut dyn FnMut(Found)) -> Ruled<()> {
        let loose = found.as_ref().map_or(true, |found| found.iter().any(|one| one.root.is_none()));
        if loose {
            self.loose.store(true, Ordering::SeqCst);
        }
        found.map_err(of_rules)?.into_iter().for_each(visit);
        Ok(())
    }
}

/// Removes what of `doomed` nothing has come to need; `remove` says why one stays.
fn each(doomed: &mut Doomed<'_>, mut remove: impl FnMut(&str) -> Result<Option<&'static str>>) {
    for at in doomed.left() {
        if !doomed.goes(at) {
            continue;
        }
        match remove(doomed.id(at)) {
            Ok(None) => {}
            Ok(Some(why)) => doomed.keep(at, why),
            Err(error) => doomed.fail(at, snapshot::with_causes(&error)),
        }
    }
}

/// The collector speaks of snapshots' errors.
fn of_rules(error: Error) -> snapshot::Error {
    match error {
        Error::Snapshot(error) => error,
        other => snapshot::Error::FailedPrecondition(snapshot::with_causes(&other)),
    }
}

fn found(id: String, root: Option<String>, edges: Vec<Resource>) -> Found {
    let edges = edges.into_iter().map(|to| (Tie::Part, to)).collect();
    Found { id, version: 0, root, until: None, edges, back: Vec::new() }
}

fn chain_id(text: &str) -> Ruled<ChainId> {
    text.parse().map_err(|error: crate::types::InvalidDigest| {
        snapshot::Error::InvalidArgument(error.to_string())
    })
}

fn given_name(text: &str) -> Ruled<GivenName> {
    GivenName::new(text).map_err(|error| snapshot::Error::InvalidArgument(error.to_string()))
}

const BUSY: &str = "another operation works on it";
const STREAMED: &str = "it is being read";
const REFERRED: &str = "something has come to refer to it";
const LEASED: &str = "a lease has come to hold it";
