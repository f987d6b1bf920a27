//! Descriptors that outlive the daemon: kept by the service manager, given to the next one.
//!
//! The protocol is systemd's (`FDSTORE=1`, `LISTEN_FDS`; see sd_listen_fds(3) and `FileDescriptorStoreMax=`).
//! Without a service manager, or with one that keeps nothing, the mount dies with the daemon, and the next one
//! begins anew.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use sd_notify::NotifyState;

use super::dying;
use crate::fuse::Kept;
use crate::sys::inherited;

const DEVICE: &str = "thinfs-fuse";
const LEDGER: &str = "thinfs-ledger";

/// Whether somebody may keep descriptors for us.
pub(super) fn is_offered() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// What a dead daemon left for the mount at this path, if that is still there.
pub(super) fn inherit(mount: &Path) -> Option<Kept> {
    let (mut device, mut ledger) = (None, None);
    for (name, descriptor) in inherited() {
        match name.as_str() {
            DEVICE => device = Some(descriptor),
            LEDGER => ledger = Some(descriptor),
            _ => tracing::debug!(name, "a descriptor that isn't ours was handed over"),
        }
    }
    if device.is_none() && ledger.is_none() {
        return None;
    }
    let kept = adopt(device, ledger, mount);
    if kept.is_none() {
        // What is refused now must not be what the next one is given.
        withdraw();
    }
    kept
}

fn adopt(device: Option<OwnedFd>, ledger: Option<OwnedFd>, mount: &Path) -> Option<Kept> {
    let (Some(device), Some(ledger)) = (device, ledger) else {
        tracing::error!(
            "cannot take over the mount of the last daemon: half of it was handed over"
        );
        return None;
    };
    let kept = Kept::adopt(device, ledger)
        .inspect_err(
            |error| tracing::error!(%error, "cannot take over the mount of the last daemon"),
        )
        .ok()?;
    let mounted = dying::connection_at(&resolved(mount)).ok().flatten();
    if mounted.map(u64::from) != Some(kept.connection()) || !kept.is_connected() {
        tracing::info!("the mount of the last daemon is gone");
        return None;
    }
    Some(kept)
}

/// The path as the kernel shows it, without a look at the mount itself: nobody serves it.
fn resolved(mount: &Path) -> PathBuf {
    let directory = mount.parent().and_then(|parent| parent.canonicalize().ok());
    match (directory, mount.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => mount.to_owned(),
    }
}

fn inherited() -> Vec<(String, OwnedFd)> {
    match sd_notify::listen_fds_with_names() {
        Ok(listed) => listed.map(|(raw, name)| (name, inherited::own(raw))).collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot take the descriptors that were handed over");
            Vec::new()
        }
    }
}

/// Asks that these be kept.
pub(super) fn keep(device: BorrowedFd<'_>, ledger: BorrowedFd<'_>) {
    for (name, descriptor) in [(DEVICE, device), (LEDGER, ledger)] {
        let states = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[descriptor.as_fd()]) {
            tracing::warn!(%error, name, "the mount will not outlive this daemon");
        }
    }
}

/// Asks that nothing be kept any more.
pub(super) fn withdraw() {
    for name in [DEVICE, LEDGER] {
        let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify(&states) {
            tracing::warn!(%error, name, "cannot withdraw a descriptor");
        }
    }
}
