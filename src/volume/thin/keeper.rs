//! Watches how full the pool is, and gives it more room before anybody has to wait.
//!
//! ```text
//!        event, or a look each second
//! watching ──────────────────────────▶ due ──longer table, larger file──▶ watching
//!                                       │ at its limit, or the disk is full
//!                                       └─▶ tight: new volumes are refused, volumes stop growing (ENOSPC),
//!                                           removal and reading go on; ends by itself when there is room
//!                                             └─ metadata critical: filesystems that we mounted are stopped;
//!                                                block devices that were handed out are not
//! ```
//! The kernel raises an event when free data falls below the low water mark of the pool's table, when free metadata
//! falls below a mark of its own, and when either is used up. How much room the pool may have is said in
//! [`room`](super::room). Growing is file, loop device, table, in this order; after a crash in between the next start
//! has the larger file and takes it. A new table suspends the pool; where that hangs, [`ballast`](super::ballast) ends it.
//!
//! Readers of events are told of what an operator wants to know: levels on the way up, growth, no room, room again,
//! a pool that is unwell. The thread alone tells them, after its look and under no lock: a look may be taken by who
//! waits for room, and telling waits for the disk.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ballast::Ballast;
use super::devices::Devices;
use super::error::{backend, dm_error, pool_error};
use super::files::{GrowingFile, METADATA_MOST};
use super::ledger::PoolLedger;
use super::pace::{Pace, Samples};
use super::{METADATA_BLOCK, room};
use crate::sys::poll;
use crate::thin::Sectors;
use crate::thin::dm::Dm;
use crate::thin::pool::{self, Pool};
use crate::thin::status::{PoolMode, PoolStatus};
use crate::thin::table::{PoolTable, WhenFull};
use crate::types::{Event, Topic};
use crate::volume::Result;

/// How often a look is taken without an event.
const LOOK: Duration = Duration::from_secs(1);
/// The same while a pool that can't grow has less than a quarter left.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// Metadata grows when less than this part of it is free.
const METADATA_PART: u64 = 4;
/// The least by which the data file grows.
const LEAST_STEP: u64 = 64 << 20;
/// A pool at its limit raises its event when a sixteenth is left.
const LOW_WATER_PART: u64 = 16;
/// Percent of all there is that are told of, each once on the way up.
const TOLD: [u64; 4] = [80, 90, 95, 99];

/// What there is for a pool.
#[derive(Debug)]
pub(super) struct Growth {
    /// Bytes of the data device that may be used; `None`: the pool is another's, its table stays.
    pub(super) data_device: Option<u64>,
    /// The files of a pool that is made of them.
    pub(super) files: Option<Files>,
    /// What the pool does once it can't grow and is full.
    pub(super) when_full: WhenFull,
}

/// Files that grow.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) metadata: GrowingFile,
    pub(super) data: GrowingFile,
    /// Bytes that the data file may grow to.
    pub(super) data_most: u64,
}

/// What was found at the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// Bytes of the data device that the pool can have now, and once its file has grown.
    pub(super) device: u64,
    pub(super) most: u64,
    /// How fast data and metadata fill.
    pub(super) data: Pace,
    pub(super) metadata: Pace,
    /// What is wrong; empty when nothing is.
    pub(super) state: String,
}

