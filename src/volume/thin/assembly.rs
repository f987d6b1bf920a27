//! Builds the pool from its source or finds it again, and takes down what thinfs made.
//!
//! Each step can be repeated: a daemon that was killed leaves the pool active, files attached and
//! thin devices active, and the next start finds all of them by name or by backing file. A pool of ours that the kernel
//! has stopped, for its metadata could not be written, is taken out of the kernel, checked ([`remedy`](super::remedy))
//! and made active again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::METADATA_BLOCK;
use super::config::{PoolSource, ThinConfig};
use super::devices::remove_when_closed;
use super::error::{self, Refusal, backend, dm_error, pool_error, refused};
use super::files::{AttachedFile, GrowingFile, PoolFiles, Room};
use super::identity::Identity;
use super::keeper::{Files, Growth};
use super::{remedy, room, witness};
use crate::sys::loopdev::IoMode;
use crate::sys::mount::block_device;
use crate::thin::dm::{DevNum, Dm};
use crate::thin::metadata::{self, FirstBlock, View};
use crate::thin::pool::Pool;
use crate::thin::status::PoolStatus;
use crate::thin::table::{PoolTable, WhenFull};
use crate::thin::{Sectors, ThinId};
use crate::types;
use crate::volume::{Error, Result};

/// How long a start waits for thin devices of an earlier run to be closed, all together. A killed daemon's
/// close within milliseconds; those that somebody holds are taken over as they are.
const CLOSING: Duration = Duration::from_millis(500);

/// What a start has put together, for taking it down.
#[derive(Debug)]
pub(super) struct Assembly {
    dm: Arc<Dm>,
    identity: Identity,
    patience: Duration,
    /// Thin devices of an earlier run that somebody has open.
    held: Vec<ThinId>,
    /// The pool's name, if it is ours to remove.
    pool: Option<String>,
    /// Loop devices, ours to detach: metadata, then data.
    attached: Vec<AttachedFile>,
    /// What they are attached to.
    files: Option<PoolFiles>,
    /// Bytes of the data device, where the pool is ours to lengthen.
    data_device: Option<u64>,
    /// The pool was active before.
    was_active: bool,
}

/// A device of the pool that is about to be made or found.
struct Part {
    number: DevNum,
    path: PathBuf,
    /// What a person knows it by: the file of a loop device.
    known_as: PathBuf,
}

impl Assembly {
    /// Finds or builds the pool. `record`: what the store knows of it. After an error nothing that
    /// is ours is left active.
    pub(super) fn build(
        config: &ThinConfig,
        dm: &Arc<Dm>,
        identity: Identity,
        record: Option<&types::Pool>,
    ) -> Result<(Pool, Self)> {
        let mut assembly = Self {
            dm: dm.clone(),
            identity,
            patience: config.patience,
            held: Vec::new(),
            pool: None,
            attached: Vec::new(),
            files: None,
            data_device: None,
            was_active: false,
        };
        match assembly.assemble(config, record) {
            Ok(pool) => Ok((pool, assembly)),
            Err(error) => {
                assembly.abandon();
                Err(error)
            }
        }
    }

    fn assemble(&mut self, config: &ThinConfig, record: Option<&types::Pool>) -> Result<Pool> {
        self.held = self.remove_thin_devices(CLOSING.min(config.patience))?;
        let name = match &config.source {
            PoolSource::Existing { name } => {
                self.was_active = true;
                name.clone()
            }
            PoolSource::Devices { data, metadata } => {
                self.pool_on(config, &part(metadata)?, &part(data)?, record)?
            }
            PoolSource::Auto { dir, size, .. } => {
                let files = PoolFiles::prepare(dir, *size, record.is_some())?;
                let (metadata, data) = self.attach(&files)?;
                self.files = Some(files);
                self.pool_on(config, &metadata, &data, record)?
            }
        };
        let pool = Pool::open(self.dm.clone(), &name)
            .map_err(|e| pool_error("opening the thin pool", e))?;
        pool.release_stale_metadata_snapshot()
            .map_err(|e| pool_error("opening the thin pool", e))?;
        Ok(pool)
    }

    /// Attaches the two files, or finds where they are attached.
    fn attach(&mut self, files: &PoolFiles) -> Result<(Part, Part)> {
        let live = self.live_table(&self.identity.pool_name())?;
        let metadata =
            AttachedFile::find_or_attach(&files.metadata, live.as_ref().map(|t| t.metadata))?;
        self.attached.push(metadata);
        let data = AttachedFile::find_or_attach(&files.data, live.as_ref().map(|t| t.data))?;
        self.attached.push(data);
        for file in [metadata, data] {
            file.refresh()?;
        }
        let part = |device: AttachedFile, file: &Path| Part {
            number: device.number,
            path: device.path(),
            known_as: file.to_owned(),
        };
        Ok((part(metadata, &files.metadata), part(data, &files.data)))
    }

