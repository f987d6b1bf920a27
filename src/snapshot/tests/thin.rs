//! The conformance cases and the model on a real thin-pool: inside the guest.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixture::Fixture;
use super::{conformance, model};
use crate::daemon::StoreLedger;
use crate::volume::thin::{Filesystem, PoolSource, ThinBackend, ThinConfig, available};

const MIB: u64 = 1 << 20;

/// A root on the guest's scratch disk, with the store that the daemon would use.
pub(crate) fn fixture() -> Fixture {
    fixture_with(Filesystem::Ext4, 256 * MIB)
}

fn fixture_with(filesystem: Filesystem, volume_size: u64) -> Fixture {
    if let Err(why) = available() {
        panic!("needs device-mapper: run through scripts/guest ({why})");
    }
    let dir = tempfile::tempdir_in("/mnt/scratch")
        .expect("needs the guest's scratch disk: run through scripts/guest");
    let root = dir.path().to_owned();
    let config = ThinConfig {
        source: PoolSource::Auto { dir: root.join("thin"), size: Some(1024 * MIB), most: None },
        patience: Duration::from_secs(2),
        volume_size,
        filesystem,
        ..ThinConfig::new(root)
    };
    Fixture::new(dir, move |store| {
        let ledger = Arc::new(StoreLedger::new(store.clone()));
        Arc::new(ThinBackend::start(config.clone(), ledger).unwrap())
    })
}

#[test]
fn in_guest_the_thin_backend_conforms() {
    conformance::run(fixture);
}

#[test]
fn in_guest_the_thin_backend_conforms_on_ext2() {
    conformance::run(|| fixture_with(Filesystem::Ext2, 64 * MIB));
}

#[test]
fn in_guest_the_thin_backend_conforms_on_xfs() {
    conformance::run(|| fixture_with(Filesystem::Xfs, 320 * MIB));
}

proptest! {
    #![proptest_config(crate::testing::random(3, 20))]

    #[test]
    fn in_guest_the_rules_on_thin_answer_as_the_reference_does(ops in vec(model::op(), 10..40)) {
        model::run(fixture(), &ops);
    }
}
