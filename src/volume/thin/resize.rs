//! Larger volumes: the table of the thin device, then the filesystem on it, both while they are in use.

use super::error::volume_error;
use super::reconcile::thin_id;
use super::{ThinBackend, whole};
use crate::thin::Sectors;
use crate::types::Volume;
use crate::volume::{Mounted, Result};

impl ThinBackend {
    /// Makes a volume as large as its record says. After a crash, or if it isn't active, the next activation for
    /// writing finds a filesystem smaller than its device and grows it.
    pub(super) fn resize_volume(&self, volume: &Volume, mounted: Option<&Mounted>) -> Result<()> {
        let thin = thin_id(volume)?;
        self.untouched.written(thin);
        if mounted.is_none() {
            return Ok(());
        }
        let size = Sectors::in_bytes(whole(volume.size));
        let resized = self.devices.resize(thin, size);
        self.meter.outdate(thin);
        resized.map_err(|e| volume_error(volume.id, "growing", e))
    }
}
