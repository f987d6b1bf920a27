//! Sealing: a volume's last change is behind it.

use std::sync::Arc;
use std::time::Duration;

use super::activation::{Shared, Want};
use super::backend::Access;
use super::gate::{Decision, Refused};
use super::pin::Pin;
use super::{Error, Result};
use crate::types::Volume;

/// A sealed volume whose commit isn't recorded yet. Writers wait meanwhile. Dropped without
/// [`Seal::keep`], it lets them go on.
#[derive(Debug)]
#[must_use = "dropping it undoes the seal"]
pub struct Seal {
    shared: Arc<Shared>,
    volume: Volume,
    pin: Pin,
    kept: bool,
}

impl Seal {
    pub(super) fn new(shared: &Arc<Shared>, volume: &Volume, patience: Duration) -> Result<Self> {
        // A volume that isn't activated is activated too: what was written to it before may be in
        // the host's page cache only.
        let pin = Pin::new(shared.pin(volume, Want::Seal)?);
        pin.active().gate.close(patience).map_err(|refused| busy(volume, refused))?;
        // Another seal may have been kept just before ours.
        if shared.sealed.read().contains(volume.id) {
            pin.active().gate.decide(Decision::ReadOnly);
            return Err(Error::ReadOnly(volume.id));
        }
        // From here on dropping it opens the gate again.
        let seal = Self { shared: shared.clone(), volume: volume.clone(), pin, kept: false };
        seal.with_mounted(|seal, mounted| seal.shared.backend.seal(&seal.volume, mounted))?;
        Ok(seal)
    }

    /// The commit is durable: the volume stays read-only for ever.
    pub fn keep(mut self) {
        self.kept = true;
        self.shared.sealed.write().insert(self.volume.id);
        self.pin.active().gate.decide(Decision::ReadOnly);
        drop(self.shared.idle.forget(self.volume.id));
    }

    fn with_mounted(
        &self,
        act: impl FnOnce(&Self, &mut super::Mounted) -> Result<()>,
    ) -> Result<()> {
        let slot = self.shared.slots.get(self.volume.id);
        let slot = slot.ok_or(Error::Missing(self.volume.id))?;
        let mut op = slot.op.lock();
        let (_, mounted) = op.mounted.as_mut().ok_or(Error::Missing(self.volume.id))?;
        act(self, mounted)
    }

    fn undo(&self) -> Result<()> {
        self.with_mounted(|seal, mounted| match mounted.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => seal.shared.backend.unseal(&seal.volume, mounted),
        })
    }
}

impl Drop for Seal {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let gate = &self.pin.active().gate;
        match self.undo() {
            Ok(()) => gate.decide(Decision::Open),
            // Its pins can only read now. Once they are gone it is activated anew, for writing.
            Err(error) => {
                tracing::warn!(
                    volume = %self.volume.id,
                    error = &error as &dyn std::error::Error,
                    "the volume can be written again when nobody reads it any more"
                );
                gate.decide(Decision::ReadOnly);
                drop(self.shared.idle.forget(self.volume.id));
            }
        }
    }
}

fn busy(volume: &Volume, refused: Refused) -> Error {
    let why = match refused {
        Refused::Writers(1) => "1 file is open or mapped for writing".to_owned(),
        Refused::Writers(count) => format!("{count} files are open or mapped for writing"),
        Refused::Sealing => "it is being committed".to_owned(),
    };
    Error::Busy(volume.id, why)
}
