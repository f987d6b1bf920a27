//! Thin devices that others have been handed: they mount them, or give them to a virtual machine.
//!
//! ```text
//!             hand out                       take back, nobody has it open
//! (nothing) ────────────▶ handed out, /dev/mapper/NAME ────────────────▶ (nothing)
//!    ▲                       │  ▲ │ take back, somebody has it open: Busy
//!    │ a clean stop,         │  └─┘
//!    └─ nobody has it open ──┤
//!                            └── the daemon dies, or stops while somebody has it open: the device stays, and
//!                                the next start adopts it
//! ```
//! A commit doesn't wait for those who have a device open: it suspends the device, gives the volume another thin id with
//! the blocks of that moment, and resumes the device ([`ThinBackend::fork`]). From then on the device belongs to a removed
//! volume, which is destroyed when the last one closes it.
//!
//! A device that is handed out has a name of its own (`…-b<thin id>`), so the kernel's list of devices is the
//! record of what is handed out, as durable as the fact. One that may be written is the only device of its volume: the
//! daemon doesn't mount the same filesystem beside it, which would destroy it. One that is read-only belongs
//! to a sealed volume, and may be active beside the daemon's own.
//!
//! The order of locks is that of [`super::devices`].

use std::path::PathBuf;
use std::time::Duration;

use super::devices::{Active, Devices, Result, remove_when_closed};
use super::error::DeviceError;
use super::reconcile::thin_id;
use super::{Error, ThinBackend};
use crate::thin::dm::{self, DevNum, Dm};
use crate::thin::table::Table;
use crate::thin::{Sectors, ThinId};
use crate::types::{Backing, Volume};
use crate::volume::{self, Access};

/// A device that others may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HandedOut {
    number: DevNum,
    access: Access,
}

/// A volume whose device is handed out, or was taken back, with a filesystem that was left clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtRest {
    /// Inodes in use.
    pub(super) inodes: u64,
    /// Bytes in use.
    pub(super) used: u64,
    /// Bytes that the thin device maps and the filesystem doesn't use.
    pub(super) overhead: u64,
}

impl ThinBackend {
    /// The volume with the content that its handed-out device has now, under another thin id:
    ///
    /// 1. take an id;
    /// 2. suspend the device: what was written is flushed, a filesystem mounted here is frozen and clean on disk. That of a
    ///    virtual machine is as a power cut would leave it;
    /// 3. `create_snap`;
    /// 4. resume the device.
    ///
    /// After a crash the new id is in no record, and deleted at the next start, which also resumes the device.
    pub(super) fn fork(&self, volume: &Volume) -> volume::Result<Volume> {
        self.check_room()?;
        let base = thin_id(volume)?;
        let copy =
            |thin| self.devices.while_suspended(base, || self.pool.create_snap(thin, base))?;
        let thin = self.create_with(copy)?.ok_or(Error::Missing(volume.id))?;
        tracing::debug!(volume = %volume.id, %base, %thin, "copied a block device in use");
        Ok(Volume { backing: Backing::Thin { thin_id: thin.get() }, ..volume.clone() })
    }
}

/// A device that others have, suspended as long as this lives.
struct Suspended<'a> {
    dm: &'a Dm,
    name: &'a str,
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.dm.resume(self.name) {
            let (device, error) = (self.name, &error as &dyn std::error::Error);
            tracing::error!(
                device,
                error,
                "a block device stays suspended, and whoever uses it waits: run `dmsetup resume` on it, or start thinfs again"
            );
        }
    }
}

impl Devices {
    /// Runs `work` while the device that others have is suspended.
    fn while_suspended<T>(&self, thin: ThinId, work: impl FnOnce() -> T) -> dm::Result<T> {
        let _turn = self.turns.take(thin);
        let name = self.identity.handout_name(thin);
        self.dm.suspend(&name)?;
        let _suspended = Suspended { dm: &self.dm, name: &name };
        Ok(work())
    }

