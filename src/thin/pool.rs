//! Messages to one pool, followed by a look at its status.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::ThinId;
use super::dm::{self, DevNum, Dm};
use super::status::{BadStatus, PoolMode, PoolStatus};
use super::table::{PoolTable, Table};
use crate::crashpoint::Step;

/// A pool that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An ioctl failed.
    #[error(transparent)]
    Dm(#[from] dm::Error),
    /// The status line makes no sense.
    #[error(transparent)]
    Status(#[from] BadStatus),
    /// The pool doesn't take writes of its metadata any more.
    #[error("the pool {pool} is {condition}: {advice}")]
    Unhealthy {
        /// The pool's name.
        pool: String,
        /// Mode and needs_check, in the kernel's words.
        condition: String,
        /// What an operator can do.
        advice: &'static str,
    },
    /// There is no such pool.
    #[error("there is no thin-pool {0}")]
    NoPool(String),
    /// Reserving a metadata snapshot succeeded but the status shows none.
    #[error("the pool {0} shows no metadata snapshot after reserving one")]
    NoHeldRoot(String),
}

impl Error {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Dm(e) => e.errno(),
            Error::Status(_)
            | Error::Unhealthy { .. }
            | Error::NoPool(_)
            | Error::NoHeldRoot(_) => None,
        }
    }

    /// `create_*`: a thin device with this id exists.
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// `create_snap` or `delete`: no thin device with this id (or no such origin).
    pub fn missing(&self) -> bool {
        self.errno() == Some(libc::ENODATA)
    }

    /// `delete`: the thin device is active.
    pub fn busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// The pool's metadata is full.
    pub fn no_space(&self) -> bool {
        self.errno() == Some(libc::ENOSPC)
    }
}

/// The result of a message to a pool.
pub type Result<T> = std::result::Result<T, Error>;

/// Where a pool's messages go: device-mapper, or, for tests of crashes, a simulation with the
/// kernel's semantics.
pub trait Target: Send + Sync + fmt::Debug {
    /// Sends a message to the pool, as the step that it is.
    fn message(&self, pool: &str, step: Step, text: &str) -> dm::Result<()>;
    /// Its status line.
    fn status(&self, pool: &str) -> dm::Result<String>;
    /// Its live table.
    fn table(&self, pool: &str) -> dm::Result<Option<Table>>;
    /// Replaces its table.
    fn reload(&self, pool: &str, table: &Table) -> dm::Result<()>;
}

impl Target for Dm {
    fn message(&self, pool: &str, step: Step, text: &str) -> dm::Result<()> {
        Dm::message(self, pool, step, text)
    }

    fn status(&self, pool: &str) -> dm::Result<String> {
        Dm::status(self, pool)
    }

    fn table(&self, pool: &str) -> dm::Result<Option<Table>> {
        Dm::table(self, pool)
    }

    fn reload(&self, pool: &str, table: &Table) -> dm::Result<()> {
        Dm::reload(self, pool, table)
    }
}

/// How long a reload may take before somebody looks whether it hangs.
const HANGING: Duration = Duration::from_millis(300);

/// Thin devices that are there to be deleted when blocks are needed at once.
pub trait Ballast: Sync {
    /// One that is inactive and has blocks of its own.
    fn take(&self) -> Option<ThinId>;
}

/// No ballast at all.
impl Ballast for () {
    fn take(&self) -> Option<ThinId> {
        None
    }
}

/// Whether something is over.
#[derive(Default)]
struct Done(Mutex<bool>, Condvar);

impl Done {
    fn tell(&self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }

    /// Waits for it, so long at most.
    fn within(&self, patience: Duration) -> bool {
        let mut done = self.0.lock();
        self.1.wait_while_for(&mut done, |done| !*done, patience);
        *done
    }
}

/// A live thin-pool. A message that returned Ok is durable: the status was read again after it.
#[derive(Debug)]
pub struct Pool {
    target: Arc<dyn Target>,
    name: String,
    number: DevNum,
    table: PoolTable,
    /// Some messages at a time, together with the look at the status that follows them. Last in the
    /// order of locks; never held over a mount, a mkfs or an fsync.
    turn: Mutex<()>,
    /// The pool has one metadata snapshot: who reserves it holds this until it is released.
    snapshot: Mutex<()>,
}

