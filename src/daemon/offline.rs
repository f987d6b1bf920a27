//! What is done to a root while no daemon runs: restoring the store, and checking and mending one
//! that may not let a daemon start.

use std::ops::ControlFlow;
use std::path::Path;

use super::dying;
use super::error::{Error, Result};
use super::root::Root;
use crate::config::Config;
use crate::meta::{self, Restored, Store};
use crate::types::{Finding, Volume, VolumeState};
use crate::volume::{Backend, NativeBackend, NativeConfig};

/// What a check of a root without a daemon found and did.
#[derive(Debug, Clone, Default)]
pub struct Offline {
    /// What was mended.
    pub mended: Vec<Finding>,
    /// What there is to say now.
    pub left: Vec<Finding>,
    /// Where a store that had to be replaced is now.
    pub set_aside: Option<std::path::PathBuf>,
    /// Whether the volumes were looked at too: thin devices are by the daemon only.
    pub volumes_checked: bool,
}

/// Replaces the store by the backup in `from`; see [`meta::restore`].
pub fn restore(config: &Config, from: &Path) -> Result<Restored> {
    let root = dying::lock_root(&config.root, &config.mount)?;
    let from = if from.join("meta").is_dir() { from.join("meta") } else { from.to_owned() };
    meta::restore(&root.private("meta")?, &from).map_err(Error::Store)
}

/// Checks the root's store, and with `repair` mends it, without starting anything. Volumes are
/// compared where they are plain directories; none is ever removed here.
pub fn check(config: &Config, repair: bool) -> Result<Offline> {
    let root = dying::lock_root(&config.root, &config.mount)?;
    let dir = root.private("meta")?;
    let mut offline = Offline::default();
    if repair {
        let salvaged = meta::repair_closed(&dir).map_err(Error::Store)?;
        offline.mended = salvaged.mended;
        offline.set_aside = salvaged.set_aside;
    }
    offline.left = meta::check_closed(&dir).map_err(Error::Store)?;
    if root.backend()?.as_deref() == Some("native") {
        offline.volumes_checked = trees(&root, &dir, &mut offline.left)?;
    }
    Ok(offline)
}

/// False: the store tells of no volumes.
fn trees(root: &Root, dir: &Path, left: &mut Vec<Finding>) -> Result<bool> {
    let mut known: Vec<Volume> = Vec::new();
    let read = Store::volumes_of_closed(dir, &mut |volume| {
        let state = match volume.state {
            VolumeState::Lost => VolumeState::Live,
            state @ (VolumeState::Live | VolumeState::Tombstone) => state,
        };
        known.push(Volume { state, ..volume });
        ControlFlow::Continue(())
    });
    if read.is_err() {
        return Ok(false); // the findings say why
    }
    let failed = |source| Error::Backend { name: "native", source };
    let native =
        NativeBackend::start(NativeConfig { dir: root.private("native")? }).map_err(failed)?;
    let lines = native.check(&known).map_err(failed)?;
    left.extend(
        lines.into_iter().map(|line| {
            Finding::manual("backend", line, "start the daemon, then run `thinfs check`")
        }),
    );
    Ok(true)
}
