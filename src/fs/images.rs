//! `images/`: a symlink for each image of the layer store, to the snapshot of its topmost layer.
//!
//! Image names are escaped as keys are. An image without layers has nothing to show, and is left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::names::{self, Name};
use super::tree::Place;
use super::{Fs, Result};
use crate::snapshot;
use crate::types::{GivenName, SnapshotKey};

impl Fs {
    /// Images came, went, or name another layer: has the kernel ask anew what `images/` holds.
    pub fn images_changed(&self) {
        self.relist_place(&Place::Images);
    }

    /// All of them, with their names in the directory.
    pub(super) fn images(&self) -> Result<Vec<(String, Place)>> {
        let images = self.snapshots.store().images().map_err(snapshot::Error::from)?;
        let shown = images.into_iter().filter_map(|(name, image)| {
            let escaped = names::encode(&SnapshotKey::new(name.as_str()).ok()?);
            Some((escaped, Place::Image(name, image.top?)))
        });
        Ok(shown.collect())
    }

    /// The image that a name in the directory stands for.
    pub(super) fn image_named(&self, name: &OsStr) -> Result<Option<Place>> {
        let given = match names::decode(name.as_bytes()) {
            Some(Name::Key(key)) => GivenName::new(key.as_str()).ok(),
            // Too long to be read back from the name.
            Some(Name::Digest(_)) => {
                let mut images = self.images()?.into_iter();
                return Ok(images.find(|(own, _)| name == own.as_str()).map(|(_, place)| place));
            }
            None => None,
        };
        let Some(given) = given else { return Ok(None) };
        let image = self.snapshots.store().image(&given).map_err(snapshot::Error::from)?;
        Ok(image.and_then(|image| Some(Place::Image(given, image.top?))))
    }
}
