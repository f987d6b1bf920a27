//! A crash at each step leaves the layer or nothing.

use super::*;
use crate::layer_store::CreateRw;
use crate::meta::WriteFault;
use crate::types::{Labels, SnapshotKey};

#[test]
fn a_crash_while_unpacking_leaves_nothing() {
    let mut rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let parent = Some(SnapshotKey::new(base.to_string()).unwrap());
    let ns = rig.layers().namespace().clone();
    // As far as an import gets before its last step: snapshot, reference, record, no commit.
    let import = rig
        .fixture
        .snapshots()
        .prepare_with(
            &ns,
            &SnapshotKey::new("import:7").unwrap(),
            parent.as_ref(),
            Labels::new(),
            &mut |info, batch| batch.put_layer_ref(&base, &Holder::Import(info.snapshot.id), 1),
        )
        .unwrap();
    let record = rig.records.path().join(format!("{}.split", import.snapshot.id));
    std::fs::write(&record, "half a record").unwrap();
    let restored = rig.crash();
    assert_eq!((restored.abandoned, restored.stray_records, restored.layers), (1, 1, 1));
    rig.assert_sound();
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

#[test]
fn a_crash_in_the_last_step_leaves_the_whole_layer_or_nothing() {
    for (fault, there) in [(WriteFault::Before, false), (WriteFault::After, true)] {
        let mut rig = Rig::native();
        let base = rig.register(&tar(&[("a", b"a")]), None);
        let layer = tar(&[("b", b"b")]);
        // The import's first write is that of its snapshot, so the fault is set from inside it.
        let (receiver, mut sender) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            let layers = rig.layers();
            let import = scope.spawn(|| register(layers, receiver, Some(base)));
            while rig.layers().layer(&base).unwrap().holders.len() < 2 {
                std::thread::yield_now();
            }
            rig.fixture.store().fail_next_write(fault);
            sender.write_all(&layer).unwrap();
            drop(sender);
            import.join().unwrap().unwrap_err();
        });
        let restored = rig.crash();
        assert_eq!(restored.layers, if there { 2 } else { 1 });
        rig.assert_sound();
        if there {
            let top = rig.chains()[1];
            rig.assert_tar(&top, &layer);
            assert_eq!(rig.release(&top), [top]);
        }
        assert_eq!(rig.release(&base), [base]);
        rig.assert_sound();
    }
}

#[test]
fn a_removal_that_a_crash_cut_short_goes_on_at_the_next_start() {
    let mut rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let top = rig.register(&tar(&[("b", b"b")]), Some(base));
    rig.release(&base);
    rig.fixture.store().fail_next_write(WriteFault::After);
    rig.layers().release(&top).unwrap_err();
    let restored = rig.crash();
    // The top is gone with its record, and nobody held the base any more.
    assert_eq!((restored.stray_records, restored.collected), (1, 1));
    assert_eq!(rig.chains(), []);
    rig.assert_sound();
}

#[test]
fn an_init_layer_without_its_read_write_layer_goes_at_the_next_start() {
    let mut rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let store = Arc::clone(rig.fixture.store());
    let mut init = |_: BorrowedFd<'_>| Ok(());
    let create = CreateRw { parent: Some(base), init: Some(&mut init), ..Default::default() };
    rig.layers().create_rw(&name("web"), create).unwrap();
    // The read-write layer's own removal was written, that of its init layer was not.
    let ns = rig.layers().namespace().clone();
    let layer = store.rw_layer(&name("web")).unwrap().unwrap();
    rig.fixture
        .snapshots()
        .remove_with(&ns, &SnapshotKey::new("rw:web").unwrap(), &mut |_, batch| {
            batch.remove_rw_layer(&name("web"), &layer);
        })
        .unwrap();
    drop(store);
    assert_eq!(rig.crash().abandoned, 1);
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

#[test]
fn a_layer_whose_record_cannot_be_read_is_reported_and_the_rest_is_served() {
    let mut rig = Rig::native();
    let good = rig.register(&tar(&[("a", b"a")]), None);
    let lost = rig.register(&tar(&[("b", b"b")]), None);
    let id = rig.layers().layer(&lost).unwrap().layer.snapshot;
    std::fs::remove_file(rig.records.path().join(format!("{id}.split"))).unwrap();
    let restored = rig.restart();
    assert_eq!(restored.without_record, [lost]);
    rig.try_tar_of(&lost).unwrap_err();
    rig.assert_tar(&good, &tar(&[("a", b"a")]));
    rig.fixture.store().damage_layer(&lost);
    let restored = rig.restart();
    assert_eq!((restored.layers, restored.unreadable.len()), (1, 1));
    assert_eq!(rig.chains(), [good]);
    rig.assert_tar(&good, &tar(&[("a", b"a")]));
}
