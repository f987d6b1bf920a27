//! The invariants of layers, part of [`Store::verify`](super::Store::verify).
//!
//! - each layer has its committed snapshot under its chain id, and its parent, one less deep;
//! - each reference is of a layer that exists, by a holder that exists and stands on it;
//! - each read-write layer, image and child has its reference;
//! - each committed snapshot in the layers' namespace is a layer's or an init layer's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::columns::{Column, Images, LayerRefs, Layers, RwLayers, Snapshots, given_name};
use super::error::Result;
use super::read::{corrupt, snapshot_at};
use super::rows::Moment;
use crate::types::{
    ChainId, GivenName, Holder, Image, Kind, LAYERS, Layer, Namespace, RwLayer, SnapshotId,
    SnapshotKey,
};

/// Adds a line for each disagreement.
pub(super) fn verify(moment: &Moment<'_>, found: &mut Vec<String>) -> Result<()> {
    let check = Check {
        layers: layers(moment)?,
        refs: refs(moment)?,
        rw_layers: named(moment, Column::RwLayers, RwLayers::decode)?,
        images: named(moment, Column::Images, Images::decode)?,
        moment,
        ns: Namespace::new(LAYERS).expect("the constant is a namespace"),
    };
    check.each_layer(found)?;
    check.each_reference(found);
    check.each_standing(found);
    check.each_snapshot(found)
}

struct Check<'a> {
    layers: BTreeMap<ChainId, Layer>,
    refs: BTreeSet<(ChainId, Holder)>,
    rw_layers: BTreeMap<GivenName, RwLayer>,
    images: BTreeMap<GivenName, Image>,
    moment: &'a Moment<'a>,
    ns: Namespace,
}

impl Check<'_> {
    fn each_layer(&self, found: &mut Vec<String>) -> Result<()> {
        for (chain, layer) in &self.layers {
            let key = SnapshotKey::new(chain.to_string()).expect("a digest is a key");
            match snapshot_at(self.moment, &self.ns, &key)? {
                Some(s) if s.id == layer.snapshot && s.kind == Kind::Committed => {}
                _ => found.push(format!("layer {chain}: its snapshot is missing or another's")),
            }
            let below = layer.parent.map_or(Some(0), |p| self.layers.get(&p).map(|p| p.depth));
            if below != Some(layer.depth.wrapping_sub(1)) {
                found.push(format!("layer {chain}: its parent is missing or of another depth"));
            }
        }
        Ok(())
    }

    fn each_reference(&self, found: &mut Vec<String>) {
        for (chain, holder) in &self.refs {
            let stands = match holder {
                // An import's is forgotten at the next start at the latest.
                Holder::User | Holder::Import(_) => true,
                Holder::Image(name) => {
                    self.images.get(name).is_some_and(|image| image.top == Some(*chain))
                }
                Holder::Rw(name) => {
                    self.rw_layers.get(name).is_some_and(|rw| rw.parent == Some(*chain))
                }
                Holder::Child(child) => {
                    self.layers.get(child).is_some_and(|child| child.parent == Some(*chain))
                }
            };
            if !stands || !self.layers.contains_key(chain) {
                found.push(format!("a reference of layer {chain} by {holder} leads nowhere"));
            }
        }
    }

    fn each_standing(&self, found: &mut Vec<String>) {
        let mut held = |chain: Option<ChainId>, holder: Holder| {
            if let Some(chain) = chain
                && !self.refs.contains(&(chain, holder.clone()))
            {
                found.push(format!("layer {chain} is not held by {holder}, which stands on it"));
            }
        };
        self.layers.iter().for_each(|(c, layer)| held(layer.parent, Holder::Child(*c)));
        self.rw_layers.iter().for_each(|(n, rw)| held(rw.parent, Holder::Rw(n.clone())));
        self.images.iter().for_each(|(n, image)| held(image.top, Holder::Image(n.clone())));
    }

    fn each_snapshot(&self, found: &mut Vec<String>) -> Result<()> {
        let layers: BTreeSet<SnapshotId> = self.layers.values().map(|l| l.snapshot).collect();
        let inits: BTreeSet<SnapshotId> =
            self.rw_layers.values().filter_map(|rw| rw.init).collect();
        let prefix = Snapshots::prefix(&self.ns);
        self.moment.scan_prefix(Column::Snapshots, &prefix, &mut |row_key, record| {
            let what = || "a layer's snapshot".to_owned();
            let (_, key) = Snapshots::decode_row_key(row_key).map_err(|e| corrupt(what(), e))?;
            let snapshot = Snapshots::decode(record).map_err(|e| corrupt(what(), e))?;
            let known = layers.contains(&snapshot.id) || inits.contains(&snapshot.id);
            if snapshot.kind == Kind::Committed && !known && key.as_str().starts_with("sha256:") {
                found.push(format!("snapshot {}/{key} belongs to no layer", self.ns));
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}

fn layers(moment: &Moment<'_>) -> Result<BTreeMap<ChainId, Layer>> {
    let mut layers = BTreeMap::new();
    moment.scan(Column::Layers, b"", None, &mut |row_key, record| {
        let chain =
            Layers::decode_row_key(row_key).map_err(|e| corrupt("a layer's row".to_owned(), e))?;
        let layer = Layers::decode(record)
            .map_err(|e| corrupt(format!("the record of layer {chain}"), e))?;
        layers.insert(chain, layer);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(layers)
}

fn refs(moment: &Moment<'_>) -> Result<BTreeSet<(ChainId, Holder)>> {
    let mut refs = BTreeSet::new();
    moment.scan(Column::LayerRefs, b"", None, &mut |row_key, _| {
        let reference = LayerRefs::decode_row_key(row_key)
            .map_err(|e| corrupt("a layer's reference".to_owned(), e))?;
        refs.insert(reference);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(refs)
}

fn named<T>(
    moment: &Moment<'_>,
    column: Column,
    decode: fn(&[u8]) -> std::result::Result<T, super::Malformed>,
) -> Result<BTreeMap<GivenName, T>> {
    let mut all = BTreeMap::new();
    moment.scan(column, b"", None, &mut |row_key, record| {
        let what = || format!("a row of {}", column.name());
        let name = given_name(row_key).map_err(|e| corrupt(what(), e))?;
        all.insert(name, decode(record).map_err(|e| corrupt(what(), e))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}
