//! A thin-pool in memory with the kernel's semantics, for tests of crashes.
//!
//! What `dm-thin.c` and `dm-thin-metadata.c` do is done here, as far as messages tell: each message
//! that succeeds is followed by a commit of the metadata whose failure the message does not report
//! (the pool turns read-only and falls back to what was committed); what is written to a thin device
//! is on the disk only with the next commit; a power cut leaves what was committed; a killed process
//! leaves the pool as it is, the metadata snapshot and active thin devices included.
//!
//! [`Machine`] decides when everything stops: each message counts, and each write of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use parking_lot::Mutex;

use super::dm;
use super::pool::Target;
use super::table::Table;
use super::{Sectors, ThinId};
use crate::crashpoint::Step;

/// Blocks of metadata that each thin device takes here.
const BLOCKS_A_THIN: u64 = 2;
/// Blocks of metadata in all.
const METADATA_BLOCKS: u64 = 4096;

/// The machine that everything runs on: it can be told to die after so many half-steps.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Half-steps to live; a step takes two, one before its effect and one after.
    left: AtomicI64,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is made.
    Made,
    /// It is made, but nobody hears of it: the machine has died just after.
    MadeUnheard,
    /// The machine is dead.
    Dead,
}

impl Default for Machine {
    fn default() -> Self {
        Self { left: AtomicI64::new(i64::MAX) }
    }
}

impl Machine {
    /// It dies within the next steps; without a number it lives on.
    pub(crate) fn arm(&self, half_steps: Option<u16>) {
        self.left.store(half_steps.map_or(i64::MAX, i64::from), SeqCst);
    }

    /// The same, unless it is dead already: then nothing changes, and this is false.
    pub(crate) fn doom(&self, half_steps: u16) -> bool {
        let later = |left| (left > 0).then_some(i64::from(half_steps));
        self.left.fetch_update(SeqCst, SeqCst, later).is_ok()
    }

    /// One step more.
    pub(crate) fn step(&self) -> Fate {
        match self.left.fetch_sub(2, SeqCst) {
            left if left > 1 => Fate::Made,
            1 => Fate::MadeUnheard,
            _ => Fate::Dead,
        }
    }

    /// Whether nothing is done any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.left.load(SeqCst) <= 0
    }
}

/// What a thin device holds: names of things written to it.
pub(crate) type Content = BTreeSet<u32>;

/// The pool's metadata, with the data that it maps.
#[derive(Debug, Clone, Default)]
struct Metadata {
    transaction_id: u64,
    thins: BTreeMap<u32, Content>,
    held: Option<BTreeSet<u32>>,
}

impl Metadata {
    fn used(&self) -> u64 {
        BLOCKS_A_THIN * self.thins.len() as u64 + 8
    }
}

#[derive(Debug, Default)]
struct State {
    /// In the kernel.
    now: Metadata,
    /// On the disk.
    committed: Metadata,
    /// Active thin devices, with what their filesystems have not written back.
    active: BTreeMap<u32, Content>,
    read_only: bool,
    needs_check: bool,
    commit_fails: bool,
    metadata_blocks: Option<u64>,
}

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Simulated {
    machine: Arc<Machine>,
    state: Mutex<State>,
}

