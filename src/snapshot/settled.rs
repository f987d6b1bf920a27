//! What a commit does first: from then on the content can't change any more.

use std::time::Duration;

use super::error::Result;
use super::{Snapshots, volume};
use crate::meta::Batch;
use crate::types::{Volume, VolumeId, VolumeState};
use crate::volume::{Fork, Seal, Volumes};

/// How long a commit waits for writers: the kernel tells of closed files a moment after the fact.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits for those who are closing the block device.
const CLOSING: Duration = Duration::from_millis(50);

/// A volume whose content can't change any more. Dropped without [`Settled::keep`], all is as it was.
pub(super) enum Settled {
    /// Nobody has it activated, nor can while the snapshot's key is held; and it is whole and durable as it is.
    AtRest(Volume),
    /// The volume is sealed.
    Sealed(Volume, Seal),
    /// Somebody has the volume's block device open and goes on writing. A copy stays behind under the volume's id; what
    /// he has is a volume to be destroyed.
    Forked(Fork, Volume),
}

impl Settled {
    /// The volume as it is after the commit.
    pub(super) fn volume(&self) -> &Volume {
        match self {
            Settled::AtRest(volume) | Settled::Sealed(volume, _) => volume,
            Settled::Forked(fork, _) => fork.volume(),
        }
    }

    /// Adds what changes in the records of volumes.
    pub(super) fn record(&self, batch: &mut Batch) {
        if let Settled::Forked(fork, left) = self {
            batch.put_volume(fork.volume());
            batch.put_volume(left);
        }
    }

    /// The commit is durable. Gives the tombstone for the reaper, if there is one.
    pub(super) fn keep(self, volumes: &Volumes) -> Option<Volume> {
        match self {
            Settled::AtRest(volume) => {
                volumes.keep_at_rest(&volume);
                None
            }
            Settled::Sealed(_, seal) => {
                seal.keep();
                None
            }
            Settled::Forked(fork, left) => {
                fork.keep();
                Some(left)
            }
        }
    }
}

impl Snapshots {
    /// Takes back what was handed out and seals the volume, unless it is at rest; or makes a copy, if somebody has the block device open.
    pub(super) fn settle(&self, volume: Volume) -> Result<Settled> {
        match self.volumes.take_back(&volume, CLOSING) {
            Ok(()) if self.volumes.is_at_rest(&volume) => Ok(Settled::AtRest(volume)),
            Ok(()) => {
                let seal = self.volumes.seal(&volume, PATIENCE)?;
                Ok(Settled::Sealed(volume, seal))
            }
            Err(volume::Error::Busy(..)) => self.fork(volume),
            Err(error) => Err(error.into()),
        }
    }

    fn fork(&self, volume: Volume) -> Result<Settled> {
        let id = VolumeId::of(self.store.next_snapshot_id()?);
        let fork = self.volumes.fork_handed_out(&volume)?;
        tracing::info!(volume = %volume.id, left = %id, "committed as it is now: somebody has its block device open");
        Ok(Settled::Forked(fork, Volume { id, state: VolumeState::Tombstone, ..volume }))
    }
}
