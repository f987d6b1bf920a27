//! The cases of moby's own layer tests (`layer_test.go`, `mount_test.go`), said in our words. What
//! moby's graph driver counts as a layer's size is the sum of its files' lengths; so is ours.

use super::*;
use crate::layer_store::{CreateRw, Error};
use crate::tree::ChangeKind;

/// `createLayer`: write into a read-write layer, and register what it changed.
fn create_layer(rig: &Rig, parent: Option<ChainId>, files: &[(&str, &str)]) -> ChainId {
    let build = name("build");
    let rw = rig.layers().create_rw(&build, CreateRw { parent, ..Default::default() }).unwrap();
    let opened = rig.fixture.snapshots().open(rw.layer.snapshot).unwrap();
    for (path, content) in files {
        put(opened.pin.root(), path, content.as_bytes(), 0o644);
    }
    drop(opened);
    let mut tar = Vec::new();
    rig.layers().rw_tar_stream(&build, &mut tar, &NEVER).unwrap();
    let chain = rig.register(&tar, parent);
    assert_eq!(rig.layers().release_rw(&build).unwrap(), []);
    chain
}

#[test]
fn mount_and_register() {
    let rig = Rig::native();
    let layer = create_layer(&rig, None, &[("testfile.txt", "some test data")]);
    let create = CreateRw { parent: Some(layer), ..Default::default() };
    let mount = rig.layers().create_rw(&name("new-test-mount"), create).unwrap();
    let data = rig.read(mount.layer.snapshot, "testfile.txt").unwrap();
    assert_eq!(data, b"some test data");
    assert_eq!(rig.layers().release_rw(&name("new-test-mount")).unwrap(), []);
    rig.assert_sound();
}

#[test]
fn layer_release() {
    let rig = Rig::native();
    let layer1 = create_layer(&rig, None, &[("layer1.txt", "layer 1 file")]);
    let layer2 = create_layer(&rig, Some(layer1), &[("layer2.txt", "layer 2 file")]);
    assert_eq!(rig.release(&layer1), []);
    let layer3a = create_layer(&rig, Some(layer2), &[("layer3.txt", "layer 3a file")]);
    let layer3b = create_layer(&rig, Some(layer2), &[("layer3.txt", "layer 3b file")]);
    assert_eq!(rig.release(&layer2), []);
    assert_eq!(rig.chains().len(), 4);

    let removed = rig.layers().release(&layer3b).unwrap();
    let [only] = removed.try_into().unwrap();
    assert_eq!((only.chain, only.diff_size, only.size), (layer3b, 13, 13 + 12 + 12));
    assert_eq!(rig.release(&layer3a), [layer3a, layer2, layer1]);
    assert_eq!(rig.chains(), []);
    rig.assert_sound();
}

#[test]
fn store_restore() {
    let mut rig = Rig::native();
    let layer1 = create_layer(&rig, None, &[("layer1.txt", "layer 1 file")]);
    let layer2 = create_layer(&rig, Some(layer1), &[("layer2.txt", "layer 2 file")]);
    rig.release(&layer1);
    let layer3 = create_layer(&rig, Some(layer2), &[("layer3.txt", "layer 3 file")]);
    rig.release(&layer2);
    let mount = name("some-mount_name");
    let create = || CreateRw { parent: Some(layer3), ..Default::default() };
    let made = rig.layers().create_rw(&mount, create()).unwrap();
    let opened = rig.fixture.snapshots().open(made.layer.snapshot).unwrap();
    put(opened.pin.root(), "testfile.txt", b"nothing here", 0o644);
    drop(opened);
    let before = rig.layers().layer(&layer3).unwrap();

    let restored = rig.restart();
    assert_eq!((restored.layers, restored.rw_layers, restored.abandoned), (3, 1, 0));
    assert_eq!(rig.layers().layer(&layer3).unwrap(), before);
    let conflict = rig.layers().create_rw(&mount, create()).unwrap_err();
    assert!(matches!(conflict, Error::RwExists(_)), "{conflict}");
    let again = rig.layers().get_rw(&mount).unwrap();
    assert_eq!((again.layer.snapshot, again.layer.references), (made.layer.snapshot, 2));
    let data = rig.read(again.layer.snapshot, "testfile.txt").unwrap();
    assert_eq!(data, b"nothing here");
    assert_eq!(rig.layers().release_rw(&mount).unwrap(), []);
    assert_eq!(rig.layers().release_rw(&mount).unwrap(), []);
    assert!(matches!(rig.layers().release_rw(&mount), Err(Error::RwNotFound(_))));
    assert_eq!(rig.release(&layer3), [layer3, layer2, layer1]);
    rig.assert_sound();
}

