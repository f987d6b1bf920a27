//! Runs operations on the rules over a simulated pool, lets the machine die, and compares.

use std::ops::ControlFlow;

use super::backend::OnSimulated;
use super::reference::{self, Reference, word};
use super::*;
use crate::daemon::StoreLedger;
use crate::meta::{Store, WriteFault};
use crate::snapshot::{Snapshots, Wish};
use crate::thin::simulated::Fate;
use crate::types::{Kind, Labels, Namespace, SnapshotKey};
use crate::volume::Volumes;

/// Histories that share a store's files: making them takes time, and so do deleted rows in the end.
const FILES_FOR: u64 = 60;

/// One machine: a disk with a pool, a store, and the daemon's inner parts, running.
pub(super) struct World {
    machine: Arc<Machine>,
    sim: Arc<Simulated>,
    store: Option<Arc<Store>>,
    running: Option<Arc<Snapshots>>,
    reference: Reference,
    /// By a power cut, should it die.
    power: bool,
    tokens: u32,
    histories: u64,
    pub(super) crashes: u64,
    pub(super) calls: u64,
    /// Keeps the store's files; last.
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        // In memory: the store's own durability is tested in `meta`.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        Self {
            machine: Arc::default(),
            sim: Arc::default(),
            store: Some(store),
            running: None,
            reference: Reference::new(),
            power: false,
            tokens: 0,
            histories: 0,
            crashes: 0,
            calls: 0,
            _dir: dir,
        }
    }

    /// Another history begins, on an empty pool and an empty store.
    pub(super) fn reset(&mut self) {
        self.stop();
        self.histories += 1;
        if self.histories.is_multiple_of(FILES_FOR) {
            let fresh = World::new();
            (self.store, self._dir) = (fresh.store, fresh._dir);
        }
        self.machine = Arc::default();
        self.sim = Arc::new(Simulated::new(self.machine.clone()));
        self.reference.clear();
        self.store().wipe().unwrap();
        self.revive_store();
        self.start(false).expect("a first start");
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("always open")
    }

    /// Opened anew as far as this process goes: the files stay open, for that is what takes time.
    fn revive_store(&mut self) {
        let mut store = self.store.take().expect("always open");
        let store = loop {
            // A thread of the stopped parts may be about to drop its last reference.
            match Arc::try_unwrap(store) {
                Ok(store) => break store,
                Err(shared) => store = shared,
            }
            std::thread::yield_now();
        };
        let machine = self.machine.clone();
        let store = store.revived(Box::new(move || match machine.step() {
            Fate::Made => None,
            Fate::MadeUnheard => Some(WriteFault::After),
            Fate::Dead => Some(WriteFault::Before),
        }));
        self.store = Some(Arc::new(store.unwrap()));
    }

    pub(super) fn start(&mut self, force: bool) -> std::result::Result<(), String> {
        let ledger = Arc::new(StoreLedger::new(self.store().clone()));
        let backend = OnSimulated::start(&self.sim, ledger, force).map_err(|e| text(&e))?;
        let volumes = Volumes::new(Arc::new(backend), 2);
        let started = Snapshots::start(self.store().clone(), volumes);
        self.running = Some(started.map_err(|e| e.to_string())?.0);
        Ok(())
    }

    pub(super) fn snapshots(&self) -> &Arc<Snapshots> {
        self.running.as_ref().expect("running")
    }

    pub(super) fn sim(&self) -> &Arc<Simulated> {
        &self.sim
    }

    fn stop(&mut self) {
        if let Some(snapshots) = self.running.take() {
            snapshots.close().unwrap();
        }
    }

    /// A kill or a power cut, and a start, which may die as well; then everything is compared.
    /// `unanswered`: the call that was running.
    fn crash(&mut self, power: bool, doom: Option<u16>, unanswered: Option<(Op, u32)>) {
        let mut lost = self.die(power);
        self.machine.arm(doom);
        let started = self.start(false);
        if started.is_ok() && doom.is_some() {
            // Else a reaper thread might die of it later.
            let _ = self.snapshots().cleanup();
        }
        if self.machine.is_dead() {
            lost |= self.die(power);
            self.start(false).expect("the start after one that died");
        } else {
            started.expect("a start");
        }
        self.machine.arm(None);
        self.settle(lost, unanswered);
    }

    /// All ends. Whether what was not flushed is lost.
    fn die(&mut self, power: bool) -> bool {
        self.crashes += 1;
        self.machine.arm(Some(0));
        self.stop();
        let lost = power || self.sim.needs_check();
        if self.sim.needs_check() {
            // What an operator has to do before a start.
            self.sim.repair();
        } else if power {
            self.sim.power_cut();
        } else {
            self.sim.process_killed();
        }
        self.machine.arm(None);
        self.revive_store();
        lost
    }

    pub(super) fn run(&mut self, op: Op) {
        match op {
            Op::Doom { half_steps, power } => {
                if !self.machine.doom(half_steps) {
                    // A reaper thread has died of an earlier one.
                    self.crash(self.power, None, None);
                    self.machine.arm(Some(half_steps));
                }
                self.power = power;
            }
            Op::Restart { power, doom } => self.crash(power, doom, None),
            Op::CommitFails => self.sim.next_commit_fails(),
            _ => self.call(op),
        }
    }

    fn call(&mut self, op: Op) {
        self.tokens += 1;
        let token = self.tokens;
        let Some(then) = reference::after(op, &self.reference, token) else { return };
        self.calls += 1;
        match self.make(op, token) {
            Ok(()) => self.reference = then,
            Err(_) if self.machine.is_dead() => self.crash(self.power, None, Some((op, token))),
            Err(why) => self.commit_has_failed(op, &why),
        }
    }

    /// The pool is read-only since a commit failed: the daemon is stopped, the pool repaired.
    fn commit_has_failed(&mut self, op: Op, why: &str) {
        assert!(self.sim.needs_check(), "{op:?} failed: {why}");
        self.crash(true, None, Some((op, self.tokens)));
    }

    fn make(&self, op: Op, token: u32) -> std::result::Result<(), String> {
        let (rules, ns) = (self.snapshots(), Namespace::default());
        let key = |key: u8| SnapshotKey::new(word(key)).unwrap();
        let failed = |e: crate::snapshot::Error| e.to_string();
        match op {
            Op::Prepare { key: new, parent } => {
                let parent = parent.map(key);
                rules.prepare(&ns, &key(new), parent.as_ref(), Labels::new()).map(drop)
            }
            Op::PrepareTogether { key: first, parent, more } => {
                let parent = Some(key(parent));
                let wish =
                    |new| Wish { key: key(new), parent: parent.clone(), labels: Labels::new() };
                let wishes: Vec<_> = keys(first, more).map(wish).collect();
                let mut granted = rules.prepare_together(&ns, &wishes).into_iter();
                granted.try_for_each(|one| one.expect("nobody else is at work").map(drop))
            }
            Op::View { key: new, parent } => {
                rules.view(&ns, &key(new), Some(&key(parent)), Labels::new()).map(drop)
            }
            Op::Write { key } => {
                let opened = self.thin_of(&word(key)).expect("the reference has it");
                self.sim.activate(opened).map_err(|e| e.to_string())?;
                self.sim.write(opened, token);
                Ok(())
            }
            Op::Commit { key: from, name } => {
                rules.commit(&ns, &key(name), &key(from), Labels::new(), None).map(drop)
            }
            Op::Remove { key: gone } => rules.remove(&ns, &key(gone)),
            Op::Cleanup => match rules.cleanup() {
                Ok(reaped) if reaped.failed.is_empty() => Ok(()),
                Ok(reaped) => return Err(reaped.failed.join("; ")),
                Err(error) => Err(error),
            },
            Op::Doom { .. } | Op::Restart { .. } | Op::CommitFails => Ok(()),
        }
        .map_err(failed)
    }

    fn thin_of(&self, key: &str) -> Option<ThinId> {
        let key = SnapshotKey::new(key).unwrap();
        let info = self.snapshots().stat(&Namespace::default(), &key).ok()?;
        let volume = self.store().volume(info.snapshot.volume).unwrap()?;
        Some(thin(&volume))
    }

    /// Compares with the reference, as it was or as the unanswered call would have made it, and
    /// takes over what is there.
    fn settle(&mut self, power: bool, unanswered: Option<(Op, u32)>) {
        let found = self.found();
        let done = unanswered.and_then(|(op, token)| reference::after(op, &self.reference, token));
        let keys = |reference: &Reference| -> Vec<_> {
            reference.iter().map(|(key, s)| (key.clone(), s.kind, s.parent.clone())).collect()
        };
        let real: Vec<_> = found
            .iter()
            .map(|(key, kind, parent, _)| (key.clone(), *kind, parent.clone()))
            .collect();
        match done {
            Some(done) if real == keys(&done) && real != keys(&self.reference) => {
                self.reference = done;
            }
            // Its token may be there or not; a commit that died may have flushed.
            Some(done) if real == keys(&self.reference) => {
                for (key, expected) in &mut self.reference {
                    if let Some(done) = done.get(key) {
                        expected.written.extend(done.written.iter().copied());
                    }
                }
            }
            _ => {}
        }
        assert_eq!(real, keys(&self.reference), "after {unanswered:?}");
        for (key, _, _, content) in found {
            let expected = self.reference.get_mut(&key).unwrap();
            let content = content.unwrap_or_else(|| panic!("{key} has lost its thin device"));
            assert!(expected.flushed.is_subset(&content), "{key}: {content:?}, {expected:?}");
            assert!(content.is_subset(&expected.all()), "{key}: {content:?}, {expected:?}");
            if !power && unanswered.is_none() {
                assert_eq!(content, expected.all(), "{key}: a kill loses nothing that was written");
            }
            (expected.flushed, expected.written) = (content, Content::new());
        }
        self.assert_sound();
    }

    #[allow(clippy::type_complexity, reason = "one use")]
    fn found(&self) -> Vec<(String, Kind, Option<String>, Option<Content>)> {
        let mut found = Vec::new();
        let mut visit = |info: crate::snapshot::Info| {
            let content = self.thin_of(info.key.as_str()).and_then(|t| self.sim.content(t));
            let parent = info.snapshot.parent.map(|parent| parent.to_string());
            found.push((info.key.to_string(), info.snapshot.kind, parent, content));
            ControlFlow::Continue(())
        };
        self.snapshots().walk(&Namespace::default(), &[], &mut visit).unwrap();
        found.sort();
        found
    }

    /// No orphan, nothing that can't be reaped, and every thin device is somebody's.
    fn assert_sound(&self) {
        let reaped = self.snapshots().cleanup().unwrap();
        assert_eq!((reaped.failed, reaped.waiting), (vec![], 0));
        assert_eq!(self.snapshots().check().unwrap(), Vec::<String>::new());
        let own = |s: &&reference::Expected| s.kind != Kind::View;
        let templates = self.store().pool().unwrap().expect("recorded").templates.len();
        let volumes = self.reference.values().filter(own).count();
        assert_eq!(self.sim.thins().len(), volumes + templates, "{:?}", self.reference);
        assert!(self.sim.held().is_none(), "the metadata snapshot is released");
    }

    /// The end of a history: a last power cut; then every key can be freed and used again.
    pub(super) fn end(&mut self) {
        self.crash(true, None, None);
        while let Some(leaf) = self.leaf() {
            self.snapshots()
                .remove(&Namespace::default(), &SnapshotKey::new(&*leaf).unwrap())
                .unwrap();
            self.reference.remove(&leaf);
        }
        self.assert_sound();
        for key in 0..KEYS {
            self.run(Op::Prepare { key, parent: None });
            assert!(self.reference.contains_key(&word(key)), "{key} is stuck");
        }
        self.assert_sound();
    }

    fn leaf(&self) -> Option<String> {
        let has_child =
            |key: &String| self.reference.values().any(|other| other.parent.as_ref() == Some(key));
        self.reference.keys().find(|key| !has_child(key)).cloned()
    }
}

impl World {
    /// A kill without a start.
    pub(super) fn power_off(&mut self) {
        self.die(false);
    }

    /// The store is gone; an empty one takes its place.
    pub(super) fn forget_the_store(&mut self) {
        self.store().wipe().unwrap();
        self.revive_store();
        self.reference.clear();
    }

    /// What a prepare that may be refused comes to.
    pub(super) fn try_prepare(&self, key: u8) -> std::result::Result<(), String> {
        self.make(Op::Prepare { key, parent: None }, 0)
    }
}
