//! Several prepares as one piece of work. That a crash leaves all of them or none of what had no record is in
//! `volume::thin::tests::histories`.

use std::collections::BTreeSet;

use super::faulty::{Faults, broken};
use super::fixture::{Code, Fixture, Scene, code, key, labels};
use crate::meta::{self, WriteFault};
use crate::snapshot::{Error, Info, Result, Wish};
use crate::types::Kind;

fn wish(name: &str, parent: &str) -> Wish {
    let parent = (!parent.is_empty()).then(|| key(parent));
    Wish { key: key(name), parent, labels: labels(&[("of", name)]) }
}

fn together(scene: &Scene<'_>, wishes: &[(&str, &str)]) -> Vec<Option<Result<Info>>> {
    let wishes: Vec<_> = wishes.iter().map(|(name, parent)| wish(name, parent)).collect();
    scene.snapshots.prepare_together(&scene.ns, &wishes)
}

fn succeeded(outcomes: &[Option<Result<Info>>]) -> usize {
    outcomes.iter().flatten().flatten().count()
}

#[test]
fn each_wish_is_granted_or_refused_as_if_it_had_come_alone() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    scene.layer("other", "base", "more");
    scene.prepare("taken", "base").unwrap();
    let outcomes = together(
        &scene,
        &[
            ("a", "base"),
            ("orphan", "nobody"),
            ("b", "other"),
            ("active parent", "taken"),
            ("taken", "base"),
            // Held by the first; and a template may have to be made.
            ("a", "other"),
            ("empty", ""),
            ("c", "base"),
        ],
    );
    let codes: Vec<_> =
        outcomes.iter().map(|o| o.as_ref().map(|o| o.as_ref().map(|_| ()).map_err(code))).collect();
    let alone = None;
    assert_eq!(
        codes,
        [
            Some(Ok(())),
            Some(Err(Code::NotFound)),
            Some(Ok(())),
            Some(Err(Code::InvalidArgument)),
            Some(Err(Code::AlreadyExists)),
            alone,
            alone,
            Some(Ok(())),
        ]
    );
    for (name, parent, files) in
        [("a", "base", &["file"][..]), ("b", "other", &["file", "more"]), ("c", "base", &["file"])]
    {
        let info = scene.stat(name).unwrap();
        let told = outcomes.iter().flatten().flatten().find(|told| told.key == info.key);
        assert_eq!(told, Some(&info));
        assert_eq!((info.snapshot.kind, info.snapshot.parent), (Kind::Active, Some(key(parent))));
        assert_eq!(info.snapshot.labels, labels(&[("of", name)]));
        assert_eq!(scene.files(name), files.iter().map(|file| (*file).to_owned()).collect());
    }
    assert_eq!(scene.walk(&[]).unwrap(), ["a", "b", "base", "c", "other", "taken"]);
    let ids: BTreeSet<_> =
        outcomes.iter().flatten().flatten().map(|info| info.snapshot.id).collect();
    assert_eq!(ids.len(), 3);
    fixture.assert_sound();
}

#[test]
fn a_volume_that_could_not_be_made_is_nothing_to_the_others() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    let count = std::sync::atomic::AtomicUsize::new(0);
    faults.before_create(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => Err(broken()),
        _ => Ok(()),
    });
    let outcomes = together(&scene, &[("a", "base"), ("b", "base"), ("c", "base")]);
    assert!(matches!(outcomes[1], Some(Err(Error::Volume(_)))), "{outcomes:?}");
    assert_eq!(succeeded(&outcomes), 2);
    assert_eq!(scene.walk(&[]).unwrap(), ["a", "base", "c"]);
    fixture.assert_sound();
}

#[test]
fn what_somebody_works_on_is_left_to_be_prepared_alone() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    let (entered, inside) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = parking_lot::Mutex::new(Some(wait));
    faults.before_create(move |_| {
        let first = wait.lock().take();
        if let Some(wait) = first {
            entered.send(()).unwrap();
            wait.recv().unwrap();
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| scene.prepare("slow", "base").unwrap());
        inside.recv().unwrap();
        let outcomes = together(&scene, &[("slow", "base"), ("quick", "base")]);
        assert!(outcomes[0].is_none() && matches!(outcomes[1], Some(Ok(_))), "{outcomes:?}");
        assert!(!slow.is_finished());
        go.send(()).unwrap();
    });
    assert_eq!(scene.walk(&[]).unwrap(), ["base", "quick", "slow"]);
    fixture.assert_sound();
}

/// One batch for all: a failed write is everybody's, and the next start finds all or none.
#[test]
fn a_failed_write_is_told_to_all_and_leaves_all_or_none() {
    for (fault, left) in [(WriteFault::Before, 0), (WriteFault::After, 2)] {
        let mut fixture = Fixture::native();
        let scene = fixture.scene("default");
        scene.layer("base", "", "file");
        fixture.store().fail_next_write(fault);
        let outcomes = together(&scene, &[("a", "base"), ("b", "base")]);
        for outcome in &outcomes {
            let told = matches!(outcome, Some(Err(Error::Store(meta::Error::Write { .. }))));
            assert!(told, "{fault:?}: {outcomes:?}");
        }
        // The store takes no more, and that is known before anything is written: nothing is left.
        let later = together(&scene, &[("c", "base"), ("d", "base")]);
        assert_eq!(succeeded(&later), 0, "{later:?}");
        assert!(matches!(later[1], Some(Err(Error::Store(meta::Error::Poisoned { .. })))));
        assert_eq!(fixture.crash().reaped, 2 - left, "{fault:?}");
        assert_eq!(fixture.scene("default").walk(&[]).unwrap().len(), 1 + left, "{fault:?}");
        fixture.assert_sound();
    }
}

#[test]
fn nothing_is_prepared_once_the_rules_are_closed() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    fixture.snapshots().close().unwrap();
    assert!(together(&scene, &[("a", "base")])[0].is_none());
    assert!(matches!(scene.prepare("a", "base"), Err(Error::Stopping)), "what is left is told why");
}
