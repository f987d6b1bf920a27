//! Flushes that fail.
//!
//! What the kernel could not write to a failing disk it gives up, and it says so once: the next flush of the same
//! filesystem succeeds. So each failure is remembered here, and a volume that has lost something is not committed by this
//! process any more, however often that is asked for. Where it was unmounted since, or after a start, it has what is on its
//! disk, as after a power cut; everything that a `fsync` had returned for is among that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use parking_lot::Mutex;

use super::devices::{Devices, Result};
use super::error::DeviceError;
use crate::thin::ThinId;

/// Thin devices of which a flush has failed, with why.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<ThinId, String>>);

impl Devices {
    /// Flushes the filesystem on a thin device: the only way to do so here.
    pub(super) fn flush(&self, thin: ThinId, root: impl AsFd) -> io::Result<()> {
        rustix::fs::syncfs(root).map_err(|errno| {
            let error = io::Error::from(errno);
            let first = self.failures.0.lock().insert(thin, error.to_string()).is_none();
            if first {
                tracing::error!(%thin, %error, "a flush failed: what this volume had not synced may be lost");
            }
            error
        })
    }

    /// An error if a flush has failed.
    pub(super) fn check_flushed(&self, thin: ThinId) -> Result<()> {
        let Some(why) = self.failures.0.lock().get(&thin).cloned() else { return Ok(()) };
        let context = format!(
            "its disk failed while it was written ({why}), and what had not been synced may be lost: remove it, or look at \
             what is there and restart thinfs, which commits that"
        );
        Err(DeviceError::Io { context, source: io::Error::from_raw_os_error(libc::EIO) })
    }

    /// The thin devices that have lost something, for `status`.
    pub(super) fn flush_failures(&self) -> Vec<ThinId> {
        self.failures.0.lock().keys().copied().collect()
    }

    /// The thin device is gone.
    pub(super) fn forget_failure(&self, thin: ThinId) {
        self.failures.0.lock().remove(&thin);
    }
}
