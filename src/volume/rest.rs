//! Volumes at rest: nobody has them activated, and what is on disk is all there is.

use super::volumes::Volumes;
use crate::types::Volume;

impl Volumes {
    /// Whether a commit has nothing to do about the content: the volume is not activated, and whole and durable as it is.
    /// The caller sees to it that nobody activates it before the commit is recorded.
    pub fn is_at_rest(&self, volume: &Volume) -> bool {
        self.shared.slots.get(volume.id).is_none() && self.shared.backend.is_at_rest(volume)
    }

    /// The commit of a volume at rest is durable: it stays as it is for ever.
    pub fn keep_at_rest(&self, volume: &Volume) {
        self.shared.sealed.write().insert(volume.id);
    }
}
