//! Blocks that are there to be freed.
//!
//! A pool that is out of data lets its writers wait; to get more blocks it is suspended, which makes the kernel
//! give back what waits. Some write is missed then: the suspension waits for it (`dm_wait_for_completion`, below
//! `dm_internal_suspend_noflush`; seen on Linux 7.2), it waits for a block, and after `no_space_timeout` (60 s) the
//! kernel answers ENOSPC to all who wait, although the room was there. Presumably `thin_map` had looked at
//! `requeue_mode` before it was set, and went to sleep on the metadata's lock; that is read from the source, not
//! traced.
//!
//! One free block ends it: the pool leaves its mode, looks at who waits again, and gives that write back, too. So there
//! are a few thin devices with a block each, made while there is room, and one of them is deleted when a suspension
//! hangs. They are named in the pool's record, so that no start takes them for garbage.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::devices::Devices;
use super::error::{backend, io, pool_error};
use super::ledger::Book;
use super::provision::Provision;
use super::usage;
use crate::crashpoint::{Step, around};
use crate::sys::direct::{self, Block};
use crate::thin::node::Nodes;
use crate::thin::pool::{self, Pool};
use crate::thin::status::PoolMode;
use crate::thin::{Sectors, ThinId};
use crate::volume::Result;

/// How many suspensions can hang before there is time to make new ones.
const PIECES: usize = 4;
/// Free data blocks that are needed for making one, with room to spare for whoever writes meanwhile.
const ROOM: u64 = 16;

/// What is kept, and with what it is made.
pub(super) struct Ballast {
    pool: Arc<Pool>,
    devices: Arc<Devices>,
    book: Arc<Book>,
    nodes: Nodes,
    /// Reconciliation is over: ids that no record names yet may be in the pool.
    open: AtomicBool,
    /// Thin ids that can be deleted.
    kept: Mutex<Vec<ThinId>>,
    making: Mutex<()>,
    taken: AtomicBool,
}

impl fmt::Debug for Ballast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ballast").field("kept", &*self.kept.lock()).finish_non_exhaustive()
    }
}

impl Ballast {
    /// Nothing yet.
    pub(super) fn new(
        pool: Arc<Pool>,
        devices: Arc<Devices>,
        book: Arc<Book>,
        nodes: Nodes,
    ) -> Self {
        let (open, kept, making, taken) = Default::default();
        Self { pool, devices, book, nodes, open, kept, making, taken }
    }

    /// Reconciliation is over: what the record names is there.
    pub(super) fn open(&self) {
        if !self.open.swap(true, Ordering::AcqRel) {
            let named = self.book.record().ballast;
            *self.kept.lock() = named.into_iter().filter_map(ThinId::new).collect();
        }
    }

    /// Makes what is missing while there is room for it; called by who makes a volume, never by the thread that gives
    /// the pool room: a write may have to wait for that. Best effort: without it, all works but for the hang. Not
    /// at a start: a store that is new must not find a volume that nobody names at the next one.
    pub(super) fn keep(&self) {
        self.open();
        if self.kept.lock().len() >= PIECES {
            return;
        }
        let Some(_one) = self.making.try_lock() else { return };
        if let Err(error) = self.complete() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the pool's ballast could not be made");
        }
    }

    /// The record forgets what was taken. Then each new piece is a thin device, its block, the record; a crash in between
    /// leaves an id that nobody names.
    fn complete(&self) -> Result<()> {
        let kept: Vec<_> = self.kept.lock().iter().map(|thin| thin.get()).collect();
        if self.book.record().ballast.len() > kept.len() {
            self.book.change(|record| record.ballast = kept)?;
        }
        let status =
            self.pool.status().map_err(|e| pool_error("looking for room in the pool", e))?;
        if status.mode != PoolMode::ReadWrite || status.needs_check {
            return Ok(());
        }
        let mut free = status.data.free();
        while self.kept.lock().len() < PIECES && free >= ROOM {
            let Some(thin) = self.make()? else { return Ok(()) };
            self.kept.lock().push(thin);
            free -= 1;
        }
        Ok(())
    }

    fn make(&self) -> Result<Option<ThinId>> {
        let existing =
            || Ok(usage::list(&self.pool, &self.nodes)?.into_iter().map(|thin| thin.id).collect());
        let provision = Provision { pool: &self.pool, book: &self.book, existing: &existing };
        let Some(thin) = provision.create_with(|thin| self.pool.create_thin(thin))? else {
            return Ok(None);
        };
        let size = Sectors(self.pool.table().block.0);
        let filled = self.devices.with_device(thin, size, fill);
        let filled = filled
            .map_err(|e| backend("making the pool's ballast", e))
            .and_then(|filled| filled.map_err(|e| io("writing the pool's ballast", e)));
        if let Err(error) = filled {
            self.devices.undo(&self.pool, thin);
            return Err(error);
        }
        self.book.change(|record| record.ballast.push(thin.get()))?;
        Ok(Some(thin))
    }

    /// Whether some of it was taken.
    pub(super) fn is_spent(&self) -> bool {
        self.taken.load(Ordering::Acquire) && self.kept.lock().len() < PIECES
    }
}

impl pool::Ballast for Ballast {
    fn take(&self) -> Option<ThinId> {
        self.taken.store(true, Ordering::Release);
        self.kept.lock().pop()
    }
}

fn fill(device: &Path) -> std::io::Result<()> {
    around(Step::Ballast, || direct::write(device, 0, &Block::zeroed()))
}
