//! Which thin ids may be used, and the witness that pool and store belong together.
//!
//! Ids come from ranges that are reserved durably before their first use, so that any id below
//! `reserved_end` which no record names is garbage by definition. Each reservation raises the
//! pool's transaction id by one:
//!
//! ```text
//!   ledger (t, end) ──save──▶ ledger (t+1, end+1024) ──set_transaction_id──▶ pool t+1 ──▶ ids in use
//!                            crash here: the pool is one behind; the next start moves it on
//! ```
//! A blank pool's first transaction id carries the root's identity in its upper bits, so that two
//! young pools don't pass for each other.

use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Refusal, backend, pool_error, refused};
use crate::thin::ThinId;
use crate::thin::pool::Pool;
use crate::types;
use crate::volume::{Error, Result};

/// How many ids one durable reservation gives.
pub const RANGE: u32 = 1024;

/// What a ledger may fail with.
pub type LedgerError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the pool's record. Implemented over the metadata store.
pub trait PoolLedger: Send + Sync {
    /// The record as last saved.
    fn load(&self) -> std::result::Result<Option<types::Pool>, LedgerError>;
    /// Replaces the record; when it returns Ok the record is on stable storage.
    fn save(&self, pool: &types::Pool) -> std::result::Result<(), LedgerError>;
}

/// Hands out thin ids and keeps the pool's record.
pub(super) struct Book {
    ledger: Arc<dyn PoolLedger>,
    /// Held over a save (once in [`RANGE`] ids), never while another volume is worked on.
    state: Mutex<State>,
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
    /// Compares the pool with its record. `identity` goes into the first transaction id of a pool that is
    /// new to us; `count` tells how many thin devices it holds.
    pub(super) fn open(
        ledger: Arc<dyn PoolLedger>,
        pool: &Pool,
        identity: u32,
        count: &dyn Fn() -> Result<usize>,
    ) -> Result<Self> {
        let record = match load(&*ledger)? {
            Some(record) => witnessed(record, pool)?,
            None => adopt(&*ledger, pool, identity, count)?,
        };
        let state =
            State { next: record.reserved_end, record, recycled: Vec::new(), taboo: Vec::new() };
        Ok(Self { ledger, state: Mutex::new(state) })
    }

    /// The record as it stands.
    pub(super) fn record(&self) -> types::Pool {
        self.state.lock().record.clone()
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
                Some(thin) if !state.record.faulty.contains(&id) => return Ok(thin),
                _ => {}
            }
        }
    }

    /// Reserves the next range: first the record, then the pool. After a crash between the two the
    /// pool is one behind; after a failure between the two, too, and it is moved on here.
    fn reserve(&self, state: &mut State, pool: &Pool) -> Result<()> {
        catch_up(&state.record, pool)?;
        let mut record = state.record.clone();
        record.transaction_id += 1;
        record.reserved_end = (record.reserved_end + RANGE).min(ThinId::END);
        self.save(state, record)?;
        catch_up(&state.record, pool)
    }

    /// Never to be used again.
    pub(super) fn mark_faulty(&self, thin: ThinId) -> Result<()> {
        self.change(|record| record.faulty.push(thin.get()))
    }

    /// Changes the record and saves it.
    pub(super) fn change(&self, edit: impl FnOnce(&mut types::Pool)) -> Result<()> {
        let mut state = self.state.lock();
        let mut record = state.record.clone();
        edit(&mut record);
        self.save(&mut state, record)
    }

    fn save(&self, state: &mut State, record: types::Pool) -> Result<()> {
        self.ledger.save(&record).map_err(|source| Error::Backend {
            context: "saving the pool's record".to_owned(),
            source,
        })?;
        state.record = record;
        Ok(())
    }

    /// A record names this id, or did a moment ago: it is not recycled before the next start.
    pub(super) fn keep_out(&self, thin: ThinId) {
        let mut state = self.state.lock();
        state.taboo.resize(ThinId::END as usize / 64, 0);
        state.taboo[thin.get() as usize / 64] |= 1 << (thin.get() % 64);
    }
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

/// The pool's transaction id must be the record's, or one behind.
fn witnessed(record: types::Pool, pool: &Pool) -> Result<types::Pool> {
    catch_up(&record, pool)?;
    Ok(record)
}

/// Moves a pool on that is one transaction behind its record. Anything else is refused.
fn catch_up(record: &types::Pool, pool: &Pool) -> Result<()> {
    let status = pool.check_healthy().map_err(|e| backend("the thin pool cannot be used", e))?;
    let (found, expected) = (status.transaction_id, record.transaction_id);
    if found == expected {
        return Ok(());
    }
    if found.checked_add(1) != Some(expected) {
        return refused(Refusal::Witness { pool: pool.name().to_owned(), found, expected });
    }
    pool.set_transaction_id(found, expected)
        .map_err(|e| pool_error("moving the pool's transaction id on", e))
}

/// Takes on a pool that the ledger doesn't know: it must be empty. A crash after the message leaves a pool
/// that is still empty and unknown: the next start takes it on again.
fn adopt(
    ledger: &dyn PoolLedger,
    pool: &Pool,
    identity: u32,
    count: &dyn Fn() -> Result<usize>,
) -> Result<types::Pool> {
    let status = pool.check_healthy().map_err(|e| backend("the thin pool cannot be used", e))?;
    match count()? {
        0 => {}
        count => return refused(Refusal::Strangers { pool: pool.name().to_owned(), count }),
    }
    let transaction_id = u64::from(identity) << 16;
    pool.set_transaction_id(status.transaction_id, transaction_id)
        .map_err(|e| pool_error("setting the pool's first transaction id", e))?;
    let record = types::Pool { transaction_id, ..types::Pool::default() };
    ledger.save(&record).map_err(|source| Error::Backend {
        context: "saving the pool's record".to_owned(),
        source,
    })?;
    Ok(record)
}