impl Simulated {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, ..Self::default() }
    }

    /// The process was killed: filesystems are unmounted, all else is as it was.
    pub(crate) fn process_killed(&self) {
        let mut state = self.state.lock();
        let active: Vec<_> = state.active.keys().copied().collect();
        for thin in active {
            state.write_back(thin);
        }
        state.active.clear();
        state.commit_fails = false;
    }

    /// The power went and came back: what was committed is there, and no more.
    pub(crate) fn power_cut(&self) {
        let mut state = self.state.lock();
        state.now = state.committed.clone();
        state.active.clear();
        state.read_only = state.needs_check;
        state.commit_fails = false;
    }

    /// The next commit of the metadata fails.
    pub(crate) fn next_commit_fails(&self) {
        self.state.lock().commit_fails = true;
    }

    /// Whether the pool is read-only until somebody has checked it.
    pub(crate) fn needs_check(&self) -> bool {
        self.state.lock().needs_check
    }

    /// What an operator does about it: takes the pool down, checks and repairs it, loads it anew.
    pub(crate) fn repair(&self) {
        let mut state = self.state.lock();
        state.needs_check = false;
        drop(state);
        self.power_cut();
    }

    /// Leaves so many metadata blocks in all.
    pub(crate) fn set_metadata_blocks(&self, blocks: Option<u64>) {
        self.state.lock().metadata_blocks = blocks;
    }

    /// Brings the metadata device back as it was at `earlier`.
    pub(crate) fn restore(&self, earlier: &Simulated) {
        let earlier = earlier.state.lock().committed.clone();
        let mut state = self.state.lock();
        (state.now, state.committed) = (earlier.clone(), earlier);
        state.active.clear();
    }

    /// A copy of the metadata device.
    pub(crate) fn copy(&self) -> Simulated {
        let copy = Simulated::default();
        copy.state.lock().committed = self.state.lock().committed.clone();
        copy
    }

    /// Makes a thin device active.
    pub(crate) fn activate(&self, thin: ThinId) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.now.thins.contains_key(&thin.get()) {
            return Err(io::Error::from_raw_os_error(libc::ENODATA));
        }
        state.active.entry(thin.get()).or_default();
        Ok(())
    }

    /// Unmounts, which writes back, and makes inactive.
    pub(crate) fn deactivate(&self, thin: ThinId) {
        if !self.machine.is_dead() {
            let mut state = self.state.lock();
            state.write_back(thin.get());
            state.active.remove(&thin.get());
        }
    }

    /// Writes into the filesystem; nothing of it is on the disk yet.
    pub(crate) fn write(&self, thin: ThinId, what: u32) {
        self.state.lock().active.entry(thin.get()).or_default().insert(what);
    }

    /// Writes a filesystem back and flushes the device, which commits the metadata.
    pub(crate) fn flush(&self, thin: ThinId) -> io::Result<()> {
        let fate = self.machine.step();
        let mut state = self.state.lock();
        if fate == Fate::Dead || state.read_only {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        state.write_back(thin.get());
        let committed = state.commit();
        match (fate, committed) {
            (Fate::Made, true) => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    /// What a thin device holds, as who mounts it would see.
    pub(crate) fn content(&self, thin: ThinId) -> Option<Content> {
        let state = self.state.lock();
        let dirty = state.active.get(&thin.get()).cloned().unwrap_or_default();
        state.now.thins.get(&thin.get()).map(|content| content | &dirty)
    }

    /// The thin devices in the metadata snapshot.
    pub(crate) fn held(&self) -> Option<Vec<ThinId>> {
        let state = self.state.lock();
        Some(state.now.held.as_ref()?.iter().copied().filter_map(ThinId::new).collect())
    }

    /// All thin devices.
    pub(crate) fn thins(&self) -> Vec<u32> {
        self.state.lock().now.thins.keys().copied().collect()
    }
}

impl State {
    fn write_back(&mut self, thin: u32) {
        let dirty = self.active.get_mut(&thin).map(std::mem::take).unwrap_or_default();
        if let Some(content) = self.now.thins.get_mut(&thin) {
            content.extend(dirty);
        }
    }

    /// Whether it worked; the kernel keeps that to itself.
    fn commit(&mut self) -> bool {
        if std::mem::take(&mut self.commit_fails) {
            self.now = self.committed.clone();
            (self.read_only, self.needs_check) = (true, true);
            return false;
        }
        self.committed = self.now.clone();
        true
    }

    fn blocks(&self) -> u64 {
        self.metadata_blocks.unwrap_or(METADATA_BLOCKS)
    }

    fn room(&mut self) -> Result<(), i32> {
        if self.now.used() + BLOCKS_A_THIN <= self.blocks() {
            return Ok(());
        }
        (self.read_only, self.needs_check) = (true, true);
        Err(libc::ENOSPC)
    }

    fn message(&mut self, text: &str) -> Result<(), i32> {
        if self.read_only {
            return Err(libc::EOPNOTSUPP);
        }
        let words: Vec<_> = text.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().map_err(|_| libc::EINVAL);
        let thin = |at: usize| match number(at)?.try_into() {
            Ok(id) if id < ThinId::END => Ok::<u32, i32>(id),
            _ => Err(libc::EINVAL),
        };
        match words[0] {
            "create_thin" => self.create(thin(1)?, Content::new())?,
            "create_snap" => {
                let origin = self.now.thins.get(&thin(2)?).cloned();
                self.create(thin(1)?, origin.ok_or(libc::ENODATA)?)?;
            }
            "delete" if self.active.contains_key(&thin(1)?) => return Err(libc::EBUSY),
            "delete" => drop(self.now.thins.remove(&thin(1)?).ok_or(libc::ENODATA)?),
            "set_transaction_id" if self.now.transaction_id != number(1)? => {
                return Err(libc::EINVAL);
            }
            "set_transaction_id" => self.now.transaction_id = number(2)?,
            "reserve_metadata_snap" if self.now.held.is_some() => return Err(libc::EBUSY),
            "reserve_metadata_snap" => {
                self.now.held = Some(self.now.thins.keys().copied().collect());
            }
            "release_metadata_snap" => drop(self.now.held.take().ok_or(libc::EINVAL)?),
            _ => return Err(libc::EINVAL),
        }
        self.commit();
        Ok(())
    }

    fn create(&mut self, thin: u32, content: Content) -> Result<(), i32> {
        if self.now.thins.contains_key(&thin) {
            return Err(libc::EEXIST);
        }
        self.room()?;
        self.now.thins.insert(thin, content);
        Ok(())
    }
}

impl Target for Simulated {
    fn message(&self, pool: &str, _: Step, text: &str) -> dm::Result<()> {
        let failed = |errno| dm::Error::Ioctl {
            action: format!("sending {text:?} to"),
            device: pool.to_owned(),
            source: io::Error::from_raw_os_error(errno),
        };
        match self.machine.step() {
            Fate::Dead => Err(failed(libc::EIO)),
            Fate::MadeUnheard => {
                let _ = self.state.lock().message(text);
                Err(failed(libc::EIO))
            }
            Fate::Made => self.state.lock().message(text).map_err(failed),
        }
    }

    fn status(&self, _: &str) -> dm::Result<String> {
        let state = self.state.lock();
        Ok(format!(
            "{} {}/{} 0/1000000 {} {} no_discard_passdown error_if_no_space {} 1024",
            state.now.transaction_id,
            state.now.used().min(state.blocks()),
            state.blocks(),
            state.now.held.as_ref().map_or("-", |_| "77"),
            if state.read_only { "ro" } else { "rw" },
            if state.needs_check { "needs_check" } else { "-" },
        ))
    }

    fn table(&self, _: &str) -> dm::Result<Option<Table>> {
        let parameters = "7:0 7:1 128 16 2 skip_block_zeroing error_if_no_space";
        Ok(Some(Table::new(Sectors(128_000_000), "thin-pool", parameters)))
    }

    fn reload(&self, _: &str, _: &Table) -> dm::Result<()> {
        Ok(())
    }
}

/// Messages to a fresh pool, in order, and the errno of each.
#[rustfmt::skip]
pub(crate) const MESSAGES: &[(&str, Option<i32>)] = &[
    ("create_thin 0", None),
    ("create_thin 0", Some(libc::EEXIST)),
    ("create_thin 16777216", Some(libc::EINVAL)),
    ("create_snap 1 0", None),
    ("create_snap 1 0", Some(libc::EEXIST)),
    ("create_snap 2 9", Some(libc::ENODATA)),
    ("delete 9", Some(libc::ENODATA)),
    ("set_transaction_id 5 6", Some(libc::EINVAL)),
    ("set_transaction_id 0 6", None),
    ("set_transaction_id 0 7", Some(libc::EINVAL)),
    ("release_metadata_snap", Some(libc::EINVAL)),
    ("reserve_metadata_snap", None),
    ("reserve_metadata_snap", Some(libc::EBUSY)),
    ("delete 1", None),
    ("release_metadata_snap", None),
    ("delete 1", Some(libc::ENODATA)),
    ("nonsense", Some(libc::EINVAL)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Simulated {
        Simulated::default()
    }

    fn send(pool: &Simulated, text: &str) -> Option<i32> {
        Target::message(pool, "p", Step::CreateThin, text).err().and_then(|e| e.errno())
    }

    /// The same table of messages and answers as the real pool's in
    /// `in_guest_messages_fail_with_the_errno_that_says_why`.
    #[test]
    fn messages_are_answered_as_the_kernel_answers_them() {
        let pool = pool();
        for (text, errno) in MESSAGES {
            assert_eq!(send(&pool, text), *errno, "{text}");
        }
    }

    #[test]
    fn a_commit_that_fails_shows_in_the_status_only() {
        let pool = pool();
        assert_eq!(send(&pool, "create_thin 0"), None);
        pool.next_commit_fails();
        assert_eq!(send(&pool, "create_thin 1"), None);
        assert_eq!(pool.thins(), [0]);
        assert!(Target::status(&pool, "p").unwrap().contains("ro no_discard"));
        assert_eq!(send(&pool, "delete 0"), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_power_cut_loses_what_was_not_flushed_and_a_kill_does_not() {
        let (pool, thin) = (pool(), ThinId::new(0).unwrap());
        send(&pool, "create_thin 0");
        pool.activate(thin).unwrap();
        pool.write(thin, 1);
        pool.flush(thin).unwrap();
        pool.write(thin, 2);
        pool.process_killed();
        assert_eq!(pool.content(thin), Some([1, 2].into()));
        pool.power_cut();
        assert_eq!(pool.content(thin), Some([1].into()));
    }
}
