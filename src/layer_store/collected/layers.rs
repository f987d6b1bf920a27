//! Layers, as the collector sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{BUSY, LAYER, LEASED, REFERRED, Ruled, STREAMED, chain_id, each, found, then_if};
use crate::gc::{Doomed, Found, Kind, Resource, Root, SNAPSHOT, Source};
use crate::layer_store::error::Result;
use crate::layer_store::{LayerStore, keys};
use crate::snapshot::locks::Mode;
use crate::types::{Holder, Namespace};

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

    fn remove_one(&self, id: &str) -> Result<Option<&'static str>> {
        let chain = chain_id(id)?;
        let (layers, key) = (&self.0, keys::layer(&chain));
        let wanted = [(&key, Mode::Exclusive)];
        let Some(_held) = layers.locks.hold_within(&layers.ns, &wanted, Duration::ZERO) else {
            return Ok(Some(BUSY));
        };
        let Some(layer) = layers.store().layer(&chain)? else { return Ok(None) };
        if !layers.store().layer_refs(&chain, 1)?.is_empty() {
            return Ok(Some(REFERRED));
        }
        if layers.active.has(LAYER, id) {
            return Ok(Some(STREAMED));
        }
        if layers.is_leased(LAYER, chain)? {
            return Ok(Some(LEASED));
        }
        layers.remove_layer(&chain, &layer)?;
        Ok(None)
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
        self.0.refuse_others(ns, LAYER)?;
        Ok(Some(self.0.store().layer(&chain_id(id)?)?.is_some()))
    }

    fn while_existing(
        &self,
        ns: &Namespace,
        id: &str,
        then: &mut dyn FnMut() -> Ruled<()>,
    ) -> Ruled<Option<bool>> {
        self.0.refuse_others(ns, LAYER)?;
        let key = keys::layer(&chain_id(id)?);
        let _held = self.0.locks.hold(ns, &[(&key, Mode::Shared)]);
        then_if(self.exists(ns, id)?, then)
    }

    fn remove(&self, _: &Namespace, doomed: &mut Doomed<'_>) {
        each(doomed, |id| self.remove_one(id));
    }
}
