//! Register: a tar becomes a layer.

use std::io::{BufWriter, Read};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::error::{Error, Result};
use super::flush::flushing;
use super::{IMPORT, LayerStore, Progress, keys};
use crate::layer::split::Recorder;
use crate::layer::{self, Applied, Limits, Options};
use crate::snapshot::Info;
use crate::snapshot::locks::Mode;
use crate::types::{
    ChainId, DiffId, Event, Holder, Labels, Layer, MAX_DEPTH, SnapshotId, SnapshotKey, Topic,
};

/// How a record is written to its file.
const BUFFER: usize = 256 << 10;

/// What is to become of a tar.
pub struct Register<'a> {
    /// The layer that it stands on.
    pub parent: Option<ChainId>,
    /// What its diff id has to be.
    pub expected: Option<DiffId>,
    /// Who holds the layer once it is there.
    pub holder: Holder,
    /// Told how far it is, and asked whether to go on.
    pub progress: &'a Progress,
}

/// A layer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub chain: ChainId,
    /// The layer.
    pub layer: Layer,
    /// Whether it was there before; then it got one more reference, and the new copy was dropped.
    pub existed: bool,
}

impl LayerStore {
    /// Unpacks `input`, compressed or not, as a layer on `parent`. The layer has one reference more
    /// when this returns, and is durable.
    ///
    /// After a crash, either the layer is there with its record and its reference, or nothing is:
    ///
    /// 1. an active snapshot on the parent, with a reference that keeps the parent;
    /// 2. unpack into it, digest and record beside, and flush what is unpacked already;
    /// 3. flush the record;
    /// 4. one batch commits the snapshot under the chain id (its content is durable before), adds
    ///    the layer and its reference, and replaces the import's reference of the parent.
    pub fn register(&self, input: impl Read + Send, register: Register<'_>) -> Result<Registered> {
        let key = keys::import(self.imports.fetch_add(1, Ordering::Relaxed));
        let working = self.work_on(IMPORT, &key);
        let (import, depth) = self.begin(&key, register.parent)?;
        let unpacked = self.unpack(&import, input, &register);
        let registered =
            unpacked.and_then(|applied| self.finish(&import, depth, &applied, &register));
        match registered {
            Ok(registered) if !registered.existed => Ok(registered),
            other => {
                // An error of this is worth less than the first one.
                if let Err(error) = self.abandon(&import, register.parent) {
                    tracing::warn!(%error, key = %import.key, "an import is left to the collector");
                    drop(working);
                    self.leave();
                }
                other
            }
        }
    }

    fn begin(&self, key: &SnapshotKey, parent: Option<ChainId>) -> Result<(Info, u32)> {
        let parent_key = parent.as_ref().map(keys::layer);
        let held: Vec<_> = parent_key.iter().map(|key| (key, Mode::Shared)).collect();
        let _held = self.locks.hold(&self.ns, &held);
        let depth = match parent {
            None => 1,
            Some(parent) => self.existing(&parent)?.depth + 1,
        };
        if let Some(parent) = parent.filter(|_| depth > MAX_DEPTH) {
            return Err(Error::MaxDepth(parent));
        }
        let info = self.snapshots.prepare_with(
            &self.ns,
            key,
            parent_key.as_ref(),
            Labels::new(),
            &mut |info, batch| {
                if let Some(parent) = &parent {
                    batch.put_layer_ref(parent, &Holder::Import(info.snapshot.id), 1);
                }
            },
        )?;
        Ok((info, depth))
    }

    fn unpack(
        &self,
        import: &Info,
        input: impl Read + Send,
        register: &Register<'_>,
    ) -> Result<Applied> {
        let id = import.snapshot.id;
        let opened = self.snapshots.open(id)?;
        let _writer = opened.pin.writer().map_err(crate::snapshot::Error::from)?;
        let record = BufWriter::with_capacity(BUFFER, self.records.create(id)?);
        let mut recorder = Recorder::new(record)?;
        let options = Options {
            limits: Limits::default(),
            cancel: &register.progress.cancel,
            done: &register.progress.unpacked,
        };
        let root = opened.pin.root();
        let unpack = || layer::apply(root, input, &mut recorder, options);
        let applied = flushing(root, &register.progress.unpacked, unpack)
            .map_err(|errno| flush_failed(&import.key, errno.into()))??;
        if let Some(expected) = register.expected.filter(|id| *id != applied.diff_id) {
            return Err(Error::WrongDiffId { expected, found: applied.diff_id });
        }
        let record = recorder.finish(applied.diff_id, applied.tar_size)?;
        let record = record.into_inner().map_err(|e| layer::Error::RecordOutput(e.into_error()))?;
        self.records.keep(id, &record)?;
        Ok(applied)
    }

    fn finish(
        &self,
        import: &Info,
        depth: u32,
        applied: &Applied,
        register: &Register<'_>,
    ) -> Result<Registered> {
        let Register { parent, holder, .. } = register;
        let chain = ChainId::new(*parent, applied.diff_id);
        let key = keys::layer(&chain);
        let parent_key = parent.as_ref().map(keys::layer);
        let mut wanted = vec![(&key, Mode::Exclusive)];
        wanted.extend(parent_key.iter().map(|key| (key, Mode::Shared)));
        let _held = self.locks.hold(&self.ns, &wanted);
        if let Some(layer) = self.store().layer(&chain)? {
            self.add_reference(&chain, holder)?;
            tracing::info!(%chain, "the layer was there already");
            return Ok(Registered { chain, layer, existed: true });
        }
        let layer = Layer {
            diff_id: applied.diff_id,
            parent: *parent,
            snapshot: import.snapshot.id,
            depth,
            tar_size: applied.tar_size,
            size: applied.size,
            entries: applied.entries,
            created: SystemTime::now(),
        };
        let also = &mut |_: &Info, batch: &mut crate::meta::Batch| {
            batch.insert_layer(&chain, &layer);
            batch.put_layer_ref(&chain, holder, 1);
            if let Some(parent) = parent {
                batch.put_layer_ref(parent, &Holder::Import(layer.snapshot), 0);
            }
            let event = Event::about(Topic::LAYER_CREATE, &self.ns, chain);
            batch.publish(event.with("diff_id", layer.diff_id));
        };
        self.snapshots.commit_with(&self.ns, &key, &import.key, Labels::new(), None, also)?;
        tracing::info!(%chain, diff_id = %layer.diff_id, depth, entries = layer.entries, "layer registered");
        Ok(Registered { chain, layer, existed: false })
    }

    /// Removes what an import made. The parent may have lost its last other reference meanwhile.
    pub(super) fn abandon(&self, import: &Info, parent: Option<ChainId>) -> Result<()> {
        let id: SnapshotId = import.snapshot.id;
        self.snapshots.remove_with(&self.ns, &import.key, &mut |_, batch| {
            if let Some(parent) = &parent {
                batch.put_layer_ref(parent, &Holder::Import(id), 0);
            }
        })?;
        self.records.remove(id)?;
        self.collect(parent, &mut Vec::new())
    }
}

fn flush_failed(key: &SnapshotKey, source: std::io::Error) -> Error {
    Error::Layer(layer::Error::Io {
        doing: "writing back what was unpacked into snapshot",
        path: key.to_string(),
        source,
    })
}