    /// Makes a device for others and gives its path, which is the same each time. Busy while the volume's
    /// own mount is in use, if it is for writing.
    pub(super) fn hand_out(&self, thin: ThinId, size: Sectors, access: Access) -> Result<PathBuf> {
        let _turn = self.turns.take(thin);
        let name = self.identity.handout_name(thin);
        let present = self.handed_out.lock().get(&thin).copied();
        match present {
            Some(present) if present.access == access => return self.publish(&name, present),
            Some(_) => {}
            None => return self.make(thin, size, access, &name),
        }
        // Handed out for the other access: only what nobody uses can change.
        self.take_back_in_turn(thin, Duration::ZERO)?;
        self.make(thin, size, access, &name)
    }

    fn make(&self, thin: ThinId, size: Sectors, access: Access, name: &str) -> Result<PathBuf> {
        if access == Access::ReadWrite {
            self.at_rest.lock().remove(&thin);
            let present = self.active.lock().remove(&thin);
            present.map_or(Ok(()), |active| self.close(thin, active))?;
        }
        let table = Table::thin(size, self.pool, thin);
        let steady = self.steady.read();
        let activated = self.dm.activate(name, &table, access == Access::ReadOnly);
        drop(steady);
        let number = match activated {
            Err(e) if e.errno() == Some(libc::ENODATA) => return Err(DeviceError::Missing(thin)),
            other => other?,
        };
        let handed = HandedOut { number, access };
        match self.grow_before(size, handed).and_then(|()| self.publish(name, handed)) {
            Ok(path) => {
                self.handed_out.lock().insert(thin, handed);
                tracing::debug!(device = name, ?access, "handed out");
                Ok(path)
            }
            Err(error) => {
                if let Err(undo) = remove_when_closed(&self.dm, name, self.patience) {
                    tracing::warn!(device = name, error = %undo, "a device that could not be handed out stays active");
                }
                Err(error)
            }
        }
    }

    /// A filesystem that is smaller than its device grows before anybody else has it.
    fn grow_before(&self, size: Sectors, handed: HandedOut) -> Result<()> {
        if handed.access == Access::ReadOnly {
            return Ok(());
        }
        let path = self.nodes.path(handed.number).map_err(|source| DeviceError::Io {
            context: format!("finding a device node for {}", handed.number),
            source,
        })?;
        let active = Active::unmounted(handed.number, path, handed.access);
        if self.is_smaller(&active, size)? {
            drop(self.mount(&active, size)?);
        }
        Ok(())
    }

    fn publish(&self, name: &str, handed: HandedOut) -> Result<PathBuf> {
        self.nodes.publish(handed.number, name).map_err(|source| DeviceError::Io {
            context: format!("making a device node for {name}"),
            source,
        })
    }

    /// Removes the device that others had. Busy while somebody has it open for longer than `patience`;
    /// what isn't handed out counts as taken back.
    pub(super) fn take_back(&self, thin: ThinId, patience: Duration) -> Result<()> {
        if !self.is_handed_out(thin) {
            return Ok(());
        }
        let _turn = self.turns.take(thin);
        self.take_back_in_turn(thin, patience)
    }

    fn take_back_in_turn(&self, thin: ThinId, patience: Duration) -> Result<()> {
        if !self.is_handed_out(thin) {
            return Ok(());
        }
        let name = self.identity.handout_name(thin);
        let settled = self.settle(thin);
        if !remove_when_closed(&self.dm, &name, patience)? {
            return Err(in_use(&self.nodes.published(&name)));
        }
        self.nodes.withdraw(&name);
        self.handed_out.lock().remove(&thin);
        if let Some(settled) = settled {
            self.at_rest.lock().insert(thin, settled);
        }
        tracing::debug!(device = name, "taken back");
        Ok(())
    }

