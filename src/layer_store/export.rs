//! Export: a layer's tar, byte for byte, or a new tar of the difference to a layer below.

use std::fs::File;
use std::io::{BufReader, Write};
use std::sync::atomic::AtomicBool;

use super::collected::Working;
use super::error::{Error, Result};
use super::{LAYER, LayerStore, keys};
use crate::layer::split::{Reassembled, reassemble};
use crate::layer::{Written, diff_tar};
use crate::snapshot::Opened;
use crate::snapshot::locks::Mode;
use crate::types::{ChainId, Layer};

/// A layer whose tar can be given back, whatever happens to the layer meanwhile. The collector leaves it alone.
pub(super) struct Source<'a> {
    pub(super) layer: Layer,
    record: File,
    opened: Opened,
    _working: Working<'a>,
}

impl Source<'_> {
    /// Writes the tar.
    pub(super) fn write(&self, out: impl Write + Send, cancel: &AtomicBool) -> Result<Reassembled> {
        let record = BufReader::new(&self.record);
        Ok(reassemble(record, self.opened.pin.root(), out, cancel)?)
    }
}

impl LayerStore {
    pub(super) fn source(&self, chain: &ChainId) -> Result<Source<'_>> {
        let _working = self.work_on(LAYER, chain);
        // Nobody removes it between the looks.
        let _held = self.locks.hold(&self.ns, &[(&keys::layer(chain), Mode::Shared)]);
        let layer = self.existing(chain)?;
        let record = self.records.open(layer.snapshot)?;
        let opened = self.snapshots.open(layer.snapshot)?;
        Ok(Source { layer, record, opened, _working })
    }

    /// Writes the very bytes that were registered, uncompressed. When the layer's files are no
    /// longer what was unpacked, it is the error "could not verify layer data".
    pub fn tar_stream(
        &self,
        chain: &ChainId,
        out: impl Write + Send,
        cancel: &AtomicBool,
    ) -> Result<Reassembled> {
        self.source(chain)?.write(out, cancel)
    }

    /// Writes a new tar with what `chain` and everything between it and `ancestor` changed;
    /// without an ancestor, all that is there.
    pub fn tar_stream_from(
        &self,
        chain: &ChainId,
        ancestor: Option<&ChainId>,
        out: impl Write + Send,
        cancel: &AtomicBool,
    ) -> Result<Written> {
        let _working = self.work_on(LAYER, chain);
        let new = self.existing(chain)?;
        let old = match ancestor {
            None => None,
            Some(ancestor) => Some(self.below(chain, &new, ancestor)?),
        };
        let old = old.map(|old| self.snapshots.open(old.snapshot)).transpose()?;
        let pair = self.pair(old, self.snapshots.open(new.snapshot)?, cancel)?;
        Ok(diff_tar(pair.old_root(), pair.new_root(), pair.options(), out, cancel)?)
    }

    fn below(&self, chain: &ChainId, layer: &Layer, ancestor: &ChainId) -> Result<Layer> {
        let mut next = layer.parent;
        while let Some(parent) = next {
            let layer = self.existing(&parent)?;
            if parent == *ancestor {
                return Ok(layer);
            }
            next = layer.parent;
        }
        Err(Error::NotAncestor { chain: *chain, ancestor: *ancestor })
    }

    /// Whether a child's filesystem starts as a block-for-block copy of its parent's.
    pub(super) fn copies_blocks(&self) -> bool {
        self.snapshots.volumes().backend().name() == "thin"
    }
}
