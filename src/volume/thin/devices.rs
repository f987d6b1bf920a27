//! Thin devices while they are active, with the detached mounts on them.
//!
//! ```text
//!            activate                     seal
//! inactive ───────────▶ mounted rw ───────────────▶ mounted ro (same device)
//!    ▲  └──────────────▶ mounted ro ◀── activate for reading
//!    │ deactivate            │ deactivate, but a descriptor is open somewhere
//!    └───────────────────────┴──▶ lingering: unmounted by us, device still active;
//!                                 the next activate mounts it again, the next deactivate tries again
//! ```
//! Devices that a killed daemon left and that somebody still has open begin as lingering ones ([`Devices::adopt`]).
//! Mounting a lingering device reaches the filesystem that is still mounted below those open files: the kernel
//! has one for each device, so both see the same data.
//!
//! Order of locks: a thin id's turn, then the map. No lock of another volume is held over an ioctl
//! or a mount.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::error::DeviceError;
use super::ext4::Superblock;
use super::identity::Identity;
use super::turns::Turns;
use crate::crashpoint::{Step, around};
use crate::sys::mount::{mount_detached, reconfigure, root_directory};
use crate::thin::dm::{self, DevNum, Dm};
use crate::thin::node::Nodes;
use crate::thin::table::Table;
use crate::thin::{Sectors, ThinId};
use crate::volume::Access;

type Result<T> = std::result::Result<T, DeviceError>;

/// How volumes are mounted.
#[derive(Debug, Clone)]
pub(super) struct MountPlan {
    pub(super) filesystem: &'static str,
    pub(super) options: Vec<String>,
}

/// An active thin device.
#[derive(Debug)]
struct Active {
    number: DevNum,
    path: PathBuf,
    /// What the device's table admits.
    device: Access,
    /// What the mounted filesystem admits; a sealed volume's is read-only on a writable device.
    filesystem: Access,
    /// `None`: lingering.
    mount: Option<OwnedFd>,
}

/// Every active thin device of this process.
#[derive(Debug)]
pub(super) struct Devices {
    dm: Arc<Dm>,
    nodes: Nodes,
    identity: Identity,
    pool: DevNum,
    plan: MountPlan,
    patience: Duration,
    turns: Turns,
    active: Mutex<HashMap<ThinId, Active>>,
}

impl Devices {
    pub(super) fn new(
        dm: Arc<Dm>,
        nodes: Nodes,
        identity: Identity,
        pool: DevNum,
        plan: MountPlan,
        patience: Duration,
    ) -> Self {
        Self {
            dm,
            nodes,
            identity,
            pool,
            plan,
            patience,
            turns: Turns::default(),
            active: Mutex::default(),
        }
    }

    /// Takes over devices that are active already, and open somewhere outside this process.
    pub(super) fn adopt(&self, held: &[ThinId]) {
        for &thin in held {
            let name = self.identity.thin_name(thin);
            match self.lingering(&name) {
                Ok(Some(active)) => {
                    tracing::warn!(
                        device = name,
                        "a program still has files open on this device of an earlier run: taken over as it is"
                    );
                    self.active.lock().insert(thin, active);
                }
                Ok(None) => {}
                // Its volume can't be used as long as it lasts; all others can.
                Err(error) => {
                    tracing::error!(device = name, %error, "a device of an earlier run can't be taken over");
                }
            }
        }
    }

    /// An active device that we haven't mounted. `None` if it is gone.
    fn lingering(&self, name: &str) -> Result<Option<Active>> {
        let Some(info) = self.dm.info(name)? else { return Ok(None) };
        let context = || format!("finding a device node for {name}");
        let path = self.nodes.path(info.number);
        let path = path.map_err(|source| DeviceError::Io { context: context(), source })?;
        let device = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
        // Nobody knows; a volume that others start from has been sealed, and `mount` finds out.
        let filesystem = Access::ReadOnly;
        Ok(Some(Active { number: info.number, path, device, filesystem, mount: None }))
    }

    /// Makes the thin device active and its filesystem reachable, and opens its root directory.
    /// After an error the device is as inactive as it was.
    pub(super) fn activate(&self, thin: ThinId, size: Sectors, access: Access) -> Result<OwnedFd> {
        let _turn = self.turns.take(thin);
        self.activate_in_turn(thin, size, access)
    }

