//! Removing.

use super::*;

#[test]
fn remove_clears_immutable_and_append_only() {
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    fs::create_dir_all(tree.join("frozen/sub")).unwrap();
    fs::write(tree.join("frozen/sub/file"), "x").unwrap();
    fs::write(tree.join("log"), "x").unwrap();
    symlink("x", tree.join("frozen/link")).unwrap();
    chmod(&tree.join("frozen/sub"), 0);
    let flag = |path: &str, flag| {
        let file = dir(&tree.join(path));
        ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | flag).unwrap();
    };
    flag("frozen/sub/file", IFlags::IMMUTABLE);
    flag("frozen/sub", IFlags::APPEND);
    flag("log", IFlags::APPEND);
    flag("frozen", IFlags::IMMUTABLE);
    flag("", IFlags::IMMUTABLE);
    remove_all(base.path(), "tree").unwrap();
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

#[test]
fn remove_takes_anything_and_is_idempotent() {
    let base = tempfile::tempdir().unwrap();
    let outside = base.path().join("outside");
    fs::write(&outside, "stays").unwrap();
    fs::create_dir(base.path().join("tree")).unwrap();
    everything(&base.path().join("tree"));
    symlink(&outside, base.path().join("tree/out")).unwrap();
    symlink(base.path(), base.path().join("link")).unwrap();
    for name in ["tree", "link", "absent", "tree"] {
        remove_all(base.path(), name).unwrap();
    }
    assert_eq!(fs::read(&outside).unwrap(), b"stays");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
}

#[test]
fn cancelled_removal_is_finished_by_the_next() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("tree")).unwrap();
    everything(&base.path().join("tree"));
    let cancelled = remove(dir(base.path()).as_fd(), c"tree", &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    remove_all(base.path(), "tree").unwrap();
    assert!(!base.path().join("tree").exists());
}
