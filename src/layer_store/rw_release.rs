//! Release of a read-write layer.

use super::error::{Error, Result};
use super::references::Removed;
use super::{LayerStore, RW, keys};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::snapshot::locks::Mode;
use crate::types::{ChainId, GivenName, RwLayer};

impl LayerStore {
    /// Gives a reference of a read-write layer back. With the last one it goes, unless a lease holds
    /// it, with its init layer; then, downward, every layer that nobody holds any more. These layers are returned.
    ///
    /// A release that fails has changed nothing: the reference is still there. After a crash, either
    /// the reference is still there, or the read-write layer is gone and the next start removes what
    /// is to go with it.
    pub fn release_rw(&self, name: &GivenName) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        let parent = self.release_rw_held(name)?;
        self.collect_or_warn(parent, &mut removed);
        Ok(removed)
    }

    /// Gives the layer below that may have to go now.
    fn release_rw_held(&self, name: &GivenName) -> Result<Option<ChainId>> {
        let key = keys::rw(name);
        let _held = self.locks.hold(&self.ns, &[(&key, Mode::Exclusive)]);
        let mut layer = self.rw(name)?.layer;
        if layer.references == 0 {
            return Err(Error::RwNotRetained(name.to_string()));
        }
        let leased = self.is_leased(RW, name)?;
        if layer.references > 1 || leased {
            layer.references -= 1;
            let mut batch = Batch::of(Step::StoreLayer);
            batch.put_rw_layer(name, &layer);
            self.store().write(batch)?;
            if leased {
                self.leave();
            }
            return Ok(None);
        }
        self.remove_rw(name, &layer)?;
        Ok(layer.parent)
    }

    /// The read-write layer's name must be held exclusively, and nobody have a reference.
    ///
    /// 1. one batch removes the snapshot, the record and the hold on the parent;
    /// 2. the init layer goes: it has no children now.
    pub(super) fn remove_rw(&self, name: &GivenName, layer: &RwLayer) -> Result<()> {
        self.snapshots.remove_with(&self.ns, &keys::rw(name), &mut |_, batch| {
            batch.remove_rw_layer(name, layer);
        })?;
        if layer.init.is_some()
            && let Err(error) =
                self.snapshots.remove_with(&self.ns, &keys::init(name), &mut |_, _| {})
        {
            tracing::warn!(%error, %name, "an init layer is left to the collector");
            self.leave();
        }
        tracing::info!(%name, "read-write layer removed");
        Ok(())
    }
}