impl Pool {
    /// The live pool called `name`.
    pub fn open(dm: Arc<Dm>, name: &str) -> Result<Self> {
        let number = dm.info(name)?.ok_or_else(|| Error::NoPool(name.to_owned()))?.number;
        Self::on(dm, name, number)
    }

    /// The live pool called `name` of this target.
    pub fn on(target: Arc<dyn Target>, name: &str, number: DevNum) -> Result<Self> {
        let missing = || Error::NoPool(name.to_owned());
        let table = target.table(name)?.as_ref().and_then(PoolTable::parse).ok_or_else(missing)?;
        let (turn, snapshot) = (Mutex::new(()), Mutex::new(()));
        Ok(Self { target, name: name.to_owned(), number, table, turn, snapshot })
    }

    /// Its device-mapper name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its device number.
    pub fn number(&self) -> DevNum {
        self.number
    }

    /// Its table as of when it was opened.
    pub fn table(&self) -> &PoolTable {
        &self.table
    }

    /// Its state now, without making it write.
    pub fn status(&self) -> Result<PoolStatus> {
        Ok(PoolStatus::parse(&self.target.status(&self.name)?)?)
    }

    /// Makes an empty thin device.
    pub fn create_thin(&self, id: ThinId) -> Result<()> {
        self.message(Step::CreateThin, &format!("create_thin {id}"))
    }

    /// Makes a thin device with the blocks that `origin` has now. The kernel doesn't ask whether
    /// `origin` is being written: the caller has seen to that.
    pub fn create_snap(&self, id: ThinId, origin: ThinId) -> Result<()> {
        self.message(Step::CreateSnap, &format!("create_snap {id} {origin}"))
    }

    /// [`create_snap`](Self::create_snap) for each of these pairs of a new id and its origin, with one look at the status
    /// for all.
    pub fn create_snaps(&self, pairs: &[(ThinId, ThinId)]) -> Vec<Result<()>> {
        let text = |(id, origin): &(ThinId, ThinId)| format!("create_snap {id} {origin}");
        self.messages(Step::CreateSnap, &pairs.iter().map(text).collect::<Vec<_>>())
    }

    /// Deletes an inactive thin device.
    pub fn delete(&self, id: ThinId) -> Result<()> {
        self.message(Step::Delete, &format!("delete {id}"))
    }

    /// Moves the transaction id from `from` to `to`; EINVAL if it isn't `from`.
    pub fn set_transaction_id(&self, from: u64, to: u64) -> Result<()> {
        self.message(Step::SetTransactionId, &format!("set_transaction_id {from} {to}"))
    }

