//! Read-write layers, as the collector sees them.

use std::sync::Arc;

use super::held::{self, Held};
use super::{LAYER, REFERRED, RW, Ruled, each, found, given_name};
use crate::gc::{Doomed, Found, Kind, Resource, SNAPSHOT, Source};
use crate::layer_store::error::Result;
use crate::layer_store::{LayerStore, keys};
use crate::types::{GivenName, Namespace, RwLayer, SnapshotKey, VolumeId};

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
}

impl Held for RwLayers {
    const KIND: Kind = RW;
    type Id = GivenName;
    type Record = RwLayer;

    fn id(text: &str) -> Ruled<GivenName> {
        given_name(text)
    }

    fn key(name: &GivenName) -> SnapshotKey {
        keys::rw(name)
    }

    fn record(layers: &LayerStore, name: &GivenName) -> Ruled<Option<RwLayer>> {
        Ok(layers.store().rw_layer(name)?)
    }

    fn needed(layers: &LayerStore, _: &GivenName, layer: &RwLayer) -> Result<Option<&'static str>> {
        if layer.references > 0 {
            return Ok(Some(REFERRED));
        }
        let in_use = layers.snapshots.volumes().is_in_use(VolumeId::of(layer.snapshot));
        Ok(in_use.then_some("files of it are open"))
    }

    fn remove(layers: &LayerStore, name: &GivenName, layer: &RwLayer) -> Result<()> {
        layers.remove_rw(name, layer)
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
        held::exists::<Self>(&self.0, ns, id)
    }

    fn while_existing(
        &self,
        ns: &Namespace,
        id: &str,
        then: &mut dyn FnMut() -> Ruled<()>,
    ) -> Ruled<Option<bool>> {
        held::while_existing::<Self>(&self.0, ns, id, then)
    }

    fn remove(&self, _: &Namespace, doomed: &mut Doomed<'_>) {
        each(doomed, |id| held::remove_one::<Self>(&self.0, id));
    }
}