    /// Finds our pool active on these devices, or makes it there.
    fn pool_on(
        &mut self,
        config: &ThinConfig,
        metadata: &Part,
        data: &Part,
        record: Option<&types::Pool>,
    ) -> Result<String> {
        self.data_device = Some(device_size(data)?.bytes());
        let name = self.identity.pool_name();
        let context = || format!("assembling the thin pool {name}");
        let info = self.dm.info(&name).map_err(|e| dm_error(context(), e))?;
        let stopped = match (info, self.live_table(&name)?) {
            (Some(_), Some(table))
                if (table.metadata, table.data) != (metadata.number, data.number) =>
            {
                let (metadata, data) = (table.metadata, table.data);
                return refused(Refusal::OtherDevices { name, metadata, data });
            }
            (Some(info), Some(_)) => {
                self.pool = Some(name.clone());
                if info.suspended {
                    self.dm.resume(&name).map_err(|e| dm_error(context(), e))?;
                }
                let Some(condition) = self.take_out_if_stopped(&name)? else {
                    tracing::info!(pool = name, "found the pool active");
                    self.was_active = true;
                    return Ok(name);
                };
                Some(condition)
            }
            (info, _) => {
                if info.is_some() {
                    // Killed between creation and first resume: it has never been a pool.
                    self.dm.remove(&name).map_err(|e| dm_error(context(), e))?;
                }
                None
            }
        };
        check_devices(config, &name, metadata, data, record, stopped.as_deref())?;
        let table = pool_table(config, metadata, data)?.table();
        self.pool = Some(name.clone());
        self.dm.activate(&name, &table, false).map_err(|e| dm_error(context(), e))?;
        tracing::info!(pool = name, bytes = table.length.bytes(), "made the pool active");
        Ok(name)
    }

    /// Removes a pool that the kernel has stopped from the kernel, and answers in which condition it was. One that
    /// somebody uses stays, and whoever wants something from it is told.
    fn take_out_if_stopped(&self, name: &str) -> Result<Option<String>> {
        let context = || format!("looking at the thin pool {name}");
        let line = self.dm.status(name).map_err(|e| dm_error(context(), e))?;
        let status = PoolStatus::parse(&line).map_err(|e| backend(context(), e))?;
        if status.is_healthy() {
            return Ok(None);
        }
        let condition = status.condition();
        let removed = remove_when_closed(&self.dm, name, self.patience)
            .map_err(|e| dm_error(format!("removing the thin pool {name}"), e))?;
        if !removed {
            tracing::warn!(
                pool = name,
                condition,
                "the kernel has stopped this pool, and somebody has it open"
            );
            return Ok(None);
        }
        tracing::warn!(
            pool = name,
            condition,
            "the kernel had stopped this pool: taken out of the kernel, to be checked and made active again"
        );
        Ok(Some(condition))
    }

    /// Whether the pool was active before: what it is made of could not be looked at while it wasn't.
    pub(super) fn was_active(&self) -> bool {
        self.was_active
    }

    fn live_table(&self, name: &str) -> Result<Option<PoolTable>> {
        let table = self
            .dm
            .table(name)
            .map_err(|e| dm_error(format!("looking for the thin pool {name}"), e))?;
        Ok(table.as_ref().and_then(PoolTable::parse))
    }

    /// Removes thin devices of ours that nobody in this process uses: left by a killed daemon, or by a stop
    /// under programs with open files. Gives those that are still open after `patience`: the kernel goes
    /// on serving files that a program has open in passthrough, also when the daemon is gone.
    fn remove_thin_devices(&self, patience: Duration) -> Result<Vec<ThinId>> {
        let failed = |e| dm_error("removing the thin devices of an earlier run", e);
        let deadline = Instant::now() + patience;
        let mut held = Vec::new();
        for name in self.dm.devices().map_err(failed)? {
            let Some(thin) = self.identity.thin_of(&name) else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            if remove_when_closed(&self.dm, &name, left).map_err(failed)? {
                tracing::info!(device = name, "removed a thin device of an earlier run");
            } else {
                held.push(thin);
            }
        }
        Ok(held)
    }

    /// Thin devices of an earlier run that are active because somebody has files open on them.
    pub(super) fn held(&self) -> &[ThinId] {
        &self.held
    }

    /// What of the pool can grow by itself.
    pub(super) fn growth(&self, config: &ThinConfig) -> Growth {
        let files = match (&self.files, &self.attached[..]) {
            (Some(files), &[metadata, data]) => Some(Files {
                metadata: GrowingFile::new(files.metadata.clone(), metadata, Room::Taken),
                data: GrowingFile::new(files.data.clone(), data, Room::Sparse),
                data_most: config.data_most(),
            }),
            _ => None,
        };
        Growth { data_device: self.data_device, files, when_full: config.when_full }
    }

