//! CONTRACTS §1, for any backend: `run` is called with a way to make a fixture. Each case works in
//! a namespace of its own, so that one fixture serves them all.

mod changes;
mod errors;
mod queries;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use rustix::fs::fstat;

use crate::snapshot::tests::eventually;
use crate::snapshot::tests::fixture::{Code, Fixture, Scene, code, files, key, write};
use crate::snapshot::{Info, Result};
use crate::types::{Kind, Usage, VolumeId};
use crate::volume;

/// Runs every case, and says which one failed.
pub(crate) fn run(make: impl Fn() -> Fixture) {
    type Case = (&'static str, fn(&Scene<'_>));
    let cases: &[Case] = &[
        ("every-error", errors::every_error),
        ("prepare", changes::prepare_gives_an_empty_writable_root),
        ("on-parent", changes::prepare_on_a_parent_starts_with_its_content),
        ("commit", changes::commit_keeps_id_and_content_and_replaces_the_rest),
        ("commit-busy", changes::commit_of_a_snapshot_being_written_is_refused_and_changes_nothing),
        ("rebase", changes::an_active_snapshot_without_parent_can_be_committed_onto_one),
        ("view", changes::a_view_shows_its_parents_files_read_only_and_costs_no_volume),
        ("empty-view", changes::a_view_without_parent_is_empty_and_read_only),
        ("remove", changes::a_removed_key_can_be_used_again_as_any_kind),
        ("remove-open", changes::open_files_outlive_the_removal_of_their_snapshot),
        ("children", changes::parents_go_after_their_children),
        ("update", changes::update_changes_labels_only),
        ("walk", queries::walk_passes_containerds_table),
        ("usage", queries::usage_is_the_snapshots_own),
        ("keys", queries::keys_seen_in_the_wild_work),
        ("ids", queries::ids_are_unique_and_found),
    ];
    let mut fixture = make();
    for (name, case) in cases {
        println!("conformance: {name}");
        case(&fixture.scene(name));
    }
    fixture.assert_sound();
    println!("conformance: namespaces");
    namespaces_are_apart(&fixture);
    println!("conformance: restart");
    everything_survives_a_restart(&mut fixture);
    println!("conformance: close");
    closing_twice_is_fine_and_ends_changes(&fixture);
}

/// containerd's `baseTestSnapshots`: c1, c2 on c1, a1 on c2, a2, v1 of c2, v2.
fn base(scene: &Scene<'_>) {
    scene.layer("c1", "", "one");
    scene.layer("c2", "c1", "two");
    scene.prepare("a1", "c2").unwrap();
    scene.prepare("a2", "").unwrap();
    scene.view("v1", "c2").unwrap();
    scene.view("v2", "").unwrap();
}

fn all(scene: &Scene<'_>) -> Vec<Info> {
    let mut all = Vec::new();
    scene
        .snapshots
        .walk(&scene.ns, &[], &mut |info| {
            all.push(info);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

fn namespaces_are_apart(fixture: &Fixture) {
    let (one, two) = (fixture.scene("ns-one"), fixture.scene("ns-two"));
    one.layer("c", "", "one");
    assert_eq!(code(&two.prepare("a", "c").unwrap_err()), Code::NotFound);
    assert_eq!(code(&two.stat("c").unwrap_err()), Code::NotFound);
    two.layer("c", "", "two");
    assert_eq!(two.files("c"), BTreeSet::from(["two".to_owned()]));
    one.remove("c").unwrap();
    assert_eq!(two.walk(&[]).unwrap(), ["c"]);
    let namespaces = fixture.snapshots().namespaces().unwrap();
    assert!(namespaces.contains(&two.ns) && !namespaces.contains(&one.ns));
}

fn everything_survives_a_restart(fixture: &mut Fixture) {
    let scene = fixture.scene("restart");
    base(&scene);
    let a1 = scene.stat("a1").unwrap();
    write(&scene.open(&a1), "three", "3").unwrap();
    scene.replace_labels("a1", &[("l", "1")]).unwrap();
    let (before, last) = (all(&scene), scene.prepare("last", "").unwrap().snapshot.id);
    scene.remove("last").unwrap();

    let recovery = fixture.restart();
    assert_eq!((recovery.lost, recovery.unnamed, recovery.reaped), (vec![], vec![], 0));
    let scene = fixture.scene("restart");
    assert_eq!(all(&scene), before);
    assert_eq!(scene.files("a1"), BTreeSet::from(["one", "two", "three"].map(str::to_owned)));
    assert_eq!(scene.files("v1"), BTreeSet::from(["one", "two"].map(str::to_owned)));
    assert!(scene.prepare("next", "c2").unwrap().snapshot.id > last);
    assert!(matches!(
        scene.open(&scene.stat("c2").unwrap()).writer(),
        Err(volume::Error::ReadOnly(_))
    ));
    fixture.assert_sound();
}

fn closing_twice_is_fine_and_ends_changes(fixture: &Fixture) {
    let scene = fixture.scene("close");
    scene.prepare("a", "").unwrap();
    fixture.snapshots().close().unwrap();
    fixture.snapshots().close().unwrap();
    for refused in
        [scene.prepare("b", "").map(drop), scene.commit("c", "a").map(drop), scene.remove("a")]
    {
        assert!(matches!(refused, Err(crate::snapshot::Error::Stopping)), "{refused:?}");
    }
    assert_eq!(scene.stat("a").unwrap().snapshot.kind, Kind::Active);
}