    /// Reserves the pool's metadata snapshot, waiting for whoever in this process has it.
    pub fn reserve_metadata_snapshot(&self) -> Result<HeldRoot<'_>> {
        let turn = self.snapshot.lock();
        self.message(Step::ReserveSnapshot, "reserve_metadata_snap")?;
        match self.status()?.held_root {
            Some(block) => Ok(HeldRoot { pool: self, block, _turn: turn }),
            None => Err(Error::NoHeldRoot(self.name.clone())),
        }
    }

    /// Releases a metadata snapshot that an earlier process left reserved.
    pub fn release_stale_metadata_snapshot(&self) -> Result<()> {
        let _turn = self.snapshot.lock();
        if self.status()?.held_root.is_some() {
            tracing::info!(
                pool = self.name,
                "releasing a metadata snapshot that was left reserved"
            );
            self.message(Step::ReleaseSnapshot, "release_metadata_snap")?;
        }
        Ok(())
    }

    /// Its table now.
    pub fn live_table(&self) -> Result<PoolTable> {
        let table = self.target.table(&self.name)?.as_ref().and_then(PoolTable::parse);
        table.ok_or_else(|| Error::NoPool(self.name.clone()))
    }

    /// Loads the table anew: the pool takes over devices that have grown. Writers wait meanwhile. Where that hangs
    /// because the pool is out of data, an inactive thin device that `ballast` names is deleted: its blocks are
    /// free then, and that ends it.
    pub fn reload(&self, table: &PoolTable, ballast: &dyn Ballast) -> Result<()> {
        let _turn = self.turn.lock();
        let done = Done::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.within(HANGING) {
                    self.relieve(ballast);
                }
            });
            let reloaded = self.target.reload(&self.name, &table.table());
            done.tell();
            reloaded
        })?;
        self.check_healthy().map(drop)
    }

    /// Frees some blocks of a pool that has none. Called beside a reload, which holds the turn.
    fn relieve(&self, ballast: &dyn Ballast) {
        if !self.status().is_ok_and(|status| status.mode == PoolMode::OutOfDataSpace) {
            return;
        }
        let Some(thin) = ballast.take() else { return };
        let deleted = self.target.message(&self.name, Step::Delete, &format!("delete {thin}"));
        tracing::warn!(
            pool = self.name,
            %thin,
            ?deleted,
            "the pool can't be suspended: a write waits for a block; gave up ballast to free one"
        );
    }

    /// Fails unless the pool takes messages and makes them durable.
    pub fn check_healthy(&self) -> Result<PoolStatus> {
        let status = self.status()?;
        if status.is_healthy() {
            return Ok(status);
        }
        Err(Error::Unhealthy {
            pool: self.name.clone(),
            condition: status.condition(),
            advice: ADVICE,
        })
    }

    fn message(&self, step: Step, text: &str) -> Result<()> {
        let mut sent = self.messages(step, &[text]);
        sent.pop().expect("one message has one outcome")
    }

    /// Sends them one after the other. The look at the status that follows is for all of them: a pool whose metadata the
    /// kernel could not commit is stopped, and stays so ([`Pool::reload`] has its turn here, too).
    fn messages(&self, step: Step, texts: &[impl AsRef<str>]) -> Vec<Result<()>> {
        let _turn = self.turn.lock();
        let send = |text: &str| self.target.message(&self.name, step, text);
        let sent: Vec<_> = texts.iter().map(|text| send(text.as_ref())).collect();
        let proven = sent.iter().any(needs_proof) && self.check_healthy().is_ok();
        let outcome = |sent: dm::Result<()>| {
            if needs_proof(&sent) && !proven {
                self.check_healthy()?;
            }
            Ok(sent?)
        };
        sent.into_iter().map(outcome).collect()
    }
}

/// Whether only the status tells what became of a message: the kernel answers EOPNOTSUPP for a pool that it has stopped.
fn needs_proof(sent: &dm::Result<()>) -> bool {
    sent.as_ref().err().is_none_or(|error| error.errno() == Some(libc::EOPNOTSUPP))
}

/// What to do about a pool that the kernel has stopped.
const ADVICE: &str = "its metadata could not be written, or is full (see the kernel log). See to its device, then stop thinfs \
     and start it again: the start has thin_check look at the metadata, and goes on if it is whole. Of a pool that thinfs did \
     not make: take it down, run thin_check --clear-needs-check-flag on its metadata, make it again";

/// The pool's metadata snapshot, reserved. Released when dropped.
#[derive(Debug)]
pub struct HeldRoot<'a> {
    pool: &'a Pool,
    block: u64,
    _turn: parking_lot::MutexGuard<'a, ()>,
}

impl HeldRoot<'_> {
    /// The metadata block that holds the snapshot's superblock.
    pub fn block(&self) -> u64 {
        self.block
    }
}

impl Drop for HeldRoot<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.pool.message(Step::ReleaseSnapshot, "release_metadata_snap") {
            tracing::warn!(pool = self.pool.name, %error, "the metadata snapshot could not be released");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::thin::Sectors;
    use crate::thin::simulated::Simulated;

    /// Out of data until something is deleted; a reload hangs as long. Only the kernel does this for real: see
    /// `in_guest_a_small_pool_gets_longer_under_a_writer_who_is_always_ahead_of_it`.
    #[derive(Debug, Default)]
    struct Hanging {
        deleted: Mutex<Vec<String>>,
        freed: Condvar,
    }

    impl Target for Hanging {
        fn message(&self, _: &str, _: Step, text: &str) -> dm::Result<()> {
            self.deleted.lock().push(text.to_owned());
            self.freed.notify_all();
            Ok(())
        }

