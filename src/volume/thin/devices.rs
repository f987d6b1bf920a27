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
//! What happens to all of them at once when the pool is full is in [`full`].
//!
//! Order of locks: a thin id's turn, then `steady`, then the map. No lock of another volume is held over an ioctl
//! or a mount.

mod full;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::config::Filesystem;
use super::error::DeviceError;
use super::flush::Failures;
use super::handout::{AtRest, HandedOut};
use super::identity::Identity;
use super::superblock::Superblock;
use super::turns::Turns;
use crate::crashpoint::{Step, around};
use crate::sys::filesystem;
use crate::sys::mount::{mount_detached, reconfigure, root_directory};
use crate::thin::dm::{self, DevNum, Dm};
use crate::thin::node::Nodes;
use crate::thin::pool::Pool;
use crate::thin::table::Table;
use crate::thin::{Sectors, ThinId};
use crate::volume::{Access, Watcher};

pub(super) type Result<T> = std::result::Result<T, DeviceError>;

/// How volumes are mounted.
#[derive(Debug, Clone)]
pub(super) struct MountPlan {
    /// What the operator's options are for.
    pub(super) filesystem: Filesystem,
    /// The operator's options.
    pub(super) options: Vec<String>,
}

impl MountPlan {
    fn options(&self, filesystem: Filesystem) -> Vec<String> {
        let own = filesystem.mount_options().iter().map(|&option| option.to_owned());
        let chosen = if filesystem == self.filesystem { &self.options[..] } else { &[] };
        own.chain(chosen.iter().cloned()).collect()
    }
}

/// An active thin device.
#[derive(Debug)]
pub(super) struct Active {
    number: DevNum,
    path: PathBuf,
    /// What the device's table admits.
    device: Access,
    /// What the mounted filesystem admits; a sealed volume's is read-only on a writable device.
    filesystem: Access,
    /// `None`: lingering.
    mount: Option<OwnedFd>,
    full: full::Marks,
    /// Nothing of it has been mounted since it was made active.
    fresh: bool,
}

impl Active {
    /// A device that nobody has mounted.
    pub(super) fn unmounted(number: DevNum, path: PathBuf, access: Access) -> Self {
        let (mount, full) = Default::default();
        Self { number, path, device: access, filesystem: access, mount, full, fresh: true }
    }
}

