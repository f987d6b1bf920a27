//! Layers, read-write layers and images: what a batch changes of them, and queries.

use std::ops::ControlFlow;

use super::Store;
use super::batch::Batch;
use super::columns::{Column, Images, LayerRefs, Layers, RwLayers, given_name};
use super::error::Result;
use super::read::corrupt;
use super::rows::get;
use crate::types::{ChainId, GivenName, Holder, Image, Layer, RwLayer};

impl Batch {
    /// Adds a layer, and its hold on the layer below it.
    pub fn insert_layer(&mut self, chain: &ChainId, layer: &Layer) {
        self.put(Column::Layers, Layers::row_key(chain), Layers::encode(layer));
        if let Some(parent) = &layer.parent {
            self.put_layer_ref(parent, &Holder::Child(*chain), 1);
        }
    }

    /// Removes a layer and its hold on the layer below it.
    pub fn remove_layer(&mut self, chain: &ChainId, layer: &Layer) {
        self.delete(Column::Layers, Layers::row_key(chain));
        if let Some(parent) = &layer.parent {
            self.put_layer_ref(parent, &Holder::Child(*chain), 0);
        }
    }

    /// Sets how often `holder` holds a layer; 0 forgets it.
    pub fn put_layer_ref(&mut self, chain: &ChainId, holder: &Holder, count: u32) {
        let row_key = LayerRefs::row_key(chain, holder);
        match count {
            0 => self.delete(Column::LayerRefs, row_key),
            count => self.put(Column::LayerRefs, row_key, LayerRefs::encode(count)),
        }
    }

    /// Adds or replaces a read-write layer, with its hold on the layer below it.
    pub fn put_rw_layer(&mut self, name: &GivenName, layer: &RwLayer) {
        self.put(Column::RwLayers, name.as_str(), RwLayers::encode(layer));
        if let Some(parent) = &layer.parent {
            self.put_layer_ref(parent, &Holder::Rw(name.clone()), 1);
        }
    }

    /// Removes a read-write layer and its hold on the layer below it.
    pub fn remove_rw_layer(&mut self, name: &GivenName, layer: &RwLayer) {
        self.delete(Column::RwLayers, name.as_str());
        if let Some(parent) = &layer.parent {
            self.put_layer_ref(parent, &Holder::Rw(name.clone()), 0);
        }
    }

    /// Adds or replaces an image, with its hold on its top layer.
    pub fn put_image(&mut self, name: &GivenName, image: &Image) {
        self.put(Column::Images, name.as_str(), Images::encode(image));
        if let Some(top) = &image.top {
            self.put_layer_ref(top, &Holder::Image(name.clone()), 1);
        }
    }

    /// Removes an image and its hold on its top layer.
    pub fn remove_image(&mut self, name: &GivenName, image: &Image) {
        self.delete(Column::Images, name.as_str());
        if let Some(top) = &image.top {
            self.put_layer_ref(top, &Holder::Image(name.clone()), 0);
        }
    }
}

impl Store {
    /// The layer with this chain id.
    pub fn layer(&self, chain: &ChainId) -> Result<Option<Layer>> {
        let what = || format!("the record of layer {chain}");
        get(&self.db, Column::Layers, &Layers::row_key(chain), what)?
            .map(|record| Layers::decode(&record).map_err(|e| corrupt(what(), e)))
            .transpose()
    }

    /// All layers as of one moment, in the order of their chain ids. A record that can't be
    /// understood comes as its error: one damaged layer must not hide the others.
    pub fn layers(&self) -> Result<Vec<(ChainId, Result<Layer>)>> {
        let mut layers = Vec::new();
        self.moment().scan(Column::Layers, b"", None, &mut |row_key, record| {
            let chain = Layers::decode_row_key(row_key)
                .map_err(|e| corrupt("a layer's row".to_owned(), e))?;
            let layer = Layers::decode(record)
                .map_err(|e| corrupt(format!("the record of layer {chain}"), e));
            layers.push((chain, layer));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(layers)
    }

    /// How often `holder` holds a layer.
    pub fn layer_ref(&self, chain: &ChainId, holder: &Holder) -> Result<u32> {
        let what = || format!("the references of layer {chain}");
        get(&self.db, Column::LayerRefs, &LayerRefs::row_key(chain, holder), what)?
            .map_or(Ok(0), |value| LayerRefs::decode(&value).map_err(|e| corrupt(what(), e)))
    }

    /// Who holds a layer, up to `limit`, and how often.
    pub fn layer_refs(&self, chain: &ChainId, limit: usize) -> Result<Vec<(Holder, u32)>> {
        let mut holders = Vec::new();
        let prefix = LayerRefs::prefix(chain);
        self.moment().scan_prefix(Column::LayerRefs, &prefix, &mut |row_key, value| {
            if holders.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            let what = || format!("a reference of layer {chain}");
            let (_, holder) = LayerRefs::decode_row_key(row_key).map_err(|e| corrupt(what(), e))?;
            let count = LayerRefs::decode(value).map_err(|e| corrupt(what(), e))?;
            holders.push((holder, count));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(holders)
    }

    /// The read-write layer with this name.
    pub fn rw_layer(&self, name: &GivenName) -> Result<Option<RwLayer>> {
        let what = || format!("the record of read-write layer {name}");
        get(&self.db, Column::RwLayers, name.as_str().as_bytes(), what)?
            .map(|record| RwLayers::decode(&record).map_err(|e| corrupt(what(), e)))
            .transpose()
    }

    /// All read-write layers as of one moment, in the order of their names.
    pub fn rw_layers(&self) -> Result<Vec<(GivenName, RwLayer)>> {
        self.named(Column::RwLayers, "read-write layer", RwLayers::decode)
    }

    /// The image with this name.
    pub fn image(&self, name: &GivenName) -> Result<Option<Image>> {
        let what = || format!("the record of image {name}");
        get(&self.db, Column::Images, name.as_str().as_bytes(), what)?
            .map(|record| Images::decode(&record).map_err(|e| corrupt(what(), e)))
            .transpose()
    }

    /// All images as of one moment, in the order of their names.
    pub fn images(&self) -> Result<Vec<(GivenName, Image)>> {
        self.named(Column::Images, "image", Images::decode)
    }

    /// Makes a layer's row unreadable.
    #[cfg(test)]
    pub(crate) fn damage_layer(&self, chain: &ChainId) {
        let mut batch = Batch::default();
        batch.put(Column::Layers, Layers::row_key(chain), [0xff]);
        self.write(batch).expect("the store is sound");
    }

    fn named<T>(
        &self,
        column: Column,
        what: &str,
        decode: fn(&[u8]) -> std::result::Result<T, super::Malformed>,
    ) -> Result<Vec<(GivenName, T)>> {
        let mut all = Vec::new();
        self.moment().scan(column, b"", None, &mut |row_key, record| {
            let name =
                given_name(row_key).map_err(|e| corrupt(format!("the row of a {what}"), e))?;
            let value =
                decode(record).map_err(|e| corrupt(format!("the record of {what} {name}"), e))?;
            all.push((name, value));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }
}