        fn status(&self, _: &str) -> dm::Result<String> {
            let mode = if self.deleted.lock().is_empty() { "out_of_data_space" } else { "rw" };
            Ok(format!("1 20/4096 83/83 - {mode} discard_passdown queue_if_no_space - 1024"))
        }

        fn table(&self, _: &str) -> dm::Result<Option<Table>> {
            Ok(Some(Table::new(
                Sectors(83 * 128),
                "thin-pool",
                "7:0 7:1 128 40 1 skip_block_zeroing",
            )))
        }

        fn reload(&self, _: &str, _: &Table) -> dm::Result<()> {
            let mut deleted = self.deleted.lock();
            self.freed.wait_while(&mut deleted, |deleted| deleted.is_empty());
            Ok(())
        }
    }

    /// Two pieces.
    struct Two(Mutex<Vec<u32>>);

    impl Ballast for Two {
        fn take(&self) -> Option<ThinId> {
            self.0.lock().pop().and_then(ThinId::new)
        }
    }

    /// Counts the looks at the status.
    #[derive(Debug)]
    struct Watched(Arc<Simulated>, AtomicUsize);

    impl Target for Watched {
        fn message(&self, pool: &str, step: Step, text: &str) -> dm::Result<()> {
            self.0.message(pool, step, text)
        }

        fn status(&self, pool: &str) -> dm::Result<String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.status(pool)
        }

        fn table(&self, pool: &str) -> dm::Result<Option<Table>> {
            self.0.table(pool)
        }

        fn reload(&self, pool: &str, table: &Table) -> dm::Result<()> {
            Target::reload(&*self.0, pool, table)
        }
    }

    fn watched() -> (Pool, Arc<Watched>) {
        let target = Arc::new(Watched(Arc::default(), AtomicUsize::new(0)));
        let number = DevNum { major: 254, minor: 0 };
        (Pool::on(target.clone(), "pool", number).unwrap(), target)
    }

    fn pairs(pairs: &[(u32, u32)]) -> Vec<(ThinId, ThinId)> {
        let thin = |id: u32| ThinId::new(id).unwrap();
        pairs.iter().map(|&(id, origin)| (thin(id), thin(origin))).collect()
    }

    #[test]
    fn one_look_proves_many_messages_and_each_has_an_outcome_of_its_own() {
        let (pool, target) = watched();
        pool.create_thin(ThinId::new(0).unwrap()).unwrap();
        let before = target.1.load(Ordering::Relaxed);
        let made = pool.create_snaps(&pairs(&[(1, 0), (2, 9), (1, 0), (3, 1)]));
        assert_eq!(target.1.load(Ordering::Relaxed), before + 1);
        assert!(made[0].is_ok() && made[3].is_ok(), "{made:?}");
        assert!(made[1].as_ref().is_err_and(Error::missing), "{made:?}");
        assert!(made[2].as_ref().is_err_and(Error::already_exists), "{made:?}");
        assert_eq!(target.0.thins(), [0, 1, 3]);
        assert!(pool.create_snaps(&[]).is_empty());
    }

    /// Which commit failed can't be told; the kernel has gone back to the one before.
    #[test]
    fn none_of_many_messages_counts_when_one_commit_has_failed() {
        let (pool, target) = watched();
        pool.create_thin(ThinId::new(0).unwrap()).unwrap();
        target.0.next_commit_fails();
        let made = pool.create_snaps(&pairs(&[(1, 0), (2, 0)]));
        let unhealthy = |made: &Result<()>| matches!(made, Err(Error::Unhealthy { .. }));
        assert!(made.iter().all(unhealthy), "{made:?}");
        assert_eq!(target.0.thins(), [0]);
    }

    #[test]
    fn a_reload_that_hangs_for_want_of_a_block_is_ended_by_one_piece_of_ballast() {
        let target = Arc::new(Hanging::default());
        let number = DevNum { major: 254, minor: 0 };
        let pool = Pool::on(target.clone(), "pool", number).unwrap();
        let ballast = Two(Mutex::new(vec![5, 7]));
        pool.reload(pool.table(), &ballast).unwrap();
        assert_eq!(*target.deleted.lock(), ["delete 7"]);
        assert_eq!(*ballast.0.lock(), [5], "no more than needed");
    }
}
