//! The thin backend: one filesystem on one thin device of one thin-pool for each volume.
//!
//! Owns the pool (found, or made by itself), the thin ids, the active devices with their detached
//! mounts. Knows volumes and the pool's record; knows no key, no snapshot and no RocksDB: the
//! record is kept through [`PoolLedger`].
//!
//! ```text
//! probe      can this machine do it
//! config     what an operator chooses
//! identity   the names of our devices
//! assembly   the pool: found, built, taken down      files: its sparse files on loop devices
//! keeper     watches how full the pool is, and lets it grow
//! room       how much may be used, so that data runs out before metadata      pace: how fast it fills
//! ledger     thin ids, and the witness that pool and store belong together
//! create     a thin device for a volume
//! provision  records and the pool together: all about thin ids that needs no active device
//! faulty     thin ids that are set aside: listed, and tried again on request
//! template   the filesystem that empty volumes start from
//! devices    activation, detached mounts, seal       turns: one at a time on each
//! flush      flushes that fail
//! handout    thin devices that others have: mounted elsewhere, or in a virtual machine
//! superblock which filesystem a volume has, how large, how clean
//! resize     larger volumes
//! discard    space of removed volumes and removed files, back to the machine
//! usage      blocks and inodes of a volume's own; whose blocks are whose
//! changes    which files differ from the origin's, by blocks      inodes: ext4's inode tables
//! reconcile  records against the pool
//! witness    tells the pool's data device from others
//! remedy     metadata that the kernel wants checked
//! ballast    blocks that are there to be freed
//! describe   the lines of `status`
//! ```
//!
//! Invariants: a volume's thin id never changes, but for one commit of a block device that somebody has open; a sealed
//! volume is never written again; only volumes that are not live (sealed, or inactive) become origins, so no origin is ever
//! suspended but for that commit. Order of
//! locks: template, turn of a thin id, ids, metadata snapshot, pool message. No lock is held over
//! a mount or mkfs but the turn of the thin id concerned, and that of templates.
//!
//! After a crash at any point: a thin id that no record names is garbage and `reconcile` deletes it;
//! nothing else needs repair.

mod assembly;
mod ballast;
mod changes;
mod config;
mod create;
mod describe;
mod devices;
mod discard;
mod error;
mod faulty;
mod files;
mod flush;
mod handout;
mod identity;
mod inodes;
mod keeper;
mod ledger;
mod pace;
mod probe;
mod provision;
mod reconcile;
mod remedy;
mod resize;
mod room;
mod superblock;
mod template;
mod turns;
mod usage;
mod witness;

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub use config::{Filesystem, PoolSource, ThinConfig, WhenFull};
pub use error::Refusal;
pub use ledger::{LedgerError, PoolLedger, RANGE};
pub use probe::available;

use super::{
    Access, Backend, BlockDevice, Capacity, Error, Mounted, NewVolume, Reconciled, Result, Retried,
    Shares, Watcher,
};
use crate::thin::dm::Dm;
use crate::thin::node::Nodes;
use crate::thin::pool::Pool;
use crate::thin::status::{PoolMode, PoolStatus};
use crate::thin::{Sectors, ThinId};
use crate::tree::Changed;
use crate::types::{self, FaultyId, Usage, Volume, VolumeId};
use assembly::Assembly;
use ballast::Ballast;
use devices::{Devices, MountPlan};
use discard::{Overhead, Untouched};
use error::{backend, dm_error, io, pool_error, volume_error};
use handout::AtRest;
use identity::Identity;
use keeper::Keeper;
use ledger::Book;
use provision::Provision;
use reconcile::thin_id;
use usage::Meter;

/// Bytes in a metadata block.
const METADATA_BLOCK: u64 = 4096;
/// Volumes are whole filesystem blocks.
const SIZE_UNIT: u64 = 4096;

