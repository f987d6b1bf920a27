//! Who may change which key: one read-write lock a key, made when asked for and gone when unused.
//!
//! A call takes all the keys that it needs at once, in key order, so two calls can't wait for each
//! other. Exclusive for keys that are changed, shared for a parent: any number of snapshots can be
//! prepared on one parent at the same time, but the parent can't be removed meanwhile.
//!
//! Order of locks: `Snapshots::gate` (shared) → keys → `Snapshots::leases` → everything in `volume` and `meta`. The
//! table's own mutex is held for a look-up only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::lock_api::{ArcRwLockReadGuard, ArcRwLockWriteGuard};
use parking_lot::{Mutex, RawRwLock, RwLock};

use crate::types::{Namespace, SnapshotKey};

type Name = (Namespace, SnapshotKey);

/// How a key is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Nobody changes it.
    Shared,
    /// Nobody else looks at it before changing something.
    Exclusive,
}

/// All key locks.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    table: Mutex<HashMap<Name, Arc<RwLock<()>>>>,
}

/// Keys held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    locks: &'a Locks,
    guards: Vec<(Name, Guard)>,
}

/// Held for what dropping it does.
#[derive(Debug)]
enum Guard {
    Shared(#[expect(dead_code)] ArcRwLockReadGuard<RawRwLock, ()>),
    Exclusive(#[expect(dead_code)] ArcRwLockWriteGuard<RawRwLock, ()>),
}

impl Locks {
    /// Waits until all are held. A key named twice is held once, in the stronger mode.
    pub(crate) fn hold(&self, ns: &Namespace, wanted: &[(&SnapshotKey, Mode)]) -> Held<'_> {
        self.hold_until(ns, wanted, None).expect("waits for ever")
    }

    /// Gives up after `patience`.
    pub(crate) fn hold_within(
        &self,
        ns: &Namespace,
        wanted: &[(&SnapshotKey, Mode)],
        patience: Duration,
    ) -> Option<Held<'_>> {
        self.hold_until(ns, wanted, Some(Instant::now() + patience))
    }

    fn hold_until(
        &self,
        ns: &Namespace,
        wanted: &[(&SnapshotKey, Mode)],
        deadline: Option<Instant>,
    ) -> Option<Held<'_>> {
        let mut ordered: BTreeMap<&SnapshotKey, Mode> = BTreeMap::new();
        for (key, mode) in wanted {
            ordered.entry(key).and_modify(|held| *held = (*held).max(*mode)).or_insert(*mode);
        }
        let mut held = Held { locks: self, guards: Vec::with_capacity(ordered.len()) };
        for (key, mode) in ordered {
            let name = (ns.clone(), key.clone());
            let lock = self.table.lock().entry(name.clone()).or_default().clone();
            match acquire(&lock, mode, deadline) {
                Some(guard) => held.guards.push((name, guard)),
                None => {
                    drop(lock);
                    self.forget_if_unused(&name);
                    return None;
                }
            }
        }
        Some(held)
    }

    /// Whoever holds or waits for a lock has a clone of its `Arc`.
    fn forget_if_unused(&self, name: &Name) {
        let mut table = self.table.lock();
        if table.get(name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            table.remove(name);
        }
    }
}

fn acquire(lock: &Arc<RwLock<()>>, mode: Mode, deadline: Option<Instant>) -> Option<Guard> {
    match (mode, deadline) {
        (Mode::Shared, None) => Some(Guard::Shared(lock.read_arc())),
        (Mode::Shared, Some(deadline)) => lock.try_read_arc_until(deadline).map(Guard::Shared),
        (Mode::Exclusive, None) => Some(Guard::Exclusive(lock.write_arc())),
        (Mode::Exclusive, Some(deadline)) => {
            lock.try_write_arc_until(deadline).map(Guard::Exclusive)
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        while let Some((name, guard)) = self.guards.pop() {
            drop(guard);
            self.locks.forget_if_unused(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn ns() -> Namespace {
        Namespace::default()
    }

    fn key(key: &str) -> SnapshotKey {
        SnapshotKey::new(key).unwrap()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn shared_holders_keep_out_an_exclusive_one_only() {
        let locks = Locks::default();
        let parent = key("parent");
        let first = locks.hold(&ns(), &[(&parent, Mode::Shared)]);
        assert!(locks.hold_within(&ns(), &[(&parent, Mode::Shared)], NOW).is_some());
        assert!(locks.hold_within(&ns(), &[(&parent, Mode::Exclusive)], NOW).is_none());
        assert!(
            locks
                .hold_within(&Namespace::new("other").unwrap(), &[(&parent, Mode::Exclusive)], NOW)
                .is_some()
        );
        drop(first);
        assert!(locks.hold_within(&ns(), &[(&parent, Mode::Exclusive)], NOW).is_some());
        assert!(locks.table.lock().is_empty());
    }

    #[test]
    fn a_key_named_twice_is_held_once_in_the_stronger_mode() {
        let locks = Locks::default();
        let name = key("name");
        let _held = locks
            .hold(&ns(), &[(&name, Mode::Shared), (&name, Mode::Exclusive), (&name, Mode::Shared)]);
        assert!(locks.hold_within(&ns(), &[(&name, Mode::Shared)], NOW).is_none());
    }

    #[test]
    fn calls_that_need_the_same_keys_in_any_order_never_wait_for_each_other_forever() {
        let locks = Locks::default();
        let keys = [key("a"), key("b"), key("c")];
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (locks, keys, inside) = (&locks, &keys, &inside);
                scope.spawn(move || {
                    for round in 0..200 {
                        let at = |n: usize| &keys[(thread + round + n) % 3];
                        let _held = locks
                            .hold(&ns(), &[(at(0), Mode::Exclusive), (at(1), Mode::Exclusive)]);
                        inside.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(inside.into_inner(), 1200);
        assert!(locks.table.lock().is_empty());
    }
}