/// A file more in the layer's directory doesn't change the tar that comes back.
#[test]
fn tar_stream_stability() {
    let rig = Rig::native();
    let tar1 = tar(&[("etc/hosts", b"mydomain 10.0.0.1"), ("etc/profile", b"PATH=/usr/bin")]);
    let tar2 = tar(&[
        ("etc/hosts", b"mydomain 10.0.0.2"),
        ("etc/profile", b"PATH=/usr/bin"),
        ("root/.bashrc", b"PATH=/usr/sbin:/usr/bin"),
    ]);
    let layer1 = rig.register(&tar1, None);
    let snapshot = rig.layers().layer(&layer1).unwrap().layer.snapshot;
    let opened = rig.fixture.snapshots().open(snapshot).unwrap();
    put(opened.pin.root(), "etc/shadow", b"root:::::::", 0o644);
    drop(opened);
    let layer2 = rig.register(&tar2, Some(layer1));
    assert_eq!(rig.release(&layer1), []);
    rig.assert_tar(&layer2, &tar2);
    rig.layers().get(&layer1).unwrap();
    assert_eq!(rig.release(&layer2), [layer2]);
    rig.assert_tar(&layer1, &tar1);
    assert_eq!(rig.release(&layer1), [layer1]);
}

#[test]
fn register_existing_layer() {
    let rig = Rig::native();
    let layer1 = create_layer(&rig, None, &[("etc/profile", "# Base configuration")]);
    let tar1 = tar(&[("root/.bashrc", b"# Root configuration")]);
    let layer2a = rig.try_register(&tar1, Some(layer1)).unwrap();
    let layer2b = rig.try_register(&tar1, Some(layer1)).unwrap();
    assert!(!layer2a.existed && layer2b.existed);
    assert_eq!(layer2a.layer, layer2b.layer, "the same snapshot");
    assert_eq!(rig.layers().layer(&layer2a.chain).unwrap().holders, [(Holder::User, 2)]);
    assert_eq!(rig.release(&layer2a.chain), []);
    assert_eq!(rig.release(&layer2a.chain), [layer2a.chain]);
    rig.assert_sound();
}

/// Files of one layer under the name of another, and files that were changed in place.
#[test]
fn tar_stream_verification() {
    let rig = Rig::native();
    let chain = rig.register(&tar(&[("foo", b"abc"), ("bar", b"def")]), None);
    let snapshot = rig.layers().layer(&chain).unwrap().layer.snapshot;
    let opened = rig.fixture.snapshots().open(snapshot).unwrap();
    for (path, content, original) in [("foo", "abd", "abc"), ("bar", "de", "def")] {
        put(opened.pin.root(), path, content.as_bytes(), 0o644);
        let error = rig.try_tar_of(&chain).unwrap_err();
        assert!(error.to_string().starts_with("could not verify layer data"), "{error}");
        put(opened.pin.root(), path, original.as_bytes(), 0o644);
    }
    rig.try_tar_of(&chain).unwrap();
    let other = rig.register(&tar(&[("foo", b"xyz"), ("bar", b"uvw")]), None);
    let record = |chain: &ChainId| {
        let id = rig.layers().layer(chain).unwrap().layer.snapshot;
        rig.records.path().join(format!("{id}.split"))
    };
    std::fs::copy(record(&other), record(&chain)).unwrap();
    let error = rig.try_tar_of(&chain).unwrap_err();
    assert!(error.to_string().starts_with("could not verify layer data"), "{error}");
}

#[test]
fn mount_init() {
    let rig = Rig::native();
    let layer = create_layer(&rig, None, &[("testfile.txt", "base data!")]);
    let mut init = |root: BorrowedFd<'_>| {
        put(root, "testfile.txt", b"init data!", 0o777);
        Ok(())
    };
    let create = CreateRw { parent: Some(layer), init: Some(&mut init), ..Default::default() };
    let mount = rig.layers().create_rw(&name("fun-mount"), create).unwrap();
    let opened = rig.fixture.snapshots().open(mount.layer.snapshot).unwrap();
    let found = openat(opened.pin.root(), "testfile.txt", OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(&found).unwrap().st_mode & 0o777, 0o777);
    assert_eq!(read(opened.pin.root(), "testfile.txt").unwrap(), b"init data!");
    drop((opened, found));
    assert_eq!(rig.release(&layer), [], "the read-write layer holds it");
    let removed = rig.layers().release_rw(&name("fun-mount")).unwrap();
    assert_eq!(removed.iter().map(|removed| removed.chain).collect::<Vec<_>>(), [layer]);
    rig.assert_sound();
}