    fn activate_in_turn(&self, thin: ThinId, size: Sectors, access: Access) -> Result<OwnedFd> {
        match self.try_activate(thin, size, access, access) {
            // A filesystem that was not unmounted needs its journal replayed even for reading.
            Err(DeviceError::Mount(e))
                if access == Access::ReadOnly && e.errno() == Some(Errno::ROFS) =>
            {
                tracing::info!(%thin, "replaying the journal of a volume that was not unmounted");
                self.try_activate(thin, size, access, Access::ReadWrite)
            }
            other => other,
        }
    }

    fn try_activate(
        &self,
        thin: ThinId,
        size: Sectors,
        access: Access,
        device: Access,
    ) -> Result<OwnedFd> {
        let present = self.active.lock().remove(&thin);
        let mut active = match present {
            Some(active) if active.device == Access::ReadOnly && device == Access::ReadWrite => {
                self.close(thin, active)?;
                self.open(thin, size, device, access)?
            }
            Some(active) => active,
            None => self.open(thin, size, device, access)?,
        };
        match self.reach(&mut active, size, access) {
            Ok(root) => {
                self.active.lock().insert(thin, active);
                Ok(root)
            }
            Err(error) => {
                if let Err(undo) = self.close(thin, active) {
                    tracing::warn!(%thin, error = %undo, "a device that could not be mounted stays active");
                }
                Err(error)
            }
        }
    }

    /// Makes the device active.
    fn open(
        &self,
        thin: ThinId,
        size: Sectors,
        device: Access,
        filesystem: Access,
    ) -> Result<Active> {
        let name = self.identity.thin_name(thin);
        let table = Table::thin(size, self.pool, thin);
        let number = match self.dm.activate(&name, &table, device == Access::ReadOnly) {
            Err(e) if e.errno() == Some(libc::ENODATA) => return Err(DeviceError::Missing(thin)),
            other => other?,
        };
        match self.nodes.path(number) {
            Ok(path) => Ok(Active { number, path, device, filesystem, mount: None }),
            Err(source) => {
                self.dm.remove(&name)?;
                Err(DeviceError::Io {
                    context: format!("finding a device node for {name}"),
                    source,
                })
            }
        }
    }

    /// Mounts an active device unless it is mounted, sees to it that it admits `access`, and opens the root.
    fn reach(&self, active: &mut Active, size: Sectors, access: Access) -> Result<OwnedFd> {
        let mount = match active.mount.take() {
            Some(mount) => mount,
            None => self.mount_either_way(active, size)?,
        };
        let mount = active.mount.insert(mount);
        if (access, active.filesystem) == (Access::ReadWrite, Access::ReadOnly) {
            reconfigure(&*mount, false, &[])?;
            active.filesystem = Access::ReadWrite;
        }
        let context = || "opening the volume's root directory".to_owned();
        root_directory(&*mount).map_err(|source| DeviceError::Io { context: context(), source })
    }

    /// Mounts. A filesystem that is mounted already, below files that somebody has open, admits what it
    /// admits: asked for the other, the kernel answers EBUSY.
    fn mount_either_way(&self, active: &mut Active, size: Sectors) -> Result<OwnedFd> {
        match self.mount(active, size) {
            Err(DeviceError::Mount(e)) if e.errno() == Some(Errno::BUSY) => {
                active.filesystem = match active.filesystem {
                    Access::ReadOnly => Access::ReadWrite,
                    Access::ReadWrite => Access::ReadOnly,
                };
                self.mount(active, size)
            }
            other => other,
        }
    }

