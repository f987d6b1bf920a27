//! Watches how full the pool is, and grows one that is made of files before anybody has to wait.
//!
//! ```text
//!        event, or a look each second
//! watching ──────────────────────────▶ low ──file grows──▶ watching
//!                                       │ at its limit, or the disk is full
//!                                       └─▶ said once; new volumes are refused, removal goes on
//! ```
//! The kernel raises an event when free data falls below the low water mark of the pool's table, when free metadata falls
//! below a mark of its own, and when either is used up. Metadata grows early: a pool whose metadata
//! is full does nothing at all any more. Growing is file, loop device, table, in this order; after a
//! crash in between the next start has the larger file and takes all of it.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::error::{backend, dm_error, pool_error};
use super::files::{GrowingFile, METADATA_MOST};
use crate::sys::poll;
use crate::thin::Sectors;
use crate::thin::dm::Dm;
use crate::thin::pool::Pool;
use crate::thin::status::{PoolMode, PoolStatus};
use crate::thin::table::{PoolTable, WhenFull};
use crate::volume::Result;

/// How often a look is taken without an event.
const LOOK: Duration = Duration::from_secs(1);
/// Metadata grows when less than this part of it is free.
const METADATA_PART: u64 = 4;
/// The least by which data grows.
const LEAST_STEP: u64 = 64 << 20;

/// What of a pool can grow.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) metadata: GrowingFile,
    pub(super) data: GrowingFile,
    /// Bytes that the data file may grow to.
    pub(super) data_most: u64,
    /// What the pool does once data has grown to its limit and is full.
    pub(super) when_full: WhenFull,
}

/// The thread that watches. Ends when stopped or dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Closed to end the thread.
    wake: Mutex<Option<PipeWriter>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts watching; `growth` where the pool is made of files.
    pub(super) fn start(pool: Arc<Pool>, growth: Option<Growth>) -> Result<Self> {
        let failed = |e: io::Error| backend("starting the thread that watches the pool", e);
        let (ended, wake) = io::pipe().map_err(failed)?;
        let mut watch = Watch::new(pool, growth)?;
        let thread = std::thread::Builder::new().name("pool-keeper".into());
        let thread = thread.spawn(move || watch.run(&ended)).map_err(failed)?;
        Ok(Self { wake: Mutex::new(Some(wake)), thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread. Twice is fine.
    pub(super) fn stop(&self) {
        drop(self.wake.lock().take());
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches the pool had panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread works with.
pub(super) struct Watch {
    dm: Dm,
    pool: Arc<Pool>,
    growth: Option<Growth>,
    /// What was logged last: each state of affairs is told once.
    said: String,
}

impl Watch {
    pub(super) fn new(pool: Arc<Pool>, growth: Option<Growth>) -> Result<Self> {
        let dm = Dm::open().map_err(|e| dm_error("watching the pool", e))?;
        Ok(Self { dm, pool, growth, said: String::new() })
    }

    fn run(&mut self, ended: &PipeReader) {
        loop {
            // Armed before the look, so that nothing is missed in between.
            let armed = self.dm.arm();
            self.look();
            let woken = match armed {
                Ok(()) => poll::readable([ended.as_fd(), self.dm.control()], LOOK).map(|w| w[0]),
                Err(_) => poll::readable([ended.as_fd()], LOOK).map(|w| w[0]),
            };
            match woken {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    tracing::error!(%error, "the pool is no longer watched");
                    return;
                }
            }
        }
    }

    fn look(&mut self) {
        let outcome = match self.pool.status() {
            Ok(status) => self.act_on(&status),
            Err(error) => Err(pool_error("reading the pool's status", error)),
        };
        match outcome {
            Ok(state) => self.say(state),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                self.say(format!("{error}{}", cause.unwrap_or_default()));
            }
        }
    }

    /// Grows what is low; says what is wrong, in words that change only when that does.
    fn act_on(&self, status: &PoolStatus) -> Result<String> {
        if !status.is_healthy() {
            return Ok(format!("the pool {} is {}", self.pool.name(), status.condition()));
        }
        let table = self.pool.live_table().map_err(|e| pool_error("looking at the pool", e))?;
        let metadata_low = status.metadata.free() < status.metadata.total / METADATA_PART;
        let data_low = status.data.free() <= table.low_water_blocks;
        let metadata_grew = metadata_low && self.grow_metadata(&table)?;
        let data_grew = data_low && self.grow_data(table)?;
        Ok(match () {
            () if status.mode == PoolMode::OutOfDataSpace && !data_grew => {
                format!("the pool {} is out of data space", self.pool.name())
            }
            () if data_low && !data_grew => {
                format!("the pool {} is low on data space", self.pool.name())
            }
            () if metadata_low && !metadata_grew => {
                format!("the pool {} is low on metadata space", self.pool.name())
            }
            () => String::new(),
        })
    }

    /// Whether it grew.
    pub(super) fn grow_metadata(&self, table: &PoolTable) -> Result<bool> {
        let Some(growth) = &self.growth else { return Ok(false) };
        let bytes = growth.metadata.len()?;
        let wanted = bytes.saturating_mul(2).min(METADATA_MOST);
        if wanted <= bytes {
            return Ok(false);
        }
        growth.metadata.grow_to(wanted)?;
        self.pool.reload(table).map_err(|e| pool_error("growing the pool's metadata", e))?;
        tracing::info!(pool = self.pool.name(), bytes = wanted, "the pool's metadata has grown");
        Ok(true)
    }

    /// Whether it grew.
    fn grow_data(&self, mut table: PoolTable) -> Result<bool> {
        let Some(growth) = &self.growth else { return Ok(false) };
        let bytes = growth.data.len()?;
        let wanted = (bytes + (bytes / 4).max(LEAST_STEP)).min(growth.data_most);
        let length = wanted / table.block.bytes() * table.block.0;
        if length <= table.length.0 {
            return Ok(false);
        }
        growth.data.grow_to(wanted)?;
        table.length = Sectors(length);
        if wanted == growth.data_most {
            table.when_full = growth.when_full;
        }
        self.pool.reload(&table).map_err(|e| pool_error("growing the pool", e))?;
        tracing::info!(pool = self.pool.name(), bytes = wanted, "the pool has grown");
        Ok(true)
    }

    fn say(&mut self, state: String) {
        if state == self.said {
            return;
        }
        match state.is_empty() {
            true => tracing::info!(pool = self.pool.name(), "the pool has room again"),
            false => tracing::warn!("{state}"),
        }
        self.said = state;
    }
}
