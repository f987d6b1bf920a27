//! Layers: register, references, depth, errors.

use super::*;
use crate::layer_store::Error;
use crate::types::{DiffId, LAYERS, MAX_DEPTH};

#[test]
fn a_layer_comes_back_byte_for_byte_however_it_was_compressed() {
    let rig = Rig::native();
    let plain = tar(&[("etc/hosts", b"127.0.0.1"), ("bin/sh", &[7; 100_000])]);
    for compressed in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let registered = rig.try_register(&compressed, None).unwrap();
        assert_eq!(registered.layer.tar_size, plain.len() as u64);
        rig.assert_tar(&registered.chain, &plain);
    }
    let [only] = rig.chains().try_into().unwrap();
    let info = rig.layers().layer(&only).unwrap();
    assert_eq!(info.holders, [(Holder::User, 3)], "each import is a reference");
    assert_eq!((info.layer.size, info.chain_size, info.layer.entries), (100_009, 100_009, 4));
    rig.assert_sound();
}

#[test]
fn whiteouts_hide_what_is_below_and_a_new_tar_of_the_difference_says_so() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a"), ("d/x", b"x"), ("d/y", b"y")]), None);
    let top = rig.register(&tar(&[(".wh.a", b""), ("d/.wh.x", b""), ("d/z", b"z")]), Some(base));
    let snapshot = rig.layers().layer(&top).unwrap().layer.snapshot;
    assert_eq!(rig.read(snapshot, "a"), None);
    assert_eq!(rig.read(snapshot, "d/x"), None);
    assert_eq!(rig.read(snapshot, "d/y").as_deref(), Some(&b"y"[..]));

    let from = |ancestor: Option<&ChainId>| {
        let mut tar = Vec::new();
        rig.layers().tar_stream_from(&top, ancestor, &mut tar, &NEVER).unwrap();
        tar
    };
    let difference = from(Some(&base));
    assert_eq!(difference, from(Some(&base)), "the same bytes each time");
    let again = rig.register(&difference, Some(base));
    let snapshot = rig.layers().layer(&again).unwrap().layer.snapshot;
    assert_eq!(rig.read(snapshot, "a"), None);
    assert_eq!(rig.read(snapshot, "d/z").as_deref(), Some(&b"z"[..]));
    let flat = rig.register(&from(None), None);
    let snapshot = rig.layers().layer(&flat).unwrap().layer.snapshot;
    assert_eq!(rig.read(snapshot, "d/y").as_deref(), Some(&b"y"[..]));
    assert_eq!(rig.read(snapshot, "a"), None);

    let refused = rig.layers().tar_stream_from(&base, Some(&top), std::io::sink(), &NEVER);
    assert!(matches!(refused, Err(Error::NotAncestor { .. })), "{refused:?}");
    rig.assert_sound();
}

#[test]
fn a_chain_may_be_125_layers_deep_and_no_deeper() {
    let rig = Rig::native();
    let mut top = None;
    for depth in 0..MAX_DEPTH {
        top = Some(rig.register(&tar(&[("depth", depth.to_string().as_bytes())]), top));
    }
    let refused = rig.try_register(&tar(&[("depth", b"too deep")]), top).unwrap_err();
    assert!(refused.to_string().starts_with("max depth exceeded"), "{refused}");
    assert_eq!(rig.layers().layer(&top.unwrap()).unwrap().layer.depth, MAX_DEPTH);
    // All but the top are held by a user and a child; then one release takes all that are free.
    let chains = rig.chains();
    for chain in &chains[..chains.len() - 1] {
        assert_eq!(rig.release(chain), []);
    }
    let removed = rig.release(&top.unwrap());
    assert_eq!(removed, chains.into_iter().rev().collect::<Vec<_>>());
    rig.assert_sound();
}