    /// Mounts, and grows a filesystem that is smaller than its device.
    fn mount(&self, active: &Active, size: Sectors) -> Result<OwnedFd> {
        let read_only = active.filesystem == Access::ReadOnly;
        let grow = match read_only {
            true => None,
            false => self.superblock(&active.path)?.blocks_to_grow_to(size),
        };
        let Some(blocks) = grow else {
            let (filesystem, options) = (self.plan.filesystem, &self.plan.options);
            let mount = || mount_detached(filesystem, &active.path, read_only, options);
            return Ok(around(Step::Mount, mount)?);
        };
        // With noinit_itable a growing ext4 writes the new inode tables at once, all of them.
        let lazy: Vec<_> =
            self.plan.options.iter().filter(|o| *o != "noinit_itable").cloned().collect();
        let (filesystem, path) = (self.plan.filesystem, &active.path);
        let mount = around(Step::Mount, || mount_detached(filesystem, path, false, &lazy))?;
        let context = || format!("growing the filesystem to {blocks} blocks");
        let io = |source| DeviceError::Io { context: context(), source };
        let root = root_directory(&mount).map_err(io)?;
        around(Step::GrowFilesystem, || crate::sys::ext4::resize(&root, blocks)).map_err(io)?;
        reconfigure(&mount, false, &self.plan.options)?;
        Ok(mount)
    }

    fn superblock(&self, path: &Path) -> Result<Superblock> {
        let context = || format!("reading the superblock on {}", path.display());
        Superblock::read(path).map_err(|source| DeviceError::Io { context: context(), source })
    }

    /// Flushes the filesystem and turns it read-only. Descriptors that only read go on.
    pub(super) fn seal(&self, thin: ThinId, root: impl AsFd) -> Result<()> {
        let _turn = self.turns.take(thin);
        let context = || format!("flushing thin device {thin}");
        around(Step::SealFlush, || rustix::fs::syncfs(root))
            .map_err(|e| DeviceError::Io { context: context(), source: e.into() })?;
        self.reconfigure(thin, Access::ReadOnly)
    }

    /// Takes a seal back, in place.
    pub(super) fn unseal(&self, thin: ThinId) -> Result<()> {
        let _turn = self.turns.take(thin);
        self.reconfigure(thin, Access::ReadWrite)
    }

    /// Changes what the mounted filesystem admits. In between it counts as writable.
    fn reconfigure(&self, thin: ThinId, access: Access) -> Result<()> {
        let Some(mount) = self.begin_reconfigure(thin, access)? else { return Ok(()) };
        let read_only = access == Access::ReadOnly;
        let change = || reconfigure(&mount, read_only, &[]);
        match if read_only { around(Step::SealReadOnly, change) } else { change() } {
            Err(e) if e.errno() == Some(Errno::BUSY) => {
                return Err(DeviceError::Busy("a file is open for writing".to_owned()));
            }
            other => other?,
        }
        if let Some(active) = self.active.lock().get_mut(&thin) {
            active.filesystem = access;
        }
        Ok(())
    }

    /// A descriptor of the mount of its own, for the map must not stay locked over a reconfiguration,
    /// which writes. `None`: nothing to do.
    fn begin_reconfigure(&self, thin: ThinId, access: Access) -> Result<Option<OwnedFd>> {
        let mut active = self.active.lock();
        let Some(Active { mount: Some(mount), filesystem, .. }) = active.get_mut(&thin) else {
            return Err(DeviceError::Busy(format!("thin device {thin} is not mounted")));
        };
        if *filesystem == access {
            return Ok(None);
        }
        let context = || "duplicating the mount's descriptor".to_owned();
        let mount =
            mount.try_clone().map_err(|source| DeviceError::Io { context: context(), source })?;
        *filesystem = Access::ReadWrite;
        Ok(Some(mount))
    }

    /// Whether a snapshot of it now would miss what is only in memory.
    pub(super) fn is_live(&self, thin: ThinId) -> bool {
        self.active.lock().get(&thin).is_some_and(|active| active.filesystem == Access::ReadWrite)
    }

    /// Unmounts and makes the device inactive. Busy while a descriptor is open below it; what is
    /// inactive already counts as done.
    pub(super) fn deactivate(&self, thin: ThinId) -> Result<()> {
        let _turn = self.turns.take(thin);
        let active = self.active.lock().remove(&thin);
        active.map_or(Ok(()), |active| self.close(thin, active))
    }

    /// Deactivates, then runs `then` before anybody can activate again.
    pub(super) fn deactivate_then<T>(&self, thin: ThinId, then: impl FnOnce() -> T) -> Result<T> {
        let _turn = self.turns.take(thin);
        let active = self.active.lock().remove(&thin);
        active.map_or(Ok(()), |active| self.close(thin, active))?;
        Ok(then())
    }