    /// How the pool's files are read and written, for `status`.
    pub(super) fn io_mode(&self) -> Option<&'static str> {
        let buffered = self.attached.iter().any(|file| file.io == IoMode::Buffered);
        (!self.attached.is_empty()).then_some(if buffered { "buffered" } else { "direct" })
    }

    /// Removes the pool and detaches the files, where they are ours. Twice is fine. While a program has files
    /// open on a thin device, that device and what is below it stay, and the next start takes them over.
    pub(super) fn take_down(&self) -> Result<()> {
        let held = self.remove_thin_devices(Duration::ZERO)?;
        if !held.is_empty() {
            let devices: Vec<_> = held.iter().map(|&thin| self.identity.thin_name(thin)).collect();
            tracing::warn!(
                ?devices,
                "programs have files open on these devices: they stay active, and so does the pool, until the next start"
            );
            return Ok(());
        }
        if let Some(pool) = &self.pool
            && !remove_when_closed(&self.dm, pool, self.patience)
                .map_err(|e| dm_error(format!("removing the thin pool {pool}"), e))?
        {
            return refused(Refusal::StillOpen(pool.clone()));
        }
        self.attached.iter().try_for_each(AttachedFile::detach)
    }

    /// Takes down after an error, which is what the caller reports.
    pub(super) fn abandon(&self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(%error, cause = error_cause(&error), "what the failed start had made could not all be taken down");
        }
    }
}

fn error_cause(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

fn part(path: &Path) -> Result<Part> {
    let number =
        block_device(path).map_err(|e| error::io(format!("looking at {}", path.display()), e))?;
    match number {
        Some(number) => {
            Ok(Part { number: number.into(), path: path.to_owned(), known_as: path.to_owned() })
        }
        None => refused(Refusal::NotADevice(path.to_owned())),
    }
}

/// The kernel formats a blank metadata device: right for a new pool, the end of a known one. What is neither
/// blank nor a pool's is somebody's data.
fn check_first_block(path: &Path, known: bool) -> Result<FirstBlock> {
    let device = metadata::open(path).map_err(|e| backend("looking at the metadata device", e))?;
    let first =
        metadata::first_block(&device).map_err(|e| backend("looking at the metadata device", e))?;
    match first {
        FirstBlock::Blank if known => refused(Refusal::Blank(path.to_owned())),
        FirstBlock::Other => refused(Refusal::NotBlank(path.to_owned())),
        FirstBlock::Blank | FirstBlock::Superblock => Ok(first),
    }
}

/// Before a pool is made active on them. `stopped`: the condition in which the kernel had it a moment ago.
fn check_devices(
    config: &ThinConfig,
    pool: &str,
    metadata: &Part,
    data: &Part,
    record: Option<&types::Pool>,
    stopped: Option<&str>,
) -> Result<()> {
    let first = check_first_block(&metadata.path, record.is_some() && !config.force_adopt)?;
    let (Some(record), FirstBlock::Superblock) = (record, first) else { return Ok(()) };
    mend(pool, &metadata.path)?;
    remedy::check_if_due(&metadata.path, stopped)?;
    let context = "looking at the metadata device";
    let device = metadata::open(&metadata.path).map_err(|e| backend(context, e))?;
    let view = View::open(&device, 0).map_err(|e| backend(context, e))?;
    witness::check(record, &view, (&data.path, &data.known_as), config.force_adopt)
}

/// What a power cut can leave in the metadata that the kernel itself cannot get out of.
fn mend(pool: &str, path: &Path) -> Result<()> {
    let mended = metadata::forget_unwritten_snapshot(path);
    let mended = mended.map_err(|e| backend("looking at the metadata device", e))?;
    if let Some(block) = mended {
        tracing::warn!(pool, block, "forgot a metadata snapshot that a power cut left unwritten");
    }
    Ok(())
}

fn pool_table(config: &ThinConfig, metadata: &Part, data: &Part) -> Result<PoolTable> {
    let block = Sectors::in_bytes(config.block_size);
    let size = device_size(data)?;
    let blocks = size.0 / block.0.max(1);
    if blocks == 0 {
        return refused(Refusal::TooSmall {
            device: data.path.display().to_string(),
            bytes: size.bytes(),
        });
    }
    let device =
        metadata::open(&metadata.path).map_err(|e| backend("looking at the metadata device", e))?;
    let had =
        metadata::data_blocks(&device).map_err(|e| backend("looking at the metadata device", e))?;
    let first =
        room::first_length(device_size(metadata)?.bytes() / METADATA_BLOCK, blocks).max(had);
    Ok(PoolTable {
        length: Sectors(first * block.0),
        metadata: metadata.number,
        data: data.number,
        block,
        low_water_blocks: first / 2,
        // Who waits for the pool to grow is better off than who fails. The keeper knows when it can't.
        when_full: match first < blocks.max(config.data_most() / block.bytes()) {
            true => WhenFull::Queue,
            false => config.when_full,
        },
    })
}

fn device_size(part: &Part) -> Result<Sectors> {
    let path = format!("/sys/dev/block/{}/size", part.number);
    let attempt = || {
        let text = fs::read_to_string(&path)?;
        text.trim().parse().map(Sectors).map_err(std::io::Error::other)
    };
    attempt().map_err(|e| error::io(format!("reading the size of {}", part.path.display()), e))
}
