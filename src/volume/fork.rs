//! Forking: a volume's content goes on without its block device, which somebody has open.

use std::sync::Arc;

use super::Result;
use super::activation::Shared;
use super::volumes::Volumes;
use crate::types::Volume;

/// A copy of a handed-out volume whose commit isn't recorded yet. Dropped without [`Fork::keep`], it is destroyed.
#[derive(Debug)]
#[must_use = "dropping it destroys the copy"]
pub struct Fork {
    shared: Arc<Shared>,
    volume: Volume,
    kept: bool,
}

impl Volumes {
    /// Commit of a volume whose block device somebody has open and goes on writing: a copy with the content of this
    /// moment takes its place. The device stays with its user, until it is closed.
    pub fn fork_handed_out(&self, volume: &Volume) -> Result<Fork> {
        let shared = self.shared.clone();
        let volume = shared.backend.fork_handed_out(volume)?;
        Ok(Fork { shared, volume, kept: false })
    }
}

impl Fork {
    /// The volume as it is to be recorded: the same id, other storage.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The commit is durable: the volume stays as it is for ever.
    pub fn keep(mut self) {
        self.kept = true;
        self.shared.sealed.write().insert(self.volume.id);
    }

    fn undo(&self) -> Result<()> {
        self.shared.backend.destroy(&self.volume)
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.undo() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(volume = %self.volume.id, error, "the copy for a commit that failed stays until the next start");
        }
    }
}