/// Every active thin device of this process.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) dm: Arc<Dm>,
    pub(super) nodes: Nodes,
    pub(super) identity: Identity,
    pub(super) pool: DevNum,
    plan: MountPlan,
    pub(super) patience: Duration,
    pub(super) turns: Turns,
    pub(super) active: Mutex<HashMap<ThinId, Active>>,
    /// What others have.
    pub(super) handed_out: Mutex<HashMap<ThinId, HandedOut>>,
    /// Volumes that nobody has used since their device was taken back.
    pub(super) at_rest: Mutex<HashMap<ThinId, AtRest>>,
    /// Held shared over the load of a thin device's table: the kernel refuses it while the pool is suspended.
    pub(super) steady: RwLock<()>,
    /// Volumes may not grow.
    tight: AtomicBool,
    /// Who is told that filesystems were stopped.
    pub(super) watcher: OnceLock<Arc<dyn Watcher>>,
    pub(super) failures: Failures,
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
            steady: RwLock::default(),
            tight: AtomicBool::new(false),
            watcher: OnceLock::new(),
            failures: Failures::default(),
            active: Mutex::default(),
            handed_out: Mutex::default(),
            at_rest: Mutex::default(),
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
        let (mount, full) = Default::default();
        Ok(Some(Active {
            number: info.number,
            path,
            device,
            filesystem,
            mount,
            full,
            fresh: false,
        }))
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
            Some(active)
                if active.full.is_stopped()
                    || active.device == Access::ReadOnly && device == Access::ReadWrite =>
            {
                self.close(thin, active)?;
                self.open(thin, size, device, access)?
            }
            Some(active) => active,
            None => self.open(thin, size, device, access)?,
        };
        match self.reach(&mut active, size, access) {
            Ok(root) => {
                self.keep(thin, active);
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
        self.check_not_written_elsewhere(thin)?;
        if device == Access::ReadWrite {
            self.at_rest.lock().remove(&thin);
        }
        let name = self.identity.thin_name(thin);
        let table = Table::thin(size, self.pool, thin);
        let steady = self.steady.read();
        let activated = self.dm.activate(&name, &table, device == Access::ReadOnly);
        drop(steady);
        let number = match activated {
            Err(e) if e.errno() == Some(libc::ENODATA) => return Err(DeviceError::Missing(thin)),
            other => other?,
        };
        match self.nodes.path(number) {
            Ok(path) => {
                let (mount, full) = Default::default();
                Ok(Active { number, path, device, filesystem, mount, full, fresh: true })
            }
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
            None => {
                let mount = self.mount_either_way(active, size)?;
                self.tighten_new(active, &mount);
                active.fresh = false;
                mount
            }
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

    /// Mounts, and grows a filesystem that is smaller than its device, if that is possible.
    pub(super) fn mount(&self, active: &Active, size: Sectors) -> Result<OwnedFd> {
        let read_only = active.filesystem == Access::ReadOnly;
        let superblock = self.superblock(&active.path)?;
        let filesystem = superblock.filesystem();
        if filesystem == Filesystem::Ext2
            && !superblock.is_clean()
            && (active.fresh, active.device) == (true, Access::ReadWrite)
        {
            super::template::mend(&active.path)?;
        }
        let options = self.plan.options(filesystem);
        let mount = around(Step::Mount, || {
            mount_detached(filesystem.driver(), &active.path, read_only, &options)
        })?;
        // One that can't grow can be used as it is; `resize` told whoever asked for more.
        if !read_only
            && superblock.blocks_to_grow_to(size).is_some()
            && let Err(error) = self.grow(&superblock, &mount, size)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(device = %active.path.display(), error, "a filesystem stays smaller than its volume");
        }
        Ok(mount)
    }

    /// Grows a mounted filesystem to the size of its device. Equal is a success.
    fn grow(&self, superblock: &Superblock, mount: &OwnedFd, size: Sectors) -> Result<()> {
        let blocks = superblock.blocks_in(size);
        let context = || format!("growing the filesystem to {blocks} blocks");
        let io = |source| DeviceError::Io { context: context(), source };
        let root = root_directory(mount).map_err(io)?;
        let filesystem = superblock.filesystem();
        if filesystem == Filesystem::Xfs {
            let percent = superblock.inode_percent();
            let grow = || filesystem::grow_xfs(&root, blocks, percent);
            return around(Step::GrowFilesystem, grow).map_err(io);
        }
        // With noinit_itable a growing ext4 writes the new inode tables at once, all of them.
        reconfigure(mount, false, &["init_itable=1000".to_owned()])?;
        let grow = || filesystem::grow_ext4(&root, blocks);
        let grown = around(Step::GrowFilesystem, grow).map_err(io);
        reconfigure(mount, false, &self.plan.options(filesystem))?;
        grown
    }

    /// Takes over a larger size: the device's table first, then the filesystem. A volume that isn't active grows when
    /// it is activated for writing.
    pub(super) fn resize(&self, thin: ThinId, size: Sectors) -> Result<()> {
        let _turn = self.turns.take(thin);
        let context = || "duplicating the mount's descriptor".to_owned();
        let found = match self.active.lock().get(&thin) {
            Some(Active { mount: Some(mount), path, filesystem: Access::ReadWrite, .. }) => {
                let mount = mount.try_clone();
                let mount =
                    mount.map_err(|source| DeviceError::Io { context: context(), source })?;
                Some((mount, path.clone()))
            }
            _ => None,
        };
        let Some((mount, path)) = found else { return Ok(()) };
        let (name, table) = (self.identity.thin_name(thin), Table::thin(size, self.pool, thin));
        let steady = self.steady.read();
        self.dm.load_beside(&name, &table)?;
        // The swap waits for writes, and those may wait for a longer pool.
        drop(steady);
        self.dm.swap(&name)?;
        self.grow(&self.superblock(&path)?, &mount, size)
    }

    /// Runs `work`, which suspends the pool, when no thin device is being activated, and lets none be until it is done.
    pub(super) fn with_pool_suspended<T>(&self, work: impl FnOnce() -> T) -> T {
        let _nobody = self.steady.write();
        work()
    }

    /// Sectors that an active thin device maps.
    pub(super) fn mapped(&self, thin: ThinId) -> Result<Option<Sectors>> {
        if !self.active.lock().contains_key(&thin) {
            return Ok(None);
        }
        let status = self.dm.status(&self.identity.thin_name(thin))?;
        Ok(status.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).map(Sectors))
    }

    /// The device that a volume is mounted from.
    pub(super) fn mounted_path(&self, thin: ThinId) -> Option<PathBuf> {
        let active = self.active.lock();
        active.get(&thin).filter(|active| active.mount.is_some()).map(|active| active.path.clone())
    }

    /// Whether the filesystem could grow.
    pub(super) fn is_smaller(&self, active: &Active, size: Sectors) -> Result<bool> {
        Ok(self.superblock(&active.path)?.blocks_to_grow_to(size).is_some())
    }

    /// What a mount of the device at `path` is to be told: filesystem and options.
    pub(super) fn mount_words(&self, path: &Path) -> Result<(&'static str, Vec<String>)> {
        let filesystem = self.superblock(path)?.filesystem();
        Ok((filesystem.driver(), self.plan.options(filesystem)))
    }

    pub(super) fn superblock(&self, path: &Path) -> Result<Superblock> {
        let context = || format!("reading the superblock on {}", path.display());
        Superblock::read(path).map_err(|source| DeviceError::Io { context: context(), source })
    }

    /// Flushes the filesystem and turns it read-only. Descriptors that only read go on. An error if a flush has failed
    /// before.
    pub(super) fn seal(&self, thin: ThinId, root: impl AsFd) -> Result<()> {
        let _turn = self.turns.take(thin);
        let context = || format!("flushing thin device {thin}");
        around(Step::SealFlush, || self.flush(thin, root))
            .map_err(|source| DeviceError::Io { context: context(), source })?;
        self.check_flushed(thin)?;
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
                return Err(DeviceError::Busy("a file is open for writing, or mapped".to_owned()));
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
            || self.written_elsewhere(thin).is_some()
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

    /// Deletes a thin device that could not be made what it was to be, and that no record names.
    pub(super) fn undo(&self, pool: &Pool, thin: ThinId) {
        let deleted = self.deactivate_then(thin, || pool.delete(thin));
        if !matches!(deleted, Ok(Ok(()))) {
            tracing::warn!(%thin, ?deleted, "a thin device that was of no use stays behind until the next start");
        }
    }

    pub(super) fn close(&self, thin: ThinId, active: Active) -> Result<()> {
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
        self.keep(thin, active);
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
        let present = present.or_else(|| self.written_elsewhere(thin));
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
