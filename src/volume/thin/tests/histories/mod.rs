//! Random histories on a simulated pool: prepare, write, commit, remove, and at any message to the
//! pool or write of the store a kill or a power cut, then a start; thousands of them.
//!
//! The rules, the store, the ledger, creation, deletion, reconciliation and the reaper are the real
//! ones. After each start everything is compared with a reference.

mod backend;
mod machine;
mod pairs;
mod reference;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::thin::simulated::{Content, Machine, Simulated};
use machine::World;

/// What happens next. Keys are small numbers; what can't be done now is passed over.
#[derive(Debug, Clone, Copy)]
enum Op {
    Prepare {
        key: u8,
        parent: Option<u8>,
    },
    /// Several at once, with the keys that follow.
    PrepareTogether {
        key: u8,
        parent: u8,
        more: u8,
    },
    View {
        key: u8,
        parent: u8,
    },
    Write {
        key: u8,
    },
    Commit {
        key: u8,
        name: u8,
    },
    Remove {
        key: u8,
    },
    Cleanup,
    /// The machine dies within so many half-steps, by a power cut or a kill.
    Doom {
        half_steps: u16,
        power: bool,
    },
    /// A kill or a power cut between two calls; the start after it may die, too.
    Restart {
        power: bool,
        doom: Option<u16>,
    },
    /// The pool's next commit of its metadata fails, silently.
    CommitFails,
}

const KEYS: u8 = 6;

/// The keys of an [`Op::PrepareTogether`].
fn keys(first: u8, more: u8) -> impl Iterator<Item = u8> {
    (first..=first + more).map(|key| key % KEYS)
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS;
    prop_oneof![
        6 => (key(), proptest::option::of(key())).prop_map(|(key, parent)| Op::Prepare { key, parent }),
        3 => (key(), key(), 0..3u8).prop_map(|(key, parent, more)| Op::PrepareTogether { key, parent, more }),
        1 => (key(), key()).prop_map(|(key, parent)| Op::View { key, parent }),
        4 => key().prop_map(|key| Op::Write { key }),
        6 => (key(), key()).prop_map(|(key, name)| Op::Commit { key, name }),
        5 => key().prop_map(|key| Op::Remove { key }),
        1 => Just(Op::Cleanup),
        4 => (1..12u16, any::<bool>()).prop_map(|(half_steps, power)| Op::Doom { half_steps, power }),
        2 => (any::<bool>(), proptest::option::of(1..16u16)).prop_map(|(power, doom)| Op::Restart { power, doom }),
        1 => Just(Op::CommitFails),
    ]
}

/// How many. A debug build is some times slower.
const HISTORIES: u32 = if cfg!(debug_assertions) { 400 } else { 2_000 };

#[test]
fn after_every_random_history_of_crashes_records_pool_and_contents_agree() {
    let config = crate::testing::random(HISTORIES, 2_000);
    let histories = config.cases;
    let rig = std::cell::RefCell::new(World::new());
    proptest!(config, |(ops in vec(op(), 5..40))| {
        let mut world = rig.borrow_mut();
        world.reset();
        for &op in &ops {
            world.run(op);
        }
        world.end();
    });
    let world = rig.into_inner();
    eprintln!("{histories} histories, {} crashes, {} calls", world.crashes, world.calls);
    assert!(world.crashes > u64::from(histories), "too few crashes to mean anything");
}