    fn close(&self, thin: ThinId, active: Active) -> Result<()> {
        self.close_within(thin, active, self.patience)
    }

    fn close_within(&self, thin: ThinId, mut active: Active, patience: Duration) -> Result<()> {
        let name = self.identity.thin_name(thin);
        around(Step::Unmount, || drop(active.mount.take()));
        let removed = remove_when_closed(&self.dm, &name, patience);
        if matches!(removed, Ok(true)) {
            self.nodes.forget(active.number);
            return Ok(());
        }
        self.active.lock().insert(thin, active);
        removed?;
        Err(DeviceError::Busy(format!("descriptors are still open on {name}")))
    }

    /// Runs `work` with the path of the inactive, or active but unmounted, device.
    pub(super) fn with_device<T>(
        &self,
        thin: ThinId,
        size: Sectors,
        work: impl FnOnce(&Path) -> T,
    ) -> Result<T> {
        let _turn = self.turns.take(thin);
        let active = self.open(thin, size, Access::ReadWrite, Access::ReadWrite)?;
        let result = work(&active.path);
        self.close(thin, active)?;
        Ok(result)
    }

    /// How many inodes are in use on a volume that nobody has mounted. Looks at the superblock of a device
    /// that is active for that moment; mounts only where the superblock is out of date.
    pub(super) fn used_inodes(&self, thin: ThinId, size: Sectors) -> Result<u64> {
        let _turn = self.turns.take(thin);
        let present = self.active.lock().get(&thin).map(|active| active.path.clone());
        if let Some(path) = present {
            return Ok(self.superblock(&path)?.used_inodes());
        }
        let active = self.open(thin, size, Access::ReadOnly, Access::ReadOnly)?;
        let superblock = self.superblock(&active.path);
        self.close(thin, active)?;
        match superblock? {
            clean if clean.is_clean() => Ok(clean.used_inodes()),
            _ => self.count_mounted(thin, size),
        }
    }

    fn count_mounted(&self, thin: ThinId, size: Sectors) -> Result<u64> {
        let root = self.activate_in_turn(thin, size, Access::ReadOnly)?;
        let counted = used_inodes(&root);
        drop(root);
        let active = self.active.lock().remove(&thin);
        active.map_or(Ok(()), |active| self.close(thin, active))?;
        counted.map_err(|source| DeviceError::Io {
            context: format!("counting inodes of {thin}"),
            source,
        })
    }

    /// Deactivates everything that is still active, waiting once for all that others have open: those stay
    /// lingering. The first error after trying all.
    pub(super) fn deactivate_all(&self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        let thins: Vec<_> = self.active.lock().keys().copied().collect();
        let results: Vec<_> = thins.into_iter().map(|thin| self.end(thin, deadline)).collect();
        results.into_iter().collect()
    }

    fn end(&self, thin: ThinId, deadline: Instant) -> Result<()> {
        let _turn = self.turns.take(thin);
        let Some(active) = self.active.lock().remove(&thin) else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        match self.close_within(thin, active, left) {
            Err(DeviceError::Busy(_)) => Ok(()),
            other => other,
        }
    }

    /// How many are active, lingering ones included.
    pub(super) fn count(&self) -> usize {
        self.active.lock().len()
    }
}

/// Inodes in use on a mounted filesystem.
pub(super) fn used_inodes(root: impl AsFd) -> std::io::Result<u64> {
    let fs = rustix::fs::fstatvfs(root)?;
    Ok(fs.f_files.saturating_sub(fs.f_ffree))
}

/// Waits until nobody has the device open, then removes it. False if it stays open for longer than
/// `patience`; a device that is gone counts as removed.
pub(super) fn remove_when_closed(dm: &Dm, name: &str, patience: Duration) -> dm::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        match dm.info(name)? {
            None => return Ok(true),
            Some(info) if info.open_count == 0 => match dm.remove(name) {
                // Opened since we looked, or removed by somebody else.
                Err(e) if matches!(e.errno(), Some(libc::EBUSY | libc::ENXIO)) => {}
                other => return other.map(|()| true),
            },
            Some(_) => {}
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