/// The thin backend. Made by [`ThinBackend::start`], ended by [`Backend::stop`]; dropping it
/// without that leaves everything active for the next start to find.
pub struct ThinBackend {
    config: ThinConfig,
    nodes: Nodes,
    pool: Arc<Pool>,
    assembly: Assembly,
    book: Arc<Book>,
    ballast: Arc<Ballast>,
    devices: Arc<Devices>,
    meter: Meter,
    keeper: Keeper,
    untouched: Untouched,
    overhead: Overhead,
    /// One template is made at a time.
    template: Mutex<()>,
    /// There is a witness on the data device; one at a time makes it.
    witnessed: AtomicBool,
    witness: Mutex<()>,
}

impl fmt::Debug for ThinBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThinBackend").field("pool", &self.pool.name()).finish_non_exhaustive()
    }
}

impl ThinBackend {
    /// Finds or builds the pool and sees that it belongs to the ledger. After an error nothing of ours is left
    /// active. [`Backend::reconcile`] must follow before anything else.
    pub fn start(config: ThinConfig, ledger: Arc<dyn PoolLedger>) -> Result<Self> {
        let private = config.private();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&private)
            .map_err(|e| io(format!("making {}", private.display()), e))?;
        let identity = Identity::of(&private)?;
        let dm = Arc::new(Dm::open().map_err(|e| dm_error("starting the thin backend", e))?);
        let known = ledger.load().map_err(|source| Error::Backend {
            context: "loading the pool's record".to_owned(),
            source,
        })?;
        probe::usable(config.filesystem).map_err(|why| {
            let context = format!("making volumes with {}", config.filesystem.as_str());
            backend(context, std::io::Error::other(why))
        })?;
        let (pool, assembly) = Assembly::build(&config, &dm, identity, known.as_ref())?;
        let pool = Arc::new(pool);
        let nodes = Nodes::new(private.join("dev"));
        let count = || usage::list(&pool, &nodes).map(|thins| thins.len());
        let plan = mount_plan(&config);
        let devices =
            Devices::new(dm, nodes.clone(), identity, pool.number(), plan, config.patience);
        devices.adopt(assembly.held());
        let devices = Arc::new(devices);
        let witnessed = match (&known, assembly.was_active()) {
            (Some(record), true) => check_live(&pool, &nodes, record, config.force_adopt),
            _ => Ok(()),
        };
        let opened = witnessed
            .and_then(|()| {
                let adopted = devices.adopt_handed_out();
                adopted.map_err(|e| backend("looking for devices handed out before", e))
            })
            .and_then(|()| {
                Book::open(ledger.clone(), &pool, identity.0, &count, config.force_adopt)
            })
            .and_then(|book| {
                witness::renew(&devices, &book, pool.table().block);
                let (book, growth) = (Arc::new(book), assembly.growth(&config));
                let ballast =
                    Ballast::new(pool.clone(), devices.clone(), book.clone(), nodes.clone());
                let ballast = Arc::new(ballast);
                let kept = ballast.clone();
                let keeper = Keeper::start(pool.clone(), devices.clone(), growth, kept, ledger)?;
                Ok((book, ballast, keeper))
            });
        let (book, ballast, keeper) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                drop(pool);
                assembly.abandon();
                return Err(error);
            }
        };
        Ok(Self {
            nodes,
            meter: Meter::default(),
            keeper,
            untouched: Untouched::default(),
            overhead: Overhead::default(),
            template: Mutex::new(()),
            witnessed: AtomicBool::new(false),
            witness: Mutex::new(()),
            config,
            pool,
            assembly,
            book,
            ballast,
            devices,
        })
    }

    fn status(&self) -> Result<PoolStatus> {
        self.pool.status().map_err(|e| pool_error("reading the pool's status", e))
    }

    fn existing(&self) -> Result<Vec<ThinId>> {
        Ok(usage::list(&self.pool, &self.nodes)?.into_iter().map(|thin| thin.id).collect())
    }

    /// Runs what needs records and the pool, but no active device.
    fn provision<T>(&self, work: impl FnOnce(Provision<'_>) -> T) -> T {
        work(Provision { pool: &self.pool, book: &self.book, existing: &|| self.existing() })
    }

    /// Inodes in use on a volume.
    fn used_inodes(
        &self,
        volume: VolumeId,
        thin: ThinId,
        size: u64,
        mounted: Option<&Mounted>,
    ) -> Result<u64> {
        let used = match (mounted, self.meter.inodes(thin)) {
            (Some(mounted), _) => {
                devices::used_inodes(&mounted.root).map_err(|e| io("counting inodes", e))?
            }
            (None, Some(seen)) => return Ok(seen),
            (None, None) => self
                .devices
                .used_inodes(thin, Sectors::in_bytes(size))
                .map_err(|e| volume_error(volume, "counting the inodes of", e))?,
        };
        self.meter.saw_inodes(thin, used);
        Ok(used)
    }

    /// The count is best effort: without it, usage looks for itself.
    fn note_inodes(&self, thin: ThinId, mounted: &Mounted) {
        if let Ok(used) = devices::used_inodes(&mounted.root) {
            self.meter.saw_inodes(thin, used);
        }
    }
}