    /// Has what was written through a device that nobody has open any more on stable storage, and takes note of what is
    /// there, if its filesystem was left clean. What fails here is left to a mount.
    fn settle(&self, thin: ThinId) -> Option<AtRest> {
        let (found, path) = (self.look(thin)?, self.written_elsewhere(thin)?);
        std::fs::File::open(path).and_then(|device| device.sync_all()).ok()?;
        Some(found)
    }

    /// What is on a device that was handed out for writing; `None` while somebody has it open.
    pub(super) fn look(&self, thin: ThinId) -> Option<AtRest> {
        let (path, name) = (self.written_elsewhere(thin)?, self.identity.handout_name(thin));
        if self.dm.info(&name).ok()??.open_count > 0 {
            return None;
        }
        let superblock = self.superblock(&path).ok().filter(|found| found.is_clean())?;
        let status = self.dm.status(&name).ok()?;
        let mapped = status.split_ascii_whitespace().next()?.parse().map(Sectors).ok()?.bytes();
        let (inodes, used) = (superblock.used_inodes(), superblock.used_bytes());
        Some(AtRest { inodes, used, overhead: mapped.saturating_sub(used) })
    }

    /// What is known of a volume that is at rest: its device was taken back, and not used since.
    pub(super) fn at_rest(&self, thin: ThinId) -> Option<AtRest> {
        self.at_rest.lock().get(&thin).copied()
    }

    /// Takes back what nobody has open. The names of the others, which stay.
    pub(super) fn take_back_all(&self, patience: Duration) -> Result<Vec<String>> {
        let thins: Vec<_> = self.handed_out.lock().keys().copied().collect();
        let mut left = Vec::new();
        for thin in thins {
            match self.take_back(thin, patience) {
                Ok(()) => {}
                Err(DeviceError::Busy(_)) => left.push(self.identity.handout_name(thin)),
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Start: takes over what a former daemon handed out.
    pub(super) fn adopt_handed_out(&self) -> Result<()> {
        for name in self.dm.devices()? {
            let Some(thin) = self.identity.handed_out(&name) else { continue };
            let Some(info) = self.dm.info(&name)? else { continue };
            if !info.live {
                // Killed between creation and first resume: nobody has heard of it.
                self.dm.remove(&name)?;
                continue;
            }
            if info.suspended {
                // Killed while a commit made its copy.
                self.dm.resume(&name)?;
            }
            let access = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
            self.handed_out.lock().insert(thin, HandedOut { number: info.number, access });
            tracing::info!(
                device = name,
                opened = info.open_count,
                "handed out by a former daemon"
            );
        }
        Ok(())
    }

    /// Whether others have a device of this volume.
    pub(super) fn is_handed_out(&self, thin: ThinId) -> bool {
        self.handed_out.lock().contains_key(&thin)
    }

    /// The path of a device that others may write.
    pub(super) fn written_elsewhere(&self, thin: ThinId) -> Option<PathBuf> {
        let writable = |handed: &&HandedOut| handed.access == Access::ReadWrite;
        self.handed_out.lock().get(&thin).filter(writable)?;
        Some(self.nodes.published(&self.identity.handout_name(thin)))
    }

    /// Refuses to activate beside a device that others may write.
    pub(super) fn check_not_written_elsewhere(&self, thin: ThinId) -> Result<()> {
        match self.written_elsewhere(thin) {
            None => Ok(()),
            Some(path) => {
                tracing::info!(device = %path.display(), "the directory is closed while the block device is handed out");
                Err(DeviceError::Busy(format!(
                    "it is handed out as the block device {}, and can't be read as a directory meanwhile; \
                     to get the directory back, unmount the device and set the mount form to \"bind\"",
                    path.display()
                )))
            }
        }
    }

    /// How many are handed out.
    pub(super) fn handed_out_count(&self) -> usize {
        self.handed_out.lock().len()
    }
}

fn in_use(path: &std::path::Path) -> DeviceError {
    DeviceError::Busy(format!(
        "its block device {} is open: unmount it, or stop the virtual machine that has it",
        path.display()
    ))
}
