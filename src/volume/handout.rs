//! Handing out a volume's block device: its directory is closed first, if the device may be written.

use std::time::{Duration, Instant};

use super::activation::Want;
use super::backend::{Access, BlockDevice};
use super::volumes::Volumes;
use super::{Error, Result};
use crate::types::Volume;

/// How long a hand-out waits for files that are being closed: the kernel tells of it a moment after the fact.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

impl Volumes {
    /// Whether the backend has block devices to hand out.
    pub fn has_block_devices(&self) -> bool {
        self.shared.backend.has_block_devices()
    }

    /// Gives the volume's block device to others, and always the same one. One that may be written is
    /// deactivated first, and not activated again until it is taken back; Busy while files of it are open.
    /// A volume that nobody may write can be read both ways.
    pub fn hand_out(&self, volume: &Volume, access: Access) -> Result<BlockDevice> {
        if access == Access::ReadOnly {
            self.shared.admit(volume.id, Want::Read)?;
            return self.shared.backend.hand_out(volume, access);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_hand_out(volume)? {
                Some(device) => return Ok(device),
                None if Instant::now() < deadline => std::thread::sleep(PAUSE),
                None => {
                    let why = "files of it are open through its directory";
                    return Err(Error::Busy(volume.id, why.to_owned()));
                }
            }
        }
    }

    /// `None`: try again, somebody is using or changing the activation.
    fn try_hand_out(&self, volume: &Volume) -> Result<Option<BlockDevice>> {
        let shared = &self.shared;
        let slot = shared.slots.get_or_insert(volume.id);
        // From here on nobody activates it: they wait for this lock, and then find it handed out.
        let mut op = shared.lock_forgotten(&slot);
        if op.dead || slot.is_open() {
            return Ok(None);
        }
        let handed = shared
            .admit(volume.id, Want::Write)
            .and_then(|()| shared.deactivate(&slot, &mut op))
            .and_then(|()| shared.backend.hand_out(volume, Access::ReadWrite));
        shared.slots.discard(slot.id, &mut op);
        handed.map(Some)
    }

    /// Whether somebody has been given the volume's block device.
    pub fn is_handed_out(&self, volume: &Volume) -> bool {
        self.shared.backend.is_handed_out(volume)
    }

    /// Takes the block device back, if it was handed out. Busy if somebody has it open for longer than
    /// `patience`.
    pub fn take_back(&self, volume: &Volume, patience: Duration) -> Result<()> {
        self.shared.backend.take_back(volume, patience)
    }
}
