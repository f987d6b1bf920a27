//! Layers on a real thin-pool: inside the guest.

use super::*;
use crate::layer_store::CreateRw;
use crate::snapshot::tests::thin::fixture;

#[test]
fn in_guest_layers_and_read_write_layers_on_thin() {
    let mut rig = Rig::on(fixture());
    let (first, second) =
        (tar(&[("etc/a", b"a"), ("big", &[9; 700_000])]), tar(&[("etc/.wh.a", b""), ("b", b"b")]));
    let base = rig.register(&gzip(&first), None);
    let top = rig.register(&zstd(&second), Some(base));
    rig.assert_tar(&base, &first);
    rig.assert_tar(&top, &second);
    let create = CreateRw { parent: Some(top), ..Default::default() };
    let made = rig.layers().create_rw(&name("web"), create).unwrap();
    assert_eq!(rig.read(made.layer.snapshot, "etc/a"), None);
    let opened = rig.fixture.snapshots().open(made.layer.snapshot).unwrap();
    put(opened.pin.root(), "note", b"note", 0o644);
    drop(opened);
    let restored = rig.restart();
    assert_eq!((restored.layers, restored.rw_layers), (2, 1));
    let mut changes = Vec::new();
    rig.layers()
        .rw_changes(&name("web"), &NEVER, &mut |change| {
            changes.push(change.path.to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(changes, [std::path::PathBuf::from("note")]);
    rig.release(&base);
    rig.release(&top);
    let removed = rig.layers().release_rw(&name("web")).unwrap();
    assert_eq!(removed.iter().map(|removed| removed.chain).collect::<Vec<_>>(), [top, base]);
    rig.assert_sound();
}

#[test]
fn in_guest_two_hundred_read_write_layers_on_thin_in_parallel() {
    let [made, released] = super::rw::many(&Rig::on(fixture()), 200, 32);
    println!("read-write layers on one layer, a second: made {made:.0}, released {released:.0}");
}
