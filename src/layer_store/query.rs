//! Questions that a look into the store answers.

use super::LayerStore;
use super::error::Result;
use crate::types::{ChainId, GivenName, Holder, Image, Layer};

/// A layer with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its name.
    pub chain: ChainId,
    /// Its record.
    pub layer: Layer,
    /// Who holds it, and how often.
    pub holders: Vec<(Holder, u32)>,
    /// Sizes of the files in the tars of it and all layers below.
    pub chain_size: u64,
    /// Bytes of its tar-split record.
    pub record_size: u64,
}

impl LayerStore {
    /// One layer.
    pub fn layer(&self, chain: &ChainId) -> Result<LayerInfo> {
        let layer = self.existing(chain)?;
        self.info(*chain, layer)
    }

    /// All layers that can be read, parents before their children.
    pub fn layers(&self) -> Result<Vec<LayerInfo>> {
        let mut infos = Vec::new();
        for (chain, layer) in self.store().layers()? {
            match layer {
                Ok(layer) => infos.push(self.info(chain, layer)?),
                Err(error) => tracing::error!(%error, %chain, "a layer is skipped"),
            }
        }
        infos.sort_by_key(|info| (info.layer.depth, info.chain));
        Ok(infos)
    }

    fn info(&self, chain: ChainId, layer: Layer) -> Result<LayerInfo> {
        Ok(LayerInfo {
            chain,
            holders: self.store().layer_refs(&chain, usize::MAX)?,
            chain_size: self.size_of_chain(&layer)?,
            record_size: self.records.size(layer.snapshot).unwrap_or(0),
            layer,
        })
    }

    pub(super) fn size_of_chain(&self, layer: &Layer) -> Result<u64> {
        let (mut size, mut parent) = (layer.size, layer.parent);
        while let Some(chain) = parent {
            let Some(below) = self.store().layer(&chain)? else { break };
            size = size.saturating_add(below.size);
            parent = below.parent;
        }
        Ok(size)
    }

    /// The layers from the base up to this one.
    pub fn chain(&self, top: Option<ChainId>) -> Result<Vec<(ChainId, Layer)>> {
        let (mut layers, mut next) = (Vec::new(), top);
        while let Some(chain) = next {
            let layer = self.existing(&chain)?;
            next = layer.parent;
            layers.push((chain, layer));
        }
        layers.reverse();
        Ok(layers)
    }

    /// All images, in the order of their names.
    pub fn images(&self) -> Result<Vec<(GivenName, Image)>> {
        Ok(self.store().images()?)
    }
}
