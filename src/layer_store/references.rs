//! Get, release, and what goes with the last reference.

use super::error::{Error, Result};
use super::{LAYER, LayerStore, keys};
use crate::crashpoint::Step;
use crate::meta::{Batch, Store};
use crate::snapshot::locks::Mode;
use crate::types::{ChainId, DiffId, Event, Holder, Layer, Topic};

/// A layer that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its name.
    pub chain: ChainId,
    /// Its tar.
    pub diff_id: DiffId,
    /// Sizes of the files in the tars of it and all layers below.
    pub size: u64,
    /// Sizes of the files in its own tar.
    pub diff_size: u64,
}

impl LayerStore {
    pub(super) fn store(&self) -> &Store {
        self.snapshots.store()
    }

    /// The layer, if it exists.
    pub(super) fn existing(&self, chain: &ChainId) -> Result<Layer> {
        self.store().layer(chain)?.ok_or(Error::LayerNotFound(*chain))
    }

    /// Adds a user's reference to a layer.
    pub fn get(&self, chain: &ChainId) -> Result<Layer> {
        let _held = self.locks.hold(&self.ns, &[(&keys::layer(chain), Mode::Exclusive)]);
        let layer = self.existing(chain)?;
        self.add_reference(chain, &Holder::User)?;
        Ok(layer)
    }

    /// The layer must be held exclusively, or `holder` be no user: users share one count.
    pub(super) fn add_reference(&self, chain: &ChainId, holder: &Holder) -> Result<()> {
        let count = self.store().layer_ref(chain, holder)?.saturating_add(1);
        let mut batch = Batch::of(Step::StoreLayer);
        batch.put_layer_ref(chain, holder, if *holder == Holder::User { count } else { 1 });
        Ok(self.store().write(batch)?)
    }

    /// Gives a user's reference back. With its last reference of any kind the layer goes, unless a
    /// lease holds it, and then, downward, every layer that nobody holds any more; these are returned.
    ///
    /// A release that fails has changed nothing. After a crash, either the reference is still there
    /// or it is gone, and the layer with it if that was the last; what is to go below it goes at the
    /// next start.
    pub fn release(&self, chain: &ChainId) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        let below = self.release_held(chain, &mut removed)?;
        self.collect_or_warn(below, &mut removed);
        Ok(removed)
    }

    /// Gives the layer below that may have to go now.
    fn release_held(&self, chain: &ChainId, removed: &mut Vec<Removed>) -> Result<Option<ChainId>> {
        let _held = self.locks.hold(&self.ns, &[(&keys::layer(chain), Mode::Exclusive)]);
        let layer = self.existing(chain)?;
        let count = self.store().layer_ref(chain, &Holder::User)?;
        if count == 0 {
            return Err(Error::NotRetained(*chain));
        }
        let others = self.store().layer_refs(chain, 2)?.len() > 1;
        let leased = self.is_leased(LAYER, chain)?;
        if count > 1 || others || leased {
            let mut batch = Batch::of(Step::StoreLayer);
            batch.put_layer_ref(chain, &Holder::User, count - 1);
            self.store().write(batch)?;
            if leased {
                self.leave();
            }
            return Ok(None);
        }
        removed.push(self.remove_layer(chain, &layer)?);
        Ok(layer.parent)
    }

    /// Removes this layer and those below it, as far down as nobody holds them.
    pub(super) fn collect(
        &self,
        mut next: Option<ChainId>,
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        while let Some(chain) = next {
            // Whoever lets go last finds nobody here. The others needn't wait for those who are about to come to
            // stand on the layer, and not for one another.
            if !self.store().layer_refs(&chain, 1)?.is_empty() {
                return Ok(());
            }
            let _held = self.locks.hold(&self.ns, &[(&keys::layer(&chain), Mode::Exclusive)]);
            let Some(layer) = self.store().layer(&chain)? else { return Ok(()) };
            if !self.store().layer_refs(&chain, 1)?.is_empty() {
                return Ok(());
            }
            if self.is_leased(LAYER, chain)? {
                self.leave();
                return Ok(());
            }
            removed.push(self.remove_layer(&chain, &layer)?);
            next = layer.parent;
        }
        Ok(())
    }

    /// For when the caller's own change is done: what can't go now is for the collector.
    pub(super) fn collect_or_warn(&self, next: Option<ChainId>, removed: &mut Vec<Removed>) {
        if let Err(error) = self.collect(next, removed) {
            tracing::warn!(%error, "a layer that nobody holds could not be removed yet");
            self.leave();
        }
    }

    /// Removes every layer that nobody holds: what an unfinished cascade left.
    pub fn prune(&self) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for (chain, _) in self.store().layers()? {
            self.collect(Some(chain), &mut removed)?;
        }
        Ok(removed)
    }

    /// The layer must be held exclusively, and by nobody but a user.
    pub(super) fn remove_layer(&self, chain: &ChainId, layer: &Layer) -> Result<Removed> {
        let size = self.size_of_chain(layer)?;
        self.snapshots.remove_with(&self.ns, &keys::layer(chain), &mut |_, batch| {
            batch.put_layer_ref(chain, &Holder::User, 0);
            batch.remove_layer(chain, layer);
            batch.publish(Event::about(Topic::LAYER_DELETE, &self.ns, chain));
        })?;
        if let Err(error) = self.records.remove(layer.snapshot) {
            tracing::warn!(%error, %chain, "the record of a removed layer stays until the next start");
        }
        tracing::info!(%chain, "layer removed");
        Ok(Removed { chain: *chain, diff_id: layer.diff_id, size, diff_size: layer.size })
    }
}
