//! Space of removed volumes, back to the machine.
//!
//! Deleting a thin device frees its blocks for other thin devices, but what lies below, a sparse file or a disk
//! that is thin itself, learns nothing of it. So the device is discarded first: the pool passes the discards of
//! blocks that nobody else has down. A volume that was made by this process and never activated for writing
//! has none of its own, and is spared the activation.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::ThinBackend;
use super::error::DeviceError;
use crate::crashpoint::{Step, around};
use crate::sys::discard::discard_all;
use crate::thin::status::Discards;
use crate::thin::{Sectors, ThinId};
use crate::types::Volume;

/// Thin devices without a block of their own.
#[derive(Debug, Default)]
pub(super) struct Untouched(Mutex<HashSet<ThinId>>);

impl Untouched {
    pub(super) fn made(&self, thin: ThinId) {
        self.0.lock().insert(thin);
    }

    pub(super) fn written(&self, thin: ThinId) {
        self.0.lock().remove(&thin);
    }

    fn take(&self, thin: ThinId) -> bool {
        self.0.lock().remove(&thin)
    }
}

impl ThinBackend {
    /// Gives back what only this volume has. Best effort: what fails costs space below the pool, never in it.
    pub(super) fn discard(&self, volume: &Volume, thin: ThinId) {
        if self.untouched.take(thin) || !self.passes_down() {
            return;
        }
        let size = Sectors::in_bytes(volume.size);
        let discarded = self
            .devices
            .with_device(thin, size, |path| around(Step::Discard, || discard_all(path)));
        let failed: Box<dyn std::error::Error> = match discarded {
            Ok(Ok(())) | Err(DeviceError::Missing(_)) => return,
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        tracing::warn!(volume = %volume.id, error = failed, "a removed volume's blocks could not be discarded");
    }

    fn passes_down(&self) -> bool {
        self.pool.status().is_ok_and(|status| status.discards == Discards::PassedDown)
    }
}
