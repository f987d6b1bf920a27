//! Which thin ids may be used, and the witness that pool and store belong together.
//!
//! Ids come from ranges that are reserved durably before their first use, so that any id below
//! `reserved_end` which no record names is garbage by definition. The pool's transaction id rises by
//! one with each start and with each reservation, and record and pool must agree on it:
//!
//! ```text
//!            ledger.move            pool.set_transaction_id            ledger.settle
//!  settled ─────────────▶ moving ───────────────────────────▶ moving ─────────────────▶ settled
//!  t = t                  t+1, pool t                         t+1 = t+1                 t+1 = t+1
//! ```
//! While the record says `moving` the pool may be one behind: a crash is why, and the next start
//! moves it on. A settled record admits no difference: the pool is another one, or one of the two is
//! an older copy ([`Refusal::Witness`]). Every start moves on, so that copies of different runs
//! differ.
//!
//! A blank pool's first transaction id carries the root's identity in its upper bits, so that two
//! young pools don't pass for each other.

use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Refusal, backend, pool_error, refused};
use crate::crashpoint::Step;
use crate::thin::ThinId;
use crate::thin::pool::Pool;
use crate::types::{self, FaultyId};
use crate::volume::{Error, Result};

/// How many ids one durable reservation gives.
pub const RANGE: u32 = 1024;

/// What a ledger may fail with.
pub type LedgerError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the pool's record. Implemented over the metadata store.
pub trait PoolLedger: Send + Sync {
    /// The record as last saved.
    fn load(&self) -> std::result::Result<Option<types::Pool>, LedgerError>;
    /// Replaces the record, as the step that it is; when it returns Ok the record is on stable
    /// storage.
    fn save(&self, pool: &types::Pool, step: Step) -> std::result::Result<(), LedgerError>;
    /// Tells the readers of events, in order. Waits for the disk; never called under a lock.
    fn tell(&self, event: types::Event);
}

/// Hands out thin ids and keeps the pool's record.
pub(super) struct Book {
    ledger: Arc<dyn PoolLedger>,
    /// Held over a save (once in [`RANGE`] ids), never while another volume is worked on.
    state: Mutex<State>,
    /// Strangers in the pool are to be set aside, not refused.
    force: bool,
}

struct State {
    record: types::Pool,
    /// The next id of the range in use; `record.reserved_end` when none is left.
    next: u32,
    /// Ids found free after all 2^24 had been reserved, largest first.
    recycled: Vec<u32>,
    /// Ids that a record may still name although the pool has them no more: not to be recycled
    /// by this process. One bit an id, allocated at the first need.
    taboo: Vec<u64>,
}

impl Book {
    /// Compares the pool with its record, and moves both on: this is a new run. `identity` goes into
    /// the first transaction id of a pool that is new to us; `count` tells how many thin devices it
    /// holds. `force` takes a pool that doesn't match.
    pub(super) fn open(
        ledger: Arc<dyn PoolLedger>,
        pool: &Pool,
        identity: u32,
        count: &dyn Fn() -> Result<usize>,
        force: bool,
    ) -> Result<Self> {
        let record = match load(&*ledger)? {
            Some(record) => witnessed(&*ledger, record, pool, force)?,
            None => adopt(&*ledger, pool, identity, count, force)?,
        };
        let state =
            State { next: record.reserved_end, record, recycled: Vec::new(), taboo: Vec::new() };
        let book = Self { ledger, state: Mutex::new(state), force };
        book.move_on(&mut book.state.lock(), pool, |_| {})?;
        Ok(book)
    }

    /// The record as it stands.
    pub(super) fn record(&self) -> types::Pool {
        self.state.lock().record.clone()
    }

    /// Whether what belongs to nobody here is to be set aside.
    pub(super) fn sets_aside(&self, there_are_strangers: bool) -> bool {
        self.state.lock().record.adopting || (self.force && there_are_strangers)
    }

    /// An id that no thin device has. `existing` lists the pool's ids; only called once all ids have been
    /// reserved.
    pub(super) fn next(
        &self,
        pool: &Pool,
        existing: &dyn Fn() -> Result<Vec<ThinId>>,
    ) -> Result<ThinId> {
        let mut state = self.state.lock();
        loop {
            if state.next == state.record.reserved_end && state.next < ThinId::END {
                self.reserve(&mut state, pool)?;
            }
            let id = match state.next < state.record.reserved_end {
                true => {
                    state.next += 1;
                    state.next - 1
                }
                false => recycle(&mut state, existing)?,
            };
            match ThinId::new(id) {
                Some(thin) if !is_faulty(&state.record, id) => return Ok(thin),
                _ => {}
            }
        }
    }