/// The thread that watches. Ends when stopped or dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    watch: Arc<Mutex<Watch>>,
    /// Closed to end the thread.
    wake: Mutex<Option<PipeWriter>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Takes a first look, then goes on watching. `ledger` passes on what is to be told.
    pub(super) fn start(
        pool: Arc<Pool>,
        devices: Arc<Devices>,
        growth: Growth,
        ballast: Arc<Ballast>,
        ledger: Arc<dyn PoolLedger>,
    ) -> Result<Self> {
        let failed = |e: io::Error| backend("starting the thread that watches the pool", e);
        let dm = Dm::open().map_err(|e| dm_error("watching the pool", e))?;
        let (ended, wake) = io::pipe().map_err(failed)?;
        let mut watch = Watch::new(pool, devices, growth, Some(ballast));
        watch.look();
        let watch = Arc::new(Mutex::new(watch));
        let thread = std::thread::Builder::new().name("pool-keeper".into());
        let shared = watch.clone();
        let thread = thread.spawn(move || run(&dm, &shared, &*ledger, &ended)).map_err(failed)?;
        Ok(Self { watch, wake: Mutex::new(Some(wake)), thread: Mutex::new(Some(thread)) })
    }

    /// A look now, by who needs room and found none.
    pub(super) fn look(&self) {
        self.watch.lock().look();
    }

    /// What was found last.
    pub(super) fn report(&self) -> Report {
        self.watch.lock().report.clone()
    }

    /// Ends the thread. Twice is fine.
    pub(super) fn stop(&self) {
        // The maker first: what it writes may wait for room that the keeper gives.
        let maker = {
            let mut watch = self.watch.lock();
            watch.ballast = None;
            watch.maker.take()
        };
        if maker.is_some_and(|maker| maker.join().is_err()) {
            tracing::error!("the thread that makes the pool's ballast had panicked");
        }
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

fn run(dm: &Dm, watch: &Mutex<Watch>, ledger: &dyn PoolLedger, ended: &PipeReader) {
    let tell = || {
        let events = std::mem::take(&mut watch.lock().untold);
        events.into_iter().for_each(|event| ledger.tell(event));
    };
    loop {
        // Armed before the look, so that nothing is missed in between.
        let armed = dm.arm();
        let patience = watch.lock().look();
        tell();
        let woken = match armed {
            Ok(()) => poll::readable([ended.as_fd(), dm.control()], patience).map(|w| w[0]),
            Err(_) => poll::readable([ended.as_fd()], patience).map(|w| w[0]),
        };
        match woken {
            Ok(false) => {}
            Ok(true) => return tell(),
            Err(error) => {
                tracing::error!(%error, "the pool is no longer watched");
                return;
            }
        }
    }
}

/// What a look works with.
#[derive(Debug)]
pub(super) struct Watch {
    pool: Arc<Pool>,
    devices: Arc<Devices>,
    growth: Growth,
    ballast: Option<Arc<Ballast>>,
    maker: Option<JoinHandle<()>>,
    data: Samples,
    metadata: Samples,
    /// The highest of [`TOLD`] that was told of.
    told: u64,
    report: Report,
    /// What has happened and readers of events were not told yet.
    untold: Vec<Event>,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Well,
    /// Getting short of something that isn't used up; in words.
    Low(String),
    /// Writers are refused, or stopped; in words.
    Full(String),
    /// The pool is unwell, or can't be asked; in words.
    Failed(String),
}

impl State {
    fn words(self) -> String {
        match self {
            Self::Well => String::new(),
            Self::Low(words) | Self::Full(words) | Self::Failed(words) => words,
        }
    }

    fn event(&self) -> Event {
        let (topic, words) = match self {
            Self::Well => return Event::new(Topic::POOL_RECOVER),
            Self::Low(words) => (Topic::POOL_LOW, words),
            Self::Full(words) => (Topic::POOL_FULL, words),
            Self::Failed(words) => (Topic::POOL_FAIL, words),
        };
        Event::new(topic).with("reason", words)
    }
}

impl Watch {
    pub(super) fn new(
        pool: Arc<Pool>,
        devices: Arc<Devices>,
        growth: Growth,
        ballast: Option<Arc<Ballast>>,
    ) -> Self {
        let (data, metadata, report, untold) = Default::default();
        Self {
            pool,
            devices,
            growth,
            ballast,
            maker: None,
            data,
            metadata,
            told: 0,
            report,
            untold,
        }
    }

    fn ballast(&self) -> &dyn pool::Ballast {
        match &self.ballast {
            Some(ballast) => &**ballast,
            None => &(),
        }
    }

    /// New ballast for what was spent, by another thread: its write may wait for what this one does.
    fn keep_ballast(&mut self, status: &PoolStatus) {
        let Some(ballast) = self.ballast.clone().filter(|ballast| ballast.is_spent()) else {
            return;
        };
        let busy = self.maker.as_ref().is_some_and(|maker| !maker.is_finished());
        if busy || status.mode != PoolMode::ReadWrite {
            return;
        }
        let maker = std::thread::Builder::new().name("pool-ballast".into());
        match maker.spawn(move || ballast.keep()) {
            Ok(maker) => self.maker = Some(maker),
            Err(error) => tracing::warn!(%error, "no thread for the pool's ballast"),
        }
    }

    /// Looks, and does what is due; how long the next look may wait.
    fn look(&mut self) -> Duration {
        let outcome = match self.pool.status() {
            Ok(status) => self.act_on(status),
            Err(error) => Err(pool_error("reading the pool's status", error)),
        };
        let (state, patience) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                (State::Failed(format!("{error}{}", cause.unwrap_or_default())), LOOK)
            }
        };
        self.say(state);
        patience
    }

    /// Gives room where it is due; says what is wrong, in words that change only when that does.
    fn act_on(&mut self, mut status: PoolStatus) -> Result<(State, Duration)> {
        if !status.is_healthy() {
            let words = format!("the pool {} is {}", self.pool.name(), status.condition());
            return Ok((State::Failed(words), LOOK));
        }
        self.keep_ballast(&status);
        let metadata_low = status.metadata.free() < status.metadata.total / METADATA_PART;
        let grown = match metadata_low {
            true => self.grow_metadata(),
            false => Ok(false),
        };
        if matches!(grown, Ok(true)) {
            status = self.status()?;
        }
        let lengthened = self.lengthen(&status);
        if matches!(lengthened, Ok(true)) {
            status = self.status()?;
        }
        if status.mode == PoolMode::OutOfDataSpace && status.data.free() > 0 {
            self.wake()?;
            status = self.status()?;
        }
        let at_limit = lengthened.is_err() || room::is_exhausted(&status, self.most_blocks());
        self.sample(&status);
        let promised = if at_limit { self.devices.promised() / self.block() } else { 0 };
        let tight = at_limit
            && (status.mode == PoolMode::OutOfDataSpace || room::is_tight(status.data, promised));
        self.devices.tighten(tight);
        if room::is_critical(status.metadata) {
            self.devices.stop_writers();
        }
        grown?;
        lengthened?;
        let state = self.state(&status, tight, metadata_low);
        let close = at_limit && 4 * status.data.free() < status.data.total
            || room::is_critical(status.metadata);
        Ok((state, if close { CLOSE_LOOK } else { LOOK }))
    }

    fn state(&self, status: &PoolStatus, tight: bool, metadata_low: bool) -> State {
        let name = self.pool.name();
        match () {
            () if room::is_critical(status.metadata) => State::Full(format!(
                "the metadata of the pool {name} is all but full: writing was stopped; remove snapshots or grow it"
            )),
            () if status.mode == PoolMode::OutOfDataSpace => State::Full(format!(
                "the pool {name} is out of data space: remove snapshots or grow it"
            )),
            () if tight => State::Full(format!(
                "the pool {name} is full but for a reserve: snapshots can be read and removed, not grow; remove some or grow the pool"
            )),
            () if metadata_low => State::Low(format!("the pool {name} is low on metadata space")),
            () => State::Well,
        }
    }

    fn status(&self) -> Result<PoolStatus> {
        self.pool.status().map_err(|e| pool_error("reading the pool's status", e))
    }

    fn block(&self) -> u64 {
        self.pool.table().block.bytes()
    }

    /// All the data blocks that there can be for the pool.
    fn most_blocks(&self) -> u64 {
        let most = self.growth.files.as_ref().map_or(0, |files| files.data_most);
        self.growth.data_device.map_or(0, |device| device.max(most)) / self.block()
    }

    fn sample(&mut self, status: &PoolStatus) {
        let (now, block) = (Instant::now(), self.block());
        self.data.add(now, status.data.used * block);
        self.metadata.add(now, status.metadata.used * METADATA_BLOCK);
        let most = self.most_blocks().max(status.data.total) * block;
        let free = most.saturating_sub(status.data.used * block);
        self.report.most = most;
        self.report.device = self.growth.data_device.unwrap_or(0) / block * block;
        self.report.data = self.data.pace(free);
        let metadata = status.metadata.free() * METADATA_BLOCK;
        // A file's is doubled as long as there is room below.
        let more =
            self.growth.files.as_ref().map_or(0, |_| {
                METADATA_MOST.saturating_sub(status.metadata.total * METADATA_BLOCK)
            });
        self.report.metadata = self.metadata.pace(metadata + more);
        self.tell_level(100 * status.data.used * block / most.max(1));
    }

    /// Warns on the way up, once a level.
    fn tell_level(&mut self, percent: u64) {
        let level = TOLD.into_iter().rfind(|&level| percent >= level).unwrap_or(0);
        if level > self.told {
            let (pool, filling) = (self.pool.name(), self.report.data.to_string());
            tracing::warn!(pool, percent, filling, "the pool is getting full");
            let event = Event::new(Topic::POOL_LOW).with("percent", percent);
            self.untold.push(event.with("filling", filling));
        }
        // A little below counts as still there, so that a level isn't told of again and again.
        if level > self.told || percent + 3 < self.told {
            self.told = level;
        }
    }

    /// Whether it grew.
    pub(super) fn grow_metadata(&mut self) -> Result<bool> {
        let Some(files) = &self.growth.files else { return Ok(false) };
        let bytes = files.metadata.len()?;
        let wanted = bytes.saturating_mul(2).min(METADATA_MOST);
        if wanted <= bytes {
            return Ok(false);
        }
        files.metadata.grow_to(wanted)?;
        let table = self.live_table()?;
        let loaded = self.devices.with_pool_suspended(|| self.pool.reload(&table, self.ballast()));
        loaded.map_err(|e| pool_error("growing the pool's metadata", e))?;
        tracing::info!(pool = self.pool.name(), bytes = wanted, "the pool's metadata has grown");
        self.untold.push(grown("metadata", wanted));
        Ok(true)
    }

    /// Gives the pool more data blocks when that is due; a pool that can have no more doesn't let writers
    /// wait for them. Whether it has got some.
    fn lengthen(&mut self, status: &PoolStatus) -> Result<bool> {
        let Some(device) = self.growth.data_device else { return Ok(false) };
        let most = self.most_blocks();
        let mut length = room::length(status, most);
        let starved = status.mode == PoolMode::OutOfDataSpace && length > status.data.total;
        if !room::is_due(status, length) && !starved {
            if room::is_exhausted(status, most) {
                self.settle(status)?;
            }
            return Ok(false);
        }
        if length > device / self.block() {
            let grown = self.grow_file(length * self.block());
            length = length.min(self.growth.data_device.unwrap_or(device) / self.block());
            if length <= status.data.total {
                self.settle(status)?;
                return grown.map(|()| false);
            }
        }
        let when_full = if length < most { WhenFull::Queue } else { self.growth.when_full };
        let mut table = self.live_table()?;
        self.reload(&mut table, status, length, when_full)?;
        tracing::debug!(
            pool = self.pool.name(),
            blocks = length,
            "the pool has got more of its device"
        );
        Ok(true)
    }

    /// A pool that ran out of data while it was being lengthened can stay in that mode although it has room by now:
    /// its writers would wait for the kernel's timeout (60 s), and fail. Suspending and resuming it once more ends
    /// that.
    fn wake(&self) -> Result<()> {
        let table = self.live_table()?;
        let loaded = self.devices.with_pool_suspended(|| self.pool.reload(&table, self.ballast()));
        loaded.map_err(|e| pool_error("resuming a pool that has room again", e))?;
        tracing::info!(
            pool = self.pool.name(),
            "resumed the pool, which had room but didn't use it"
        );
        Ok(())
    }

    /// Nobody waits for what won't come.
    fn settle(&self, status: &PoolStatus) -> Result<()> {
        let mut table = self.live_table()?;
        self.reload(&mut table, status, status.data.total, self.growth.when_full)
    }

    /// Loads the table with this length, unless it is like that already.
    fn reload(
        &self,
        table: &mut PoolTable,
        status: &PoolStatus,
        length: u64,
        when_full: WhenFull,
    ) -> Result<()> {
        let before = table.clone();
        table.length = Sectors(length * table.block.0);
        table.when_full = when_full;
        table.low_water_blocks = match when_full {
            WhenFull::Queue if length < self.most_blocks() => {
                (length - status.data.used.min(length)) / 2
            }
            _ => length / LOW_WATER_PART,
        };
        if (table.length, table.when_full) == (before.length, before.when_full) {
            return Ok(());
        }
        let loaded = self.devices.with_pool_suspended(|| self.pool.reload(table, self.ballast()));
        loaded.map_err(|e| pool_error("growing the pool", e))
    }

    /// Makes the data file at least so large, in steps worth their while.
    fn grow_file(&mut self, least: u64) -> Result<()> {
        let Some(files) = &self.growth.files else { return Ok(()) };
        let bytes = files.data.len()?;
        let wanted = least.max(bytes + (bytes / 4).max(LEAST_STEP)).min(files.data_most);
        if wanted <= bytes {
            return Ok(());
        }
        files.data.grow_to(wanted)?;
        self.growth.data_device = Some(wanted);
        tracing::info!(pool = self.pool.name(), bytes = wanted, "the pool's file has grown");
        self.untold.push(grown("data", wanted));
        Ok(())
    }

    fn live_table(&self) -> Result<PoolTable> {
        self.pool.live_table().map_err(|e| pool_error("looking at the pool", e))
    }

    fn say(&mut self, state: State) {
        let (event, state) = (state.event(), state.words());
        if state == self.report.state {
            return;
        }
        self.untold.push(event);
        let (pool, filling) = (self.pool.name(), self.report.data.to_string());
        match state.is_empty() {
            true => tracing::info!(pool, "the pool has room again"),
            false => tracing::warn!(filling, "{state}"),
        }
        self.report.state = state;
    }
}

fn grown(device: &str, bytes: u64) -> Event {
    Event::new(Topic::POOL_GROW).with("device", device).with("bytes", bytes)
}
