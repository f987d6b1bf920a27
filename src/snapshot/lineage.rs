//! Lineage: what is known of two snapshots' files before any of them is looked at.

use std::sync::atomic::AtomicBool;

use super::error::Result;
use super::{Opened, Snapshots};
use crate::types::VolumeId;
use crate::volume::{self, Changed};

/// How the files of two snapshots are related.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// One's filesystem started as a block-for-block copy of the other's.
    pub same: bool,
    /// All that may differ, where it is known.
    pub changed: Option<Changed>,
}

impl Snapshots {
    /// How two snapshots are related, and where it is the later one that is compared with the earlier, what
    /// differs: of a thin volume the pool knows.
    pub fn lineage(&self, old: &Opened, new: &Opened, cancel: &AtomicBool) -> Result<Lineage> {
        if self.volumes.backend().name() != "thin" {
            return Ok(Lineage::default());
        }
        let (was, is) = (old.info.snapshot.volume, new.info.snapshot.volume);
        if self.stems_from(is, was)? {
            return Ok(Lineage { same: true, changed: self.changed(old, new, cancel)? });
        }
        Ok(Lineage { same: self.stems_from(was, is)?, changed: None })
    }

    /// The volumes' origins tell, not the snapshots' parents: a parent may have been given at commit.
    fn stems_from(&self, volume: VolumeId, ancestor: VolumeId) -> Result<bool> {
        let mut next = Some(volume);
        while let Some(id) = next {
            if id == ancestor {
                return Ok(true);
            }
            // An origin that was removed ends the chain: then more is compared than would be needed.
            next = self.store.volume(id)?.and_then(|volume| volume.origin);
        }
        Ok(false)
    }

    fn changed(&self, old: &Opened, new: &Opened, cancel: &AtomicBool) -> Result<Option<Changed>> {
        let was = self.live_volume(old.info.snapshot.volume)?;
        let is = self.live_volume(new.info.snapshot.volume)?;
        match self.volumes.changed(&was, (&is, &new.pin), cancel) {
            Err(error @ volume::Error::Cancelled(_)) => Err(error.into()),
            // The walk over all files needs nothing of this.
            Err(error) => {
                let error = super::with_causes(&error);
                tracing::warn!(old = %old.info.key, new = %new.info.key, error, "comparing file by file");
                Ok(None)
            }
            found => Ok(found?),
        }
    }
}