#[test]
fn what_is_not_retained_cannot_be_released() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let top = rig.register(&tar(&[("b", b"b")]), Some(base));
    assert_eq!(rig.release(&base), []);
    let error = rig.layers().release(&base).unwrap_err();
    assert!(matches!(error, Error::NotRetained(chain) if chain == base), "{error}");
    assert_eq!(rig.release(&top), [top, base]);
    assert!(matches!(rig.layers().release(&top), Err(Error::LayerNotFound(_))));
    assert!(matches!(rig.layers().get(&top), Err(Error::LayerNotFound(_))));
    rig.assert_sound();
}

#[test]
fn an_import_that_fails_leaves_nothing() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let bad: [(&[u8], Option<ChainId>); 4] = [
        (b"no tar at all, but long enough to look like a block", None),
        (&tar(&[("a", &[1; 5000])])[..700], None),
        (&gzip(&tar(&[("a", &[1; 5000])]))[..40], Some(base)),
        (&tar(&[("a", b"a")]), Some(ChainId::from_bytes([9; 32]))),
    ];
    for (tar, parent) in bad {
        rig.try_register(tar, parent).unwrap_err();
        assert_eq!(rig.chains(), [base]);
        rig.assert_sound();
    }
    let (progress, expected) = (&Progress::default(), Some(DiffId::from_bytes([1; 32])));
    let register = Register { parent: Some(base), expected, holder: Holder::User, progress };
    let error = rig.layers().register(&tar(&[("b", b"b")])[..], register).unwrap_err();
    assert!(matches!(error, Error::WrongDiffId { .. }), "{error}");
    assert_eq!(rig.release(&base), [base], "failed imports hold nothing");
    rig.assert_sound();
}

#[test]
fn an_import_that_is_cancelled_leaves_nothing() {
    let rig = Rig::native();
    let progress = &Progress::default();
    progress.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let register = Register { parent: None, expected: None, holder: Holder::User, progress };
    let error = rig.layers().register(&tar(&[("a", b"a")])[..], register).unwrap_err();
    assert!(matches!(error, Error::Layer(crate::layer::Error::Cancelled)), "{error}");
    rig.assert_sound();
}

#[test]
fn the_same_layer_imported_by_many_at_once_is_there_once_with_a_reference_each() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let layer = tar(&[("b", &[3; 50_000])]);
    let layers = rig.layers();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| register(layers, &layer[..], Some(base)).unwrap());
        }
    });
    let top = rig.chains()[1];
    assert_eq!(rig.layers().layer(&top).unwrap().holders, [(Holder::User, 8)]);
    for _ in 0..7 {
        assert_eq!(rig.release(&top), []);
    }
    assert_eq!(rig.release(&top), [top]);
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

/// The parent's last user leaves while a layer on it is unpacked.
#[test]
fn a_parent_stays_while_a_layer_on_it_is_unpacked() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let layer = tar(&[("b", b"b")]);
    let (receiver, mut sender) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let layers = rig.layers();
        let import = scope.spawn(|| register(layers, receiver, Some(base)).unwrap().chain);
        while rig.layers().layer(&base).unwrap().holders.len() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(rig.release(&base), []);
        sender.write_all(&layer).unwrap();
        drop(sender);
        let top = import.join().unwrap();
        assert_eq!(rig.layers().layer(&base).unwrap().holders, [(Holder::Child(top), 1)]);
        assert_eq!(rig.release(&top), [top, base]);
    });
    rig.assert_sound();
}

#[test]
fn layers_live_in_a_namespace_of_their_own() {
    let rig = Rig::native();
    let chain = rig.register(&tar(&[("a", b"a")]), None);
    let namespaces = rig.fixture.snapshots().namespaces().unwrap();
    assert_eq!(namespaces.iter().map(|ns| ns.as_str()).collect::<Vec<_>>(), [LAYERS]);
    let scene = rig.fixture.scene(LAYERS);
    assert_eq!(scene.walk(&["kind==committed"]).unwrap(), [chain.to_string()]);
    for refused in [
        scene.prepare("mine", &chain.to_string()).map(drop),
        scene.view("mine", &chain.to_string()).map(drop),
        scene.remove(&chain.to_string()),
        scene.commit("mine", "import:0").map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("belongs to the layer store"), "{error}");
    }
    rig.assert_sound();
}
