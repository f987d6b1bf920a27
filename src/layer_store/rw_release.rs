//! Release of a read-write layer.

use super::error::Result;
use super::references::Removed;
use super::{LayerStore, keys};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::snapshot::locks::Mode;
use crate::types::{ChainId, GivenName};

impl LayerStore {
    /// Gives a reference of a read-write layer back. With the last one it goes, with its init layer;
    /// then, downward, every layer that nobody holds any more. These layers are returned.
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

    /// 1. one batch removes the snapshot, the record and the hold on the parent;
    /// 2. the init layer goes: it has no children now.
    fn release_rw_held(&self, name: &GivenName) -> Result<Option<ChainId>> {
        let key = keys::rw(name);
        let _held = self.locks.hold(&self.ns, &[(&key, Mode::Exclusive)]);
        let mut layer = self.rw(name)?.layer;
        if layer.references > 1 {
            layer.references -= 1;
            let mut batch = Batch::of(Step::StoreLayer);
            batch.put_rw_layer(name, &layer);
            self.store().write(batch)?;
            return Ok(None);
        }
        self.snapshots.remove_with(&self.ns, &key, &mut |_, batch| {
            batch.remove_rw_layer(name, &layer);
        })?;
        if layer.init.is_some()
            && let Err(error) =
                self.snapshots.remove_with(&self.ns, &keys::init(name), &mut |_, _| {})
        {
            tracing::warn!(%error, %name, "an init layer is left until the next start");
        }
        tracing::info!(%name, "read-write layer removed");
        Ok(layer.parent)
    }
}
