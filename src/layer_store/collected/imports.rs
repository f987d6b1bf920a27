//! Imports and other temporary trees, as the collector sees them.

use std::sync::Arc;
use std::time::Duration;

use super::{BUSY, IMPORT, LAYER, REFERRED, Ruled, each, found, given_name};
use crate::gc::{Doomed, Found, Kind, Resource, Source};
use crate::layer_store::error::Result;
use crate::layer_store::{LayerStore, keys};
use crate::snapshot::locks::Mode;
use crate::snapshot::{self, Info};
use crate::types::{Namespace, SnapshotKey};

pub(super) struct Imports(pub(super) Arc<LayerStore>);

impl Imports {
    fn look(&self) -> Result<Vec<Found>> {
        let found = |info: Info| {
            let id = info.key.as_str().to_owned();
            let running = self.0.active.has(IMPORT, &id);
            let parent = info.snapshot.parent.map(|key| Resource::new(LAYER, key.as_str()));
            found(id, running.then(|| "it is being made".to_owned()), Vec::from_iter(parent))
        };
        Ok(self.0.unfinished()?.into_iter().map(found).collect())
    }

    fn remove_one(&self, id: &str) -> Result<Option<&'static str>> {
        let layers = &self.0;
        if layers.active.has(IMPORT, id) {
            return Ok(Some("it is being made"));
        }
        let key = SnapshotKey::new(id).map_err(snapshot::Error::from)?;
        // An init layer is held by who makes its read-write layer.
        let name = id.strip_prefix(keys::INIT).map(given_name).transpose()?;
        let lock = name.map_or_else(|| key.clone(), |name| keys::rw(&name));
        let wanted = [(&lock, Mode::Exclusive)];
        let Some(_held) = layers.locks.hold_within(&layers.ns, &wanted, Duration::ZERO) else {
            return Ok(Some(BUSY));
        };
        let info = match layers.snapshots.stat(&layers.ns, &key) {
            Err(snapshot::Error::NotFound(_)) => return Ok(None),
            info => info?,
        };
        if !layers.is_unfinished(&info)? {
            return Ok(Some(REFERRED));
        }
        let parent = info.snapshot.parent.as_ref().and_then(|key| key.as_str().parse().ok());
        layers.abandon(&info, parent)?;
        Ok(None)
    }
}

impl Source for Imports {
    fn kind(&self) -> Kind {
        IMPORT
    }

    fn may_have_garbage(&self, _: &Namespace) -> Ruled<bool> {
        Ok(false) // the layers' source answers for all three
    }

    fn scan(&self, ns: &Namespace, visit: &mut dyn FnMut(Found)) -> Ruled<()> {
        if self.0.is_mine(ns) { self.0.visit_all(self.look(), visit) } else { Ok(()) }
    }

    /// Of other namespaces: there are none in them.
    fn can_trace(&self, ns: &Namespace) -> bool {
        !self.0.is_mine(ns)
    }

    fn exists(&self, _: &Namespace, _: &str) -> Ruled<Option<bool>> {
        Ok(None)
    }

    fn remove(&self, _: &Namespace, doomed: &mut Doomed<'_>) {
        each(doomed, |id| self.remove_one(id));
    }
}
