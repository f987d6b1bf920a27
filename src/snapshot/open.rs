//! Open: reaching a snapshot's files.

use super::error::{Error, Result};
use super::locks::Mode;
use super::{Info, Opened, Snapshots};
use crate::types::{Kind, SnapshotId};
use crate::volume::Access;

impl Snapshots {
    /// Activates the snapshot's volume if need be (for writing, for an active snapshot) and pins
    /// it.
    ///
    /// Where the volume has to be activated, the key is held meanwhile, so that a commit can't
    /// happen between the look at the record and an activation for writing.
    pub fn open(&self, id: SnapshotId) -> Result<Opened> {
        let info = self.existing_id(id)?;
        if let Some(pin) = self.volumes.pinned(info.snapshot.volume) {
            return Ok(opened(info, pin));
        }
        let held = self.locks.hold(&info.namespace, &[(&info.key, Mode::Shared)]);
        let now = self.existing_id(id)?;
        if now.key != info.key {
            drop(held);
            return self.open(id); // committed meanwhile; that happens to a snapshot once
        }
        let volume = self.live_volume(now.snapshot.volume)?;
        let access =
            if now.snapshot.kind == Kind::Active { Access::ReadWrite } else { Access::ReadOnly };
        let pin = self.volumes.pin(&volume, access)?;
        Ok(opened(now, pin))
    }

    fn existing_id(&self, id: SnapshotId) -> Result<Info> {
        self.stat_id(id)?.ok_or_else(|| Error::NotFound(format!("id {id}")))
    }
}

fn opened(info: Info, pin: crate::volume::Pin) -> Opened {
    Opened { read_only: info.snapshot.kind != Kind::Active, info, pin }
}