/// Storage counts in blocks, not in bytes of content: what init put there counts nothing all the
/// same.
#[test]
fn mount_size() {
    let rig = Rig::native();
    let layer = create_layer(&rig, None, &[("file1", "Base contents")]);
    let mut init = |root: BorrowedFd<'_>| {
        put(root, "file-init", &[1; 3_000_000], 0o777);
        Ok(())
    };
    let create = CreateRw { parent: Some(layer), init: Some(&mut init), ..Default::default() };
    let mount = rig.layers().create_rw(&name("mount-size"), create).unwrap();
    let opened = rig.fixture.snapshots().open(mount.layer.snapshot).unwrap();
    put(opened.pin.root(), "file2", &[2; 500_000], 0o755);
    rustix::fs::syncfs(opened.pin.root()).unwrap();
    drop(opened);
    let size = rig.layers().rw_size(&name("mount-size"), &NEVER).unwrap().size;
    assert!((500_000..1_000_000).contains(&size), "{size}");
}

#[test]
fn mount_changes() {
    let rig = Rig::native();
    let base = [
        ("testfile1.txt", "base data!"),
        ("testfile2.txt", "base data!"),
        ("testfile3.txt", "base data!"),
    ];
    let layer = create_layer(&rig, None, &base);
    let mut init = |root: BorrowedFd<'_>| {
        put(root, "testfile1.txt", b"init data!", 0o777);
        put(root, "init-only", b"!", 0o777);
        Ok(())
    };
    let create = CreateRw { parent: Some(layer), init: Some(&mut init), ..Default::default() };
    let mount = rig.layers().create_rw(&name("mount-changes"), create).unwrap();
    let opened = rig.fixture.snapshots().open(mount.layer.snapshot).unwrap();
    let root = opened.pin.root();
    put(root, "testfile1.txt", b"mount data!", 0o755);
    rustix::fs::unlinkat(root, "testfile2.txt", rustix::fs::AtFlags::empty()).unwrap();
    put(root, "testfile3.txt", b"base data!", 0o755);
    put(root, "testfile4.txt", b"mount data!", 0o644);
    let mut changes = Vec::new();
    rig.layers()
        .rw_changes(&name("mount-changes"), &NEVER, &mut |change| {
            changes.push((change.path.to_str().unwrap().to_owned(), change.kind));
            ControlFlow::Continue(())
        })
        .unwrap();
    let expected = [
        ("testfile1.txt", ChangeKind::Modified),
        ("testfile2.txt", ChangeKind::Deleted),
        ("testfile3.txt", ChangeKind::Modified),
        ("testfile4.txt", ChangeKind::Added),
    ];
    assert_eq!(changes, expected.map(|(path, kind)| (path.to_owned(), kind)));
}

/// `TestMountApply`-like: what a read-write layer changed, registered on its parent, is the same
/// tree.
#[test]
fn mount_apply() {
    let rig = Rig::native();
    let base = create_layer(&rig, None, &[("kept", "kept"), ("gone", "gone")]);
    let create = CreateRw { parent: Some(base), ..Default::default() };
    let mount = rig.layers().create_rw(&name("m"), create).unwrap();
    let opened = rig.fixture.snapshots().open(mount.layer.snapshot).unwrap();
    rustix::fs::unlinkat(opened.pin.root(), "gone", rustix::fs::AtFlags::empty()).unwrap();
    put(opened.pin.root(), "new", b"new", 0o600);
    drop(opened);
    let mut tar = Vec::new();
    rig.layers().rw_tar_stream(&name("m"), &mut tar, &NEVER).unwrap();
    let top = rig.register(&tar, Some(base));
    let snapshot = rig.layers().layer(&top).unwrap().layer.snapshot;
    assert_eq!(rig.read(snapshot, "kept").as_deref(), Some(&b"kept"[..]));
    assert_eq!(rig.read(snapshot, "gone"), None);
    assert_eq!(rig.read(snapshot, "new").as_deref(), Some(&b"new"[..]));
    let committed = rig.layers().commit_rw(&name("m"), &Progress::default()).unwrap();
    assert_eq!((committed.chain, committed.existed), (top, true), "commit makes the same layer");
}
