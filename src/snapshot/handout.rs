//! Handing out snapshots as block devices: for virtual machines, and for those who want no FUSE between
//! them and their data.
//!
//! ```text
//!                 hand_out: its files are closed          take_back, commit, remove: nobody has it open (*)
//! directory only ──────────────────────────────▶ device only ─────────────────────────────▶ directory
//! ```
//! (*) A removed one is destroyed when the last one closes it; a commit leaves it to those who have it open, to be destroyed
//! then, and keeps a copy.
//!
//! Of an active snapshot either the directory or the device can be used. Views and their parents are
//! read-only, and can be read both ways; all views of one parent share one device.

use std::time::Duration;

use super::error::{Error, Result};
use super::locks::Mode;
use super::{Info, Snapshots};
use crate::types::{Kind, Labels, MountForm, Namespace, Snapshot, SnapshotKey};
use crate::volume::{Access, BlockDevice};

/// Label that chooses a snapshot's mount form, `bind` or `block`, whatever the setting says. Its prefix is one
/// that containerd hands on to the snapshotter.
pub const MOUNT_FORM_LABEL: &str = "containerd.io/snapshot/thinfs.mount-form";
/// How long the removal of the last view waits for those who work on its parent.
const PATIENCE: Duration = Duration::from_millis(200);

/// The mount form that the labels ask for; `None`: they say nothing.
pub fn mount_form(labels: &Labels) -> Result<Option<MountForm>> {
    let Some(word) = labels.get(MOUNT_FORM_LABEL) else { return Ok(None) };
    let form = word.parse();
    form.map(Some).map_err(|e| Error::InvalidArgument(format!("label {MOUNT_FORM_LABEL}: {e}")))
}

impl Snapshots {
    /// Whether the labels ask for something that can be had here.
    pub(super) fn check_form(&self, labels: &Labels) -> Result<()> {
        match mount_form(labels)? {
            Some(MountForm::Block) if !self.volumes.has_block_devices() => {
                Err(Error::InvalidArgument(format!(
                    "label {MOUNT_FORM_LABEL} asks for a block device: plain directories have none, \
                     the thin backend is needed"
                )))
            }
            Some(MountForm::Bind | MountForm::Block) | None => Ok(()),
        }
    }

    /// The block device of an active snapshot (read-write) or a view (read-only). An active one's directory
    /// can't be used until the device is taken back;
    /// [`Busy`](crate::volume::Error::Busy) while files of it are open.
    ///
    /// The device stays until the snapshot is committed or removed, or the device taken back, and then until the last one
    /// closes it; also over a restart of the daemon.
    pub fn hand_out(&self, ns: &Namespace, key: &SnapshotKey) -> Result<BlockDevice> {
        let (info, device, before) = self.hand_out_locked(ns, key)?;
        if info.snapshot.kind == Kind::Active && !before {
            tracing::info!(%ns, %key, device = %device.path.display(), "block device handed out");
            self.tell_handed_out(&info);
        }
        Ok(device)
    }

    /// With whether it was handed out before.
    fn hand_out_locked(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
    ) -> Result<(Info, BlockDevice, bool)> {
        let _running = self.running()?;
        let info = self.stat(ns, key)?;
        let mut wanted = vec![(key, Mode::Shared)];
        wanted.extend(info.snapshot.parent.as_ref().map(|parent| (parent, Mode::Shared)));
        let _held = self.locks.hold(ns, &wanted);
        let info = self.mounts(ns, key)?;
        let volume = self.live_volume(info.snapshot.volume)?;
        let before = self.volumes.is_handed_out(&volume);
        let device = self.volumes.hand_out(&volume, access(info.snapshot.kind))?;
        Ok((info, device, before))
    }

    /// Gives an active snapshot's directory back, if its device was handed out and nobody has that open.
    pub fn take_back(&self, ns: &Namespace, key: &SnapshotKey) -> Result<()> {
        let _held = self.locks.hold(ns, &[(key, Mode::Shared)]);
        let snapshot = self.existing(ns, key)?;
        if snapshot.kind != Kind::Active {
            return Ok(());
        }
        let volume = self.live_volume(snapshot.volume)?;
        Ok(self.volumes.take_back(&volume, Duration::ZERO)?)
    }

    /// Labels are about to change: what was handed out in one form is taken back before another one is asked
    /// for. Busy while somebody has it open.
    pub(super) fn switch_form(&self, old: &Snapshot, labels: &Labels) -> Result<()> {
        let same = old.labels.get(MOUNT_FORM_LABEL) == labels.get(MOUNT_FORM_LABEL);
        if same || old.kind != Kind::Active {
            return Ok(());
        }
        let volume = self.live_volume(old.volume)?;
        Ok(self.volumes.take_back(&volume, Duration::ZERO)?)
    }

    /// A view is gone that looked at its parent's volume: when it was the last one, nobody has been handed
    /// that volume's device any more. Best effort: the parent's removal takes it back in any case.
    pub(super) fn view_is_gone(&self, view: &Info) {
        let (ns, Some(parent)) = (&view.namespace, &view.snapshot.parent) else { return };
        if let Err(error) = self.take_back_from_views(ns, parent, view) {
            tracing::debug!(%ns, %parent, %error, "the device that views had stays");
        }
    }

    fn take_back_from_views(
        &self,
        ns: &Namespace,
        parent: &SnapshotKey,
        view: &Info,
    ) -> Result<()> {
        let volume = self.live_volume(view.snapshot.volume)?;
        if !self.volumes.is_handed_out(&volume) {
            return Ok(());
        }
        // With the parent held no view is in the making, and none is being handed the device.
        let wanted = [(parent, Mode::Exclusive)];
        let Some(_held) = self.locks.hold_within(ns, &wanted, PATIENCE) else { return Ok(()) };
        for child in self.store.children(ns, parent)? {
            if self.store.snapshot(ns, &child)?.is_some_and(|child| child.kind == Kind::View) {
                return Ok(());
            }
        }
        Ok(self.volumes.take_back(&volume, Duration::ZERO)?)
    }
}

fn access(kind: Kind) -> Access {
    match kind {
        Kind::Active => Access::ReadWrite,
        Kind::View | Kind::Committed => Access::ReadOnly,
    }
}
