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
//! ledger     thin ids, and the witness that pool and store belong together
//! template   the filesystem that empty volumes start from
//! devices    activation, detached mounts, seal
//! usage      blocks and inodes of a volume's own
//! reconcile  records against the pool
//! ```
//!
//! Invariants: a volume's thin device never changes; a sealed volume is never written again; only
//! volumes that are not live (sealed, or inactive) become origins, so no origin is ever suspended. Order of
//! locks: template, turn of a thin id, ids, metadata snapshot, pool message. No lock is held over
//! a mount or mkfs but the turn of the thin id concerned, and that of templates.
//!
//! After a crash at any point: a thin id that no record names is garbage and `reconcile` deletes it;
//! nothing else needs repair.

mod assembly;
mod config;
mod devices;
mod error;
mod ext4;
mod files;
mod identity;
mod ledger;
mod probe;
mod reconcile;
mod template;
mod usage;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

pub use config::{Filesystem, PoolSource, ThinConfig, WhenFull};
pub use error::Refusal;
pub use ledger::{LedgerError, PoolLedger, RANGE};
pub use probe::available;

use super::{Access, Backend, Capacity, Error, Mounted, Reconciled, Result};
use crate::thin::dm::Dm;
use crate::thin::node::Nodes;
use crate::thin::pool::{self, Pool};
use crate::thin::status::{PoolMode, PoolStatus};
use crate::thin::{Sectors, ThinId};
use crate::types::{Backing, Template, Usage, Volume, VolumeId, VolumeState};
use assembly::Assembly;
use devices::{Devices, MountPlan, volume_error};
use error::{backend, dm_error, io, pool_error};
use identity::Identity;
use ledger::Book;
use reconcile::thin_id;
use template::Recipe;
use usage::Meter;

/// Bytes in a metadata block.
const METADATA_BLOCK: u64 = 4096;
/// Free metadata blocks that only removals may use: a 64th, within these bounds. A pool whose
/// metadata is full does nothing at all any more.
const METADATA_RESERVE: (u64, u64) = (64, 8192);
/// How many ids that turn out to be taken are tried before something else must be wrong.
const CREATE_TRIES: usize = 16;
/// Volumes are whole filesystem blocks.
const SIZE_UNIT: u64 = 4096;