impl Backend for ThinBackend {
    fn name(&self) -> &'static str {
        "thin"
    }

    fn create(&self, id: VolumeId, origin: Option<&Volume>, size: Option<u64>) -> Result<Volume> {
        self.create_volume(id, origin, size)
    }

    fn create_formatted(
        &self,
        id: VolumeId,
        filesystem: &str,
        size: Option<u64>,
    ) -> Result<Volume> {
        let found = Filesystem::from_name(filesystem).ok_or_else(|| {
            let context = format!("making volume {id} with filesystem {filesystem:?}");
            Error::Io { context, source: std::io::ErrorKind::InvalidInput.into() }
        })?;
        self.create_on(id, None, found, size)
    }

    fn creates_together(&self) -> bool {
        true
    }

    fn create_together(&self, new: &[NewVolume<'_>]) -> Vec<Result<Volume>> {
        self.create_volumes(new)
    }

    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        let thin = thin_id(volume)?;
        if access == Access::ReadWrite {
            self.untouched.written(thin);
        }
        let root = self
            .devices
            .activate(thin, Sectors::in_bytes(volume.size), access)
            .map_err(|e| volume_error(volume.id, "activating", e))?;
        let mounted = Mounted { root, access };
        self.note_inodes(thin, &mounted);
        if access == Access::ReadWrite && self.config.trim_on_commit {
            self.note_overhead(volume, &mounted);
        }
        Ok(mounted)
    }

    fn watched_by(&self, watcher: Arc<dyn Watcher>) {
        let _ = self.devices.watcher.set(watcher);
    }

    fn is_stopped(&self, volume: &Volume) -> bool {
        thin_id(volume).is_ok_and(|thin| self.devices.is_stopped(thin))
    }

    fn has_sizes(&self) -> bool {
        true
    }

    fn resize(&self, volume: &Volume, mounted: Option<&Mounted>) -> Result<()> {
        self.resize_volume(volume, mounted)
    }

    fn trim(&self, volume: &Volume, mounted: &Mounted) -> Result<u64> {
        self.trim_volume(volume, mounted)
    }

    fn shares(&self, volumes: &[Volume], cancel: &AtomicBool) -> Result<Option<Shares>> {
        self.shares_of(volumes, cancel).map(Some)
    }

    fn changed(
        &self,
        old: &Volume,
        new: &Volume,
        mounted: &Mounted,
        cancel: &AtomicBool,
    ) -> Result<Option<Changed>> {
        self.changes(old, new, mounted, cancel)
    }

    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        let thin = thin_id(volume)?;
        if self.config.trim_on_commit {
            self.trim_if_worth_it(volume, mounted);
        }
        self.devices
            .seal(thin, &mounted.root)
            .map_err(|e| volume_error(volume.id, "sealing", e))?;
        mounted.access = Access::ReadOnly;
        self.overhead.forget(thin);
        self.meter.outdate(thin);
        self.note_inodes(thin, mounted);
        Ok(())
    }

    fn is_at_rest(&self, volume: &Volume) -> bool {
        let Ok(thin) = thin_id(volume) else { return false };
        let worth_a_trim = |found: AtRest| {
            self.config.trim_on_commit && self.overhead.excess(thin, found.overhead, found.used) > 0
        };
        self.untouched.contains(thin)
            || self.devices.at_rest(thin).is_some_and(|found| !worth_a_trim(found))
    }

    fn unseal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        let unsealed = self.devices.unseal(thin_id(volume)?);
        unsealed.map_err(|e| volume_error(volume.id, "making writable again", e))?;
        mounted.access = Access::ReadWrite;
        Ok(())
    }

    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()> {
        let thin = thin_id(volume)?;
        self.devices
            .flush(thin, &mounted.root)
            .map_err(|e| io(format!("flushing volume {}", volume.id), e))?;
        self.meter.outdate(thin);
        Ok(())
    }

    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()> {
        let thin = thin_id(volume)?;
        self.note_inodes(thin, &mounted);
        self.meter.outdate(thin);
        // The last unmount would do it, but where somebody has files open ours isn't the last.
        if mounted.access == Access::ReadWrite
            && let Err(error) = self.devices.flush(thin, &mounted.root)
        {
            tracing::warn!(volume = %volume.id, %error, "a volume could not be flushed when it was deactivated");
        }
        drop(mounted);
        self.devices.deactivate(thin).map_err(|e| volume_error(volume.id, "deactivating", e))
    }

    fn destroy(&self, volume: &Volume) -> Result<()> {
        let thin = thin_id(volume)?;
        self.book.keep_out(thin);
        self.take_back(volume, Duration::ZERO)?;
        self.devices.deactivate(thin).map_err(|e| volume_error(volume.id, "deactivating", e))?;
        self.discard(volume, thin);
        let deleted = self
            .devices
            .deactivate_then(thin, || self.pool.delete(thin))
            .map_err(|e| volume_error(volume.id, "deactivating", e))?;
        provision::deleted(volume.id, deleted)?;
        self.overhead.forget(thin);
        self.devices.at_rest.lock().remove(&thin);
        self.devices.forget_failure(thin);
        self.meter.forget(thin);
        Ok(())
    }

    fn usage(
        &self,
        volume: &Volume,
        origin: Option<&Volume>,
        mounted: Option<&Mounted>,
        cancel: &AtomicBool,
    ) -> Result<Usage> {
        let thin = thin_id(volume)?;
        if self.untouched.contains(thin) && !cancel.load(Ordering::Relaxed) {
            return Ok(Usage::default());
        }
        if self.devices.written_elsewhere(thin).is_some() {
            self.meter.forget(thin); // nobody tells us of what is written there
        }
        let base = self.base_of(volume, origin, cancel)?;
        let blocks = self.own_blocks(thin, base.map(|b| b.0), cancel)?;
        let size = blocks.ok_or(Error::Missing(volume.id))? * self.pool.table().block.bytes();
        let used = self.used_inodes(volume.id, thin, volume.size, mounted)?;
        let inherited = match base {
            Some((base, size)) => {
                self.used_inodes(origin.map_or(volume.id, |o| o.id), base, size, None)?
            }
            None => 0,
        };
        Ok(Usage { size, inodes: used.saturating_sub(inherited) })
    }

    fn capacity(&self) -> Result<Capacity> {
        let status = self.status()?;
        let report = self.keeper.report();
        let block_size = self.pool.table().block.bytes();
        Ok(Capacity {
            // The pool is given its device bit by bit.
            total: report.device.max(status.data.total * block_size),
            most: report.most.max(status.data.total * block_size),
            rate: report.data.bytes_a_second,
            full_in: report.data.full_in.into_iter().chain(report.metadata.full_in).min(),
            used: status.data.used * block_size,
            block_size,
            metadata_total: status.metadata.total * METADATA_BLOCK,
            metadata_used: status.metadata.used * METADATA_BLOCK,
        })
    }

    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled> {
        let done = self.provision(|provision| provision.reconcile(known, false));
        done.inspect(|_| self.ballast.open())
    }

    fn reconcile_keeping(&self, known: &[Volume]) -> Result<Reconciled> {
        let done = self.provision(|provision| provision.reconcile(known, true));
        done.inspect(|_| self.ballast.open())
    }

    fn check(&self, known: &[Volume]) -> Result<Vec<String>> {
        let mut lines = self.provision(|provision| provision.compare(known))?.lines();
        let status = self.status()?;
        if status.mode != PoolMode::ReadWrite || status.needs_check {
            lines.push(format!("the pool {} is {}", self.pool.name(), status.condition()));
        }
        Ok(lines)
    }

    fn describe(&self) -> Vec<(String, String)> {
        self.lines()
    }

    fn faulty(&self) -> Vec<FaultyId> {
        self.book.record().faulty
    }

    fn retry_faulty(&self, ids: &[u32]) -> Result<Vec<Retried>> {
        self.try_again(ids)
    }

    fn has_block_devices(&self) -> bool {
        true
    }

    fn hand_out(&self, volume: &Volume, access: Access) -> Result<BlockDevice> {
        let thin = thin_id(volume)?;
        if access == Access::ReadWrite {
            self.untouched.written(thin);
        }
        let path = self
            .devices
            .hand_out(thin, Sectors::in_bytes(volume.size), access)
            .map_err(|e| volume_error(volume.id, "handing out", e))?;
        if access == Access::ReadWrite && self.config.trim_on_commit {
            self.overhead.note(thin, || Some(self.devices.look(thin)?.overhead));
        }
        let words = self.devices.mount_words(&path);
        let (filesystem, options) = words.map_err(|e| volume_error(volume.id, "handing out", e))?;
        Ok(BlockDevice { path, filesystem, options })
    }

    fn is_handed_out(&self, volume: &Volume) -> bool {
        thin_id(volume).is_ok_and(|thin| self.devices.is_handed_out(thin))
    }

    fn fork_handed_out(&self, volume: &Volume) -> Result<Volume> {
        self.fork(volume)
    }

    fn take_back(&self, volume: &Volume, patience: Duration) -> Result<()> {
        let thin = thin_id(volume)?;
        if !self.devices.is_handed_out(thin) {
            return Ok(());
        }
        self.meter.forget(thin);
        let taken = self.devices.take_back(thin, patience);
        taken.map_err(|e| volume_error(volume.id, "taking back", e))?;
        if let Some(found) = self.devices.at_rest(thin) {
            self.meter.saw_inodes(thin, found.inodes);
        }
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        self.keeper.stop();
        self.devices
            .deactivate_all()
            .map_err(|e| backend("deactivating what is still active", e))?;
        let handed_out = self.devices.take_back_all(Duration::ZERO);
        let open = handed_out.map_err(|e| backend("taking back what was handed out", e))?;
        if open.is_empty() {
            return self.assembly.take_down();
        }
        tracing::warn!(devices = ?open, "somebody has these block devices open: they stay active, and so does the pool, until the next start");
        Ok(())
    }
}

/// Looks for the witness below a pool that is active already: whoever made it may have given it other devices.
fn check_live(pool: &Pool, nodes: &Nodes, record: &types::Pool, force: bool) -> Result<()> {
    if record.witness.is_none() {
        return Ok(());
    }
    let data = nodes.path(pool.table().data);
    let data = data.map_err(|e| io("finding the pool's data device", e))?;
    usage::read(pool, nodes, |view| Ok(witness::check(record, view, (&data, &data), force)))?
}

fn mount_plan(config: &ThinConfig) -> MountPlan {
    MountPlan { filesystem: config.filesystem, options: config.mount_options.clone() }
}

/// Rounds a size up to whole filesystem blocks.
fn whole(size: u64) -> u64 {
    size.div_ceil(SIZE_UNIT).saturating_mul(SIZE_UNIT)
}

/// What should be impossible, told instead of assumed.
fn odd(context: &str, why: String) -> Error {
    backend(context, std::io::Error::other(why))
}

#[cfg(test)]
mod tests;