    fn reserve(&self, state: &mut State, pool: &Pool) -> Result<()> {
        self.move_on(state, pool, |record| {
            record.reserved_end = (record.reserved_end + RANGE).min(ThinId::END);
        })
    }

    /// Moves record and pool to the next transaction, and changes the record on the way:
    ///
    /// 1. the record: moving, with the change;
    /// 2. the pool;
    /// 3. the record: settled.
    ///
    /// After a crash before 1 nothing has happened; after one before 3 the next start finishes it.
    /// What failed half-way is finished here first.
    fn move_on(
        &self,
        state: &mut State,
        pool: &Pool,
        edit: impl FnOnce(&mut types::Pool),
    ) -> Result<()> {
        self.catch_up(state, pool)?;
        let mut record = state.record.clone();
        edit(&mut record);
        record.transaction_id += 1;
        record.settled = false;
        self.save(state, record, Step::LedgerMove)?;
        self.catch_up(state, pool)
    }

    fn catch_up(&self, state: &mut State, pool: &Pool) -> Result<()> {
        match catch_up(&*self.ledger, state.record.clone(), pool) {
            Ok(record) => state.record = record,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Never to be used again, nor to be deleted before an operator asks for it.
    pub(super) fn set_aside(
        &self,
        faulty: impl IntoIterator<Item = (ThinId, String)>,
    ) -> Result<()> {
        let faulty = faulty.into_iter().map(|(thin, why)| FaultyId { thin_id: thin.get(), why });
        self.change(|record| record.faulty.extend(faulty))
    }

    /// A forced adoption is complete: these are set aside, and no id of theirs is ever given out.
    pub(super) fn adopted(&self, strangers: Vec<(ThinId, String)>) -> Result<()> {
        let beyond = strangers.iter().map(|(thin, _)| thin.get() + 1).max().unwrap_or(0);
        let mut state = self.state.lock();
        let mut record = state.record.clone();
        record.reserved_end = record.reserved_end.max(beyond);
        record.adopting = false;
        let faulty = strangers.into_iter().map(|(thin, why)| FaultyId { thin_id: thin.get(), why });
        record.faulty.extend(faulty);
        self.save(&mut state, record, Step::LedgerChange)?;
        state.next = state.record.reserved_end;
        Ok(())
    }

    /// Changes the record and saves it.
    pub(super) fn change(&self, edit: impl FnOnce(&mut types::Pool)) -> Result<()> {
        let mut state = self.state.lock();
        let mut record = state.record.clone();
        edit(&mut record);
        self.save(&mut state, record, Step::LedgerChange)
    }

    fn save(&self, state: &mut State, record: types::Pool, step: Step) -> Result<()> {
        state.record = save(&*self.ledger, record, step)?;
        Ok(())
    }

    /// A record names this id, or did a moment ago: it is not recycled before the next start.
    pub(super) fn keep_out(&self, thin: ThinId) {
        let mut state = self.state.lock();
        state.taboo.resize(ThinId::END as usize / 64, 0);
        state.taboo[thin.get() as usize / 64] |= 1 << (thin.get() % 64);
    }
}

fn is_faulty(record: &types::Pool, id: u32) -> bool {
    record.faulty.iter().any(|faulty| faulty.thin_id == id)
}

/// Takes one of the ids that are free in the pool, once no range is left.
fn recycle(state: &mut State, existing: &dyn Fn() -> Result<Vec<ThinId>>) -> Result<u32> {
    if state.recycled.is_empty() {
        let mut used = state.taboo.clone();
        used.resize(ThinId::END as usize / 64, 0);
        for thin in existing()? {
            used[thin.get() as usize / 64] |= 1 << (thin.get() % 64);
        }
        let free = |id: &u32| used[*id as usize / 64] & (1 << (id % 64)) == 0;
        // One range's worth: ids taken from it are in the pool, or taboo, at the next look.
        state.recycled = (0..ThinId::END).filter(free).take(RANGE as usize).collect();
        state.recycled.reverse();
        for &id in &state.recycled {
            state.taboo.resize(ThinId::END as usize / 64, 0);
            state.taboo[id as usize / 64] |= 1 << (id % 64);
        }
    }
    state.recycled.pop().ok_or_else(|| {
        Error::NoSpace("all 16,777,216 thin ids of the pool are taken; remove snapshots".to_owned())
    })
}

fn load(ledger: &dyn PoolLedger) -> Result<Option<types::Pool>> {
    ledger.load().map_err(|source| Error::Backend {
        context: "loading the pool's record".to_owned(),
        source,
    })
}

fn save(ledger: &dyn PoolLedger, record: types::Pool, step: Step) -> Result<types::Pool> {
    ledger.save(&record, step).map_err(|source| Error::Backend {
        context: "saving the pool's record".to_owned(),
        source,
    })?;
    Ok(record)
}

/// Pool and record must agree; `force` makes them.
fn witnessed(
    ledger: &dyn PoolLedger,
    record: types::Pool,
    pool: &Pool,
    force: bool,
) -> Result<types::Pool> {
    let found = transaction_id(pool)?;
    if agree(&record, found) || !force {
        return catch_up(ledger, record, pool);
    }
    tracing::warn!(
        pool = pool.name(),
        found,
        expected = record.transaction_id,
        "adopting by force a pool that does not match the metadata store: volumes that it doesn't have are lost, \
         thin devices that no volume names are set aside"
    );
    // Past both, so that neither an older record nor an older pool passes for the other's again. The
    // pool goes first: a crash in between is refused again, and forced again.
    let next = found.max(record.transaction_id) + 1;
    pool.set_transaction_id(found, next)
        .map_err(|e| pool_error("moving the pool's transaction id on", e))?;
    let forced = types::Pool { transaction_id: next, settled: true, adopting: true, ..record };
    save(ledger, forced, Step::LedgerAdopt)
}

/// Whether a pool at this transaction can be the record's.
fn agree(record: &types::Pool, found: u64) -> bool {
    found == record.transaction_id
        || (!record.settled && found.checked_add(1) == Some(record.transaction_id))
}

/// Finishes a move that was interrupted. A pool that isn't the record's is refused.
fn catch_up(ledger: &dyn PoolLedger, record: types::Pool, pool: &Pool) -> Result<types::Pool> {
    let (found, expected) = (transaction_id(pool)?, record.transaction_id);
    if !agree(&record, found) {
        let (pool, settled) = (pool.name().to_owned(), record.settled);
        return refused(Refusal::Witness { pool, found, expected, settled });
    }
    if found != expected {
        pool.set_transaction_id(found, expected)
            .map_err(|e| pool_error("moving the pool's transaction id on", e))?;
    }
    match record.settled {
        true => Ok(record),
        false => save(ledger, types::Pool { settled: true, ..record }, Step::LedgerSettle),
    }
}

/// Takes on a pool that the ledger doesn't know: it must be empty, unless by force. A crash after
/// the message leaves a pool that is still unknown: the next start takes it on again.
fn adopt(
    ledger: &dyn PoolLedger,
    pool: &Pool,
    identity: u32,
    count: &dyn Fn() -> Result<usize>,
    force: bool,
) -> Result<types::Pool> {
    let found = transaction_id(pool)?;
    let count = count()?;
    match (count, force) {
        (0, _) => {}
        (count, false) => {
            return refused(Refusal::Strangers { pool: pool.name().to_owned(), count });
        }
        (count, true) => tracing::warn!(
            pool = pool.name(),
            count,
            "adopting by force a pool that this root knows nothing of: its thin devices are set aside"
        ),
    }
    // Never back to a number that it had: a copy of it would pass for it.
    let transaction_id = if count == 0 { u64::from(identity) << 16 } else { found + 1 };
    pool.set_transaction_id(found, transaction_id)
        .map_err(|e| pool_error("setting the pool's first transaction id", e))?;
    let record = types::Pool {
        transaction_id,
        settled: true,
        adopting: count > 0,
        ..types::Pool::default()
    };
    save(ledger, record, Step::LedgerAdopt)
}

fn transaction_id(pool: &Pool) -> Result<u64> {
    let status = pool.check_healthy().map_err(|e| backend("the thin pool cannot be used", e))?;
    Ok(status.transaction_id)
}
