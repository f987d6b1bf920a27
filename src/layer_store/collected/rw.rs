//! Read-write layers, as the collector sees them.

use std::sync::Arc;
use std::time::Duration;

use super::{BUSY, LAYER, LEASED, REFERRED, RW, Ruled, STREAMED, each, found, given_name, then_if};
use crate::gc::{Doomed, Found, Kind, Resource, SNAPSHOT, Source};
use crate::layer_store::error::Result;
use crate::layer_store::{LayerStore, keys};
use crate::snapshot::locks::Mode;
use crate::types::{GivenName, Namespace, RwLayer, VolumeId};

pub(super) struct RwLayers(pub(super) Arc<LayerStore>);

impl RwLayers {
    fn look(&self) -> Result<Vec<Found>> {
        let found = |(name, layer): (GivenName, RwLayer)| {
            let root = (layer.references > 0).then(|| "somebody has a reference".to_owned());
            let mut edges = vec![Resource::new(SNAPSHOT, keys::rw(&name).as_str())];
            if layer.init.is_some() {
                edges.push(Resource::new(SNAPSHOT, keys::init(&name).as_str()));
            }
            edges.extend(layer.parent.map(|parent| Resource::new(LAYER, parent.to_string())));
            found(name.to_string(), root, edges)
        };
        Ok(self.0.store().rw_layers()?.into_iter().map(found).collect())
    }

    fn remove_one(&self, id: &str) -> Result<Option<&'static str>> {
        let name = given_name(id)?;
        let (layers, key) = (&self.0, keys::rw(&name));
        let wanted = [(&key, Mode::Exclusive)];
        let Some(_held) = layers.locks.hold_within(&layers.ns, &wanted, Duration::ZERO) else {
            return Ok(Some(BUSY));
        };
        let Some(layer) = layers.store().rw_layer(&name)? else { return Ok(None) };
        if layer.references > 0 {
            return Ok(Some(REFERRED));
        }
        if layers.active.has(RW, id) {
            return Ok(Some(STREAMED));
        }
        if layers.is_leased(RW, &name)? {
            return Ok(Some(LEASED));
        }
        if layers.snapshots.volumes().is_in_use(VolumeId::of(layer.snapshot)) {
            return Ok(Some("files of it are open"));
        }
        layers.remove_rw(&name, &layer)?;
        Ok(None)
    }
}

impl Source for RwLayers {
    fn kind(&self) -> Kind {
        RW
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

    fn exists(&self, ns: &Namespace, id: &str) -> Ruled<Option<bool>> {
        self.0.refuse_others(ns, RW)?;
        Ok(Some(self.0.store().rw_layer(&given_name(id)?)?.is_some()))
    }

    fn while_existing(
        &self,
        ns: &Namespace,
        id: &str,
        then: &mut dyn FnMut() -> Ruled<()>,
    ) -> Ruled<Option<bool>> {
        self.0.refuse_others(ns, RW)?;
        let key = keys::rw(&given_name(id)?);
        let _held = self.0.locks.hold(ns, &[(&key, Mode::Shared)]);
        then_if(self.exists(ns, id)?, then)
    }

    fn remove(&self, _: &Namespace, doomed: &mut Doomed<'_>) {
        each(doomed, |id| self.remove_one(id));
    }
}
