//! Layers, as the collector sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::held::{self, Held};
use super::{LAYER, REFERRED, Ruled, chain_id, each, found};
use crate::gc::{Doomed, Found, Kind, Resource, Root, SNAPSHOT, Source};
use crate::layer_store::error::Result;
use crate::layer_store::{LayerStore, keys};
use crate::types::{ChainId, Holder, Layer, Namespace, SnapshotKey};

pub(super) struct Layers(pub(super) Arc<LayerStore>);

impl Layers {
    fn look(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for (chain, layer) in self.0.store().layers()? {
            let Ok(layer) = layer else { continue }; // told at the start; nothing is done to it
            let holders = self.0.store().layer_refs(&chain, usize::MAX)?;
            let root = holders.into_iter().find_map(|(holder, _)| match holder {
                Holder::User | Holder::Image(_) | Holder::Import(_) => {
                    Some(format!("{holder} has a reference"))
                }
                // They refer to it, and are looked at themselves.
                Holder::Rw(_) | Holder::Child(_) => None,
            });
            let mut edges = vec![Resource::new(SNAPSHOT, chain.to_string())];
            edges.extend(layer.parent.map(|parent| Resource::new(LAYER, parent.to_string())));
            all.push(found(chain.to_string(), root, edges));
        }
        Ok(all)
    }
}

impl Held for Layers {
    const KIND: Kind = LAYER;
    type Id = ChainId;
    type Record = Layer;

    fn id(text: &str) -> Ruled<ChainId> {
        chain_id(text)
    }

    fn key(chain: &ChainId) -> SnapshotKey {
        keys::layer(chain)
    }

    fn record(layers: &LayerStore, chain: &ChainId) -> Ruled<Option<Layer>> {
        Ok(layers.store().layer(chain)?)
    }

    fn needed(layers: &LayerStore, chain: &ChainId, _: &Layer) -> Result<Option<&'static str>> {
        let holders = layers.store().layer_refs(chain, 1)?;
        Ok((!holders.is_empty()).then_some(REFERRED))
    }

    fn remove(layers: &LayerStore, chain: &ChainId, layer: &Layer) -> Result<()> {
        layers.remove_layer(chain, layer).map(drop)
    }
}

impl Source for Layers {
    fn kind(&self) -> Kind {
        LAYER
    }

    fn may_have_garbage(&self, ns: &Namespace) -> Ruled<bool> {
        Ok(self.0.is_mine(ns) && self.0.loose.load(Ordering::SeqCst))
    }

    /// The first of the three that is scanned.
    fn scan(&self, ns: &Namespace, visit: &mut dyn FnMut(Found)) -> Ruled<()> {
        if !self.0.is_mine(ns) {
            return Ok(());
        }
        // What becomes loose from here on says so again.
        self.0.loose.store(false, Ordering::SeqCst);
        self.0.visit_all(self.look(), visit)
    }

    fn roots(&self, ns: &Namespace) -> Ruled<Vec<Root>> {
        if !self.0.is_mine(ns) {
            return Ok(Vec::new());
        }
        let root = |resource| Root { resource, holder: "a stream in progress".to_owned() };
        Ok(self.0.active.all().into_iter().map(root).collect())
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