/// The thin backend. Made by [`ThinBackend::start`], ended by [`Backend::stop`]; dropping it
/// without that leaves everything active for the next start to find.
pub struct ThinBackend {
    config: ThinConfig,
    recipe: Recipe,
    nodes: Nodes,
    pool: Pool,
    assembly: Assembly,
    book: Book,
    devices: Devices,
    meter: Meter,
    /// One template is made at a time.
    template: Mutex<()>,
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
        let (pool, assembly) = Assembly::build(&config, &dm, identity, known.is_some())?;
        let nodes = || Nodes::new(private.join("dev"));
        let count = || usage::list(&pool, &nodes()).map(|thins| thins.len());
        let book = match Book::open(ledger, &pool, identity.0, &count) {
            Ok(book) => book,
            Err(error) => {
                drop(pool);
                assembly.abandon();
                return Err(error);
            }
        };
        let devices = Devices::new(dm, nodes(), identity, pool.number(), mount_plan(&config), config.patience);
        Ok(Self {
            recipe: Recipe::new(&config),
            nodes: nodes(),
            meter: Meter::default(),
            template: Mutex::new(()),
            config,
            pool,
            assembly,
            book,
            devices,
        })
    }

    fn status(&self) -> Result<PoolStatus> {
        self.pool.status().map_err(|e| pool_error("reading the pool's status", e))
    }

    /// Refuses before the pool gets full: full metadata would end in a pool that does nothing.
    fn check_room(&self) -> Result<()> {
        let status = self.pool.check_healthy().map_err(|e| pool_error("looking for room in the pool", e))?;
        let reserve = (status.metadata.total / 64).clamp(METADATA_RESERVE.0, METADATA_RESERVE.1);
        let name = self.pool.name();
        if status.metadata.free() <= reserve {
            return Err(Error::NoSpace(format!(
                "the metadata of the pool {name} is full but for a reserve of {reserve} blocks; remove snapshots or grow it"
            )));
        }
        if status.data.free() == 0 || status.mode == PoolMode::OutOfDataSpace {
            return Err(Error::NoSpace(format!("the pool {name} has no free data block; remove snapshots or grow it")));
        }
        Ok(())
    }

    fn existing(&self) -> Result<Vec<ThinId>> {
        Ok(usage::list(&self.pool, &self.nodes)?.into_iter().map(|thin| thin.id).collect())
    }

    /// Takes an id and makes a thin device of it; `None` if what it should start from is missing. An id
    /// that the pool has already, although no record says so, is faulty: noted, and never used again.
    fn create_with(&self, make: impl Fn(ThinId) -> pool::Result<()>) -> Result<Option<ThinId>> {
        for _ in 0..CREATE_TRIES {
            let thin = self.book.next(&self.pool, &|| self.existing())?;
            match make(thin) {
                Ok(()) => return Ok(Some(thin)),
                Err(e) if e.missing() => return Ok(None),
                Err(e) if e.already_exists() => {
                    tracing::warn!(%thin, "the pool has a thin device that no record names; its id is not used again");
                    self.book.mark_faulty(thin)?;
                }
                Err(e) => return Err(pool_error(format!("making thin device {thin}"), e)),
            }
        }
        Err(odd("making a thin device", format!("{CREATE_TRIES} ids in a row were taken already")))
    }

    /// The template of empty volumes of `size`, made if need be.
    fn template(&self, size: u64) -> Result<Template> {
        let find = || self.recipe.find(&self.book.record().templates, size).cloned();
        if let Some(template) = find() {
            return Ok(template);
        }
        let _one_at_a_time = self.template.lock();
        if let Some(template) = find() {
            return Ok(template);
        }
        self.make_template(size)
    }

    /// 1. a thin device, 2. mkfs, 3. an empty root, 4. clean and inactive, 5. the record. A crash before 5 leaves
    ///    an id that nobody names.
    fn make_template(&self, size: u64) -> Result<Template> {
        let thin = self.create_with(|thin| self.pool.create_thin(thin))?;
        let thin = thin.ok_or_else(|| odd("making a template", "the pool wants an origin for it".to_owned()))?;
        if let Err(error) = self.format(thin, Sectors::in_bytes(size)) {
            self.undo_template(thin);
            return Err(error);
        }
        let template = Template { thin_id: thin.get(), size, fingerprint: self.recipe.fingerprint() };
        self.book.change(|record| record.templates.push(template.clone()))?;
        tracing::info!(%thin, size, "made the filesystem that empty volumes start from");
        Ok(template)
    }

    fn format(&self, thin: ThinId, size: Sectors) -> Result<()> {
        let failed = |e| backend("making the filesystem that empty volumes start from", e);
        self.devices.with_device(thin, size, |path| self.recipe.make(path)).map_err(failed)??;
        let root = self.devices.activate(thin, size, Access::ReadWrite).map_err(failed)?;
        template::empty_the_root(&root).map_err(|e| io("emptying a new filesystem's root", e))?;
        self.devices.seal(thin, &root).map_err(failed)?;
        drop(root);
        self.devices.deactivate(thin).map_err(failed)
    }

    fn undo_template(&self, thin: ThinId) {
        let deleted = self.devices.deactivate_then(thin, || self.pool.delete(thin));
        if !matches!(deleted, Ok(Ok(()))) {
            tracing::warn!(%thin, ?deleted, "a template that failed stays behind until the next start");
        }
    }

    /// What a volume with this origin and size starts from: thin id and size of its device.
    fn base(&self, origin: Option<&Volume>, size: Option<u64>) -> Result<(ThinId, u64)> {
        match origin {
            Some(origin) => {
                let thin = thin_id(origin)?;
                if self.devices.is_live(thin) {
                    return Err(Error::Busy(origin.id, "it is mounted for writing; only a sealed volume can be copied".to_owned()));
                }
                Ok((thin, origin.size))
            }
            None => {
                let template = self.template(whole(size.unwrap_or(self.config.volume_size)))?;
                let thin = ThinId::new(template.thin_id);
                let thin = thin.ok_or_else(|| odd("making an empty volume", format!("bad {template:?}")))?;
                Ok((thin, template.size))
            }
        }
    }

    /// What a volume's usage is measured against: its origin, or the template of its size.
    fn base_of(&self, volume: &Volume, origin: Option<&Volume>) -> Result<Option<(ThinId, u64)>> {
        if let Some(origin) = origin {
            return Ok(Some((thin_id(origin)?, origin.size)));
        }
        let record = self.book.record();
        let template = self.recipe.find(&record.templates, volume.size);
        Ok(template.and_then(|t| Some((ThinId::new(t.thin_id)?, t.size))))
    }

    /// Inodes in use on a volume.
    fn used_inodes(&self, volume: VolumeId, thin: ThinId, size: u64, mounted: Option<&Mounted>) -> Result<u64> {
        let used = match (mounted, self.meter.inodes(thin)) {
            (Some(mounted), _) => devices::used_inodes(&mounted.root).map_err(|e| io("counting inodes", e))?,
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

    fn compare(&self, known: &[Volume]) -> Result<reconcile::Findings> {
        let existing: BTreeSet<_> = self.existing()?.into_iter().collect();
        reconcile::compare(known, &self.book.record(), &existing)
    }
}

impl Backend for ThinBackend {
    fn name(&self) -> &'static str {
        "thin"
    }

    fn create(&self, id: VolumeId, origin: Option<&Volume>, size: Option<u64>) -> Result<Volume> {
        self.check_room()?;
        let (base, base_size) = self.base(origin, size)?;
        let size = size.map_or(base_size, whole);
        if size < base_size {
            let context = format!("a volume of {size} bytes cannot hold a copy of one of {base_size} bytes");
            return Err(Error::Io { context, source: std::io::ErrorKind::InvalidInput.into() });
        }
        let thin = match (self.create_with(|thin| self.pool.create_snap(thin, base))?, origin) {
            (Some(thin), _) => thin,
            (None, Some(origin)) => return Err(Error::Missing(origin.id)),
            (None, None) => return Err(odd("making an empty volume", format!("the template {base} is gone from the pool"))),
        };
        Ok(Volume {
            id,
            state: VolumeState::Live,
            origin: origin.map(|origin| origin.id),
            size,
            backing: Backing::Thin { thin_id: thin.get() },
        })
    }

    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted> {
        let thin = thin_id(volume)?;
        let root = self
            .devices
            .activate(thin, Sectors::in_bytes(volume.size), access)
            .map_err(|e| volume_error(volume.id, "activating", e))?;
        let mounted = Mounted { root, access };
        self.note_inodes(thin, &mounted);
        Ok(mounted)
    }

    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()> {
        let thin = thin_id(volume)?;
        self.devices.seal(thin, &mounted.root).map_err(|e| volume_error(volume.id, "sealing", e))?;
        mounted.access = Access::ReadOnly;
        self.meter.outdate(thin);
        self.note_inodes(thin, mounted);
        Ok(())
    }

    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()> {
        rustix::fs::syncfs(&mounted.root).map_err(|e| io(format!("flushing volume {}", volume.id), e.into()))?;
        self.meter.outdate(thin_id(volume)?);
        Ok(())
    }

    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()> {
        let thin = thin_id(volume)?;
        self.note_inodes(thin, &mounted);
        self.meter.outdate(thin);
        drop(mounted);
        self.devices.deactivate(thin).map_err(|e| volume_error(volume.id, "deactivating", e))
    }

    fn destroy(&self, volume: &Volume) -> Result<()> {
        let thin = thin_id(volume)?;
        self.book.keep_out(thin);
        let deleted = self
            .devices
            .deactivate_then(thin, || self.pool.delete(thin))
            .map_err(|e| volume_error(volume.id, "deactivating", e))?;
        match deleted {
            Err(e) if e.missing() => {}
            Err(e) if e.busy() => return Err(Error::Busy(volume.id, "its thin device is active elsewhere".to_owned())),
            other => other.map_err(|e| pool_error(format!("deleting volume {}", volume.id), e))?,
        }
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
        let base = self.base_of(volume, origin)?;
        let blocks = self.meter.exclusive_blocks(&self.pool, &self.nodes, thin, base.map(|b| b.0), cancel)?;
        let size = blocks.ok_or(Error::Missing(volume.id))? * self.pool.table().block.bytes();
        let used = self.used_inodes(volume.id, thin, volume.size, mounted)?;
        let inherited = match base {
            Some((base, size)) => self.used_inodes(origin.map_or(volume.id, |o| o.id), base, size, None)?,
            None => 0,
        };
        Ok(Usage { size, inodes: used.saturating_sub(inherited) })
    }

    fn capacity(&self) -> Result<Capacity> {
        let status = self.status()?;
        let block_size = self.pool.table().block.bytes();
        Ok(Capacity {
            total: status.data.total * block_size,
            used: status.data.used * block_size,
            block_size,
            metadata_total: status.metadata.total * METADATA_BLOCK,
            metadata_used: status.metadata.used * METADATA_BLOCK,
        })
    }

    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled> {
        let findings = self.compare(known)?;
        findings.refuse_foreign(self.pool.name())?;
        for volume in known {
            self.book.keep_out(thin_id(volume)?);
        }
        let mut reaped = 0;
        for &thin in &findings.unnamed {
            match self.pool.delete(thin) {
                Ok(()) => reaped += 1,
                Err(error) => tracing::warn!(%thin, %error, "a thin device that belongs to no volume could not be deleted"),
            }
        }
        if !findings.lost_templates.is_empty() {
            tracing::warn!(templates = ?findings.lost_templates, "templates are gone from the pool; they are made again when needed");
            let gone = |t: &Template| findings.lost_templates.iter().any(|thin| thin.get() == t.thin_id);
            self.book.change(|record| record.templates.retain(|t| !gone(t)))?;
        }
        Ok(Reconciled { lost: findings.lost.into_iter().map(|(volume, _)| volume).collect(), reaped })
    }

    fn check(&self, known: &[Volume]) -> Result<Vec<String>> {
        let mut lines = self.compare(known)?.lines();
        let status = self.status()?;
        if status.mode != PoolMode::ReadWrite || status.needs_check {
            lines.push(format!("the pool {} is {}", self.pool.name(), status.condition()));
        }
        Ok(lines)
    }

    fn describe(&self) -> Vec<(String, String)> {
        let table = self.pool.table();
        let path = |number| self.nodes.path(number).map_or_else(|_| number.to_string(), |p| p.display().to_string());
        let record = self.book.record();
        let mut lines = vec![
            ("pool", self.pool.name().to_owned()),
            ("data device", path(table.data)),
            ("metadata device", path(table.metadata)),
            ("block size", format!("{} KiB", table.block.bytes() / 1024)),
            ("filesystem", self.recipe.fingerprint()),
            ("active volumes", self.devices.count().to_string()),
            ("thin ids reserved", record.reserved_end.to_string()),
        ];
        if let Some(mode) = self.assembly.io_mode() {
            lines.push(("loop I/O", mode.to_owned()));
        }
        match self.pool.status() {
            Ok(status) => lines.extend([
                ("pool state", status.condition()),
                ("transaction id", status.transaction_id.to_string()),
                ("data blocks", format!("{} of {}", status.data.used, status.data.total)),
                ("metadata blocks", format!("{} of {}", status.metadata.used, status.metadata.total)),
            ]),
            Err(error) => lines.push(("pool state", format!("unknown: {error}"))),
        }
        if !record.faulty.is_empty() {
            let ids: Vec<_> = record.faulty.iter().map(u32::to_string).collect();
            lines.push(("faulty thin ids", ids.join(" ")));
        }
        lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn stop(&self) -> Result<()> {
        self.devices.deactivate_all().map_err(|e| backend("deactivating what is still active", e))?;
        self.assembly.take_down()
    }
}

fn mount_plan(config: &ThinConfig) -> MountPlan {
    let own = config.filesystem.mount_options().iter().map(|&o| o.to_owned());
    let options = own.chain(config.mount_options.iter().cloned()).collect();
    MountPlan { filesystem: config.filesystem.as_str(), options }
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
