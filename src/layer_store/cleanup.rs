//! Start: what the layer store holds, and the end of what a crash interrupted.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::RwLock;

use super::error::Result;
use super::records::Records;
use super::{LayerStore, keys};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::snapshot::locks::Locks;
use crate::snapshot::{Info, Snapshots};
use crate::types::{ChainId, GivenName, Holder, IMPORTING, Kind, LAYERS, Namespace, SnapshotId};

/// What a start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Layers that are there.
    pub layers: usize,
    /// Read-write layers that are there.
    pub rw_layers: usize,
    /// Images that are there.
    pub images: usize,
    /// Layers whose record in the store can't be read; the rest is served.
    pub unreadable: Vec<String>,
    /// Layers without their tar-split record: their files are there, their tar isn't.
    pub without_record: Vec<ChainId>,
    /// Snapshots of unfinished imports that were removed.
    pub abandoned: usize,
    /// Layers that nobody held any more.
    pub collected: usize,
    /// Record files that belonged to no layer.
    pub stray_records: usize,
}

impl LayerStore {
    /// Cleans up after a crash, then is ready. `dir` is for its records alone. To be called before
    /// anything else uses the snapshots.
    ///
    /// It may be interrupted at any point and run again:
    ///
    /// 1. remove the snapshots of unfinished imports and read-write layers;
    /// 2. forget the references of imports;
    /// 3. remove record files without a layer;
    /// 4. remove layers that nobody holds.
    pub fn start(snapshots: Arc<Snapshots>, dir: &Path) -> Result<(Arc<Self>, Restored)> {
        let store = LayerStore {
            snapshots,
            records: Records::new(dir),
            locks: Locks::default(),
            ns: Namespace::new(LAYERS).expect("the constant is a namespace"),
            imports: AtomicU64::new(0),
            image_watchers: RwLock::default(),
            active: Default::default(),
            // The first collection looks for what leases held.
            loose: AtomicBool::new(true),
            collected: Default::default(),
        };
        let mut restored = Restored {
            rw_layers: store.store().rw_layers()?.len(),
            images: store.store().images()?.len(),
            abandoned: store.abandon_imports()?,
            ..Restored::default()
        };
        store.count_layers(&mut restored)?;
        store.forget_imports()?;
        // A file of a layer that can't be read may be all that is left of it.
        if restored.unreadable.is_empty() {
            restored.stray_records = store.records.retain(&store.snapshots_of_layers()?)?;
            restored.collected = store.prune()?.len();
        }
        Ok((Arc::new(store), restored))
    }

    fn count_layers(&self, restored: &mut Restored) -> Result<()> {
        for (chain, layer) in self.store().layers()? {
            match layer {
                Ok(layer) if self.records.size(layer.snapshot).is_none() => {
                    restored.without_record.push(chain);
                    restored.layers += 1;
                }
                Ok(_) => restored.layers += 1,
                Err(error) => restored.unreadable.push(format!("{chain}: {error}")),
            }
        }
        Ok(())
    }

    fn abandon_imports(&self) -> Result<usize> {
        let unfinished = self.unfinished()?;
        for info in &unfinished {
            self.snapshots.remove_with(&self.ns, &info.key, &mut |_, _| {})?;
        }
        Ok(unfinished.len())
    }

    /// Snapshots that are no layer and no read-write layer, not yet or not any more.
    pub(super) fn unfinished(&self) -> Result<Vec<Info>> {
        let mut unfinished = Vec::new();
        self.snapshots.walk(&self.ns, &[], &mut |info: Info| {
            unfinished.push(info);
            std::ops::ControlFlow::Continue(())
        })?;
        unfinished.retain(|info| self.is_unfinished(info).unwrap_or(false));
        Ok(unfinished)
    }

    /// An import, or an init layer whose read-write layer was not made.
    pub(super) fn is_unfinished(&self, info: &Info) -> Result<bool> {
        let key = info.key.as_str();
        if info.snapshot.kind == Kind::Active {
            return Ok(key.starts_with(IMPORTING));
        }
        let Some(name) = key.strip_prefix(keys::INIT) else { return Ok(false) };
        let Ok(name) = GivenName::new(name) else { return Ok(false) };
        Ok(self.store().rw_layer(&name)?.is_none())
    }

    fn forget_imports(&self) -> Result<()> {
        let mut batch = Batch::of(Step::StoreLayer);
        let mut found = false;
        for (chain, _) in self.store().layers()? {
            for (holder, _) in self.store().layer_refs(&chain, usize::MAX)? {
                if matches!(holder, Holder::Import(_)) {
                    batch.put_layer_ref(&chain, &holder, 0);
                    found = true;
                }
            }
        }
        if found {
            self.store().write(batch)?;
        }
        Ok(())
    }

    fn snapshots_of_layers(&self) -> Result<HashSet<SnapshotId>> {
        let layers = self.store().layers()?;
        Ok(layers.into_iter().filter_map(|(_, layer)| Some(layer.ok()?.snapshot)).collect())
    }
}
