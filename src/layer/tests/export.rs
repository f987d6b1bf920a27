//! Layers made of the changes between two trees.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::proptests::{acceptable, entries, tar};
use super::*;
use crate::layer::{Written, diff_tar};
use crate::tree::DiffOptions;

/// The layer from one tree to the other.
fn try_diff(old: &Path, new: &Path, out: &mut Vec<u8>) -> Result<Written> {
    let (old, new) = (open(old), open(new));
    diff_tar(old.as_fd(), new.as_fd(), DiffOptions::default(), out, &NEVER)
}

#[track_caller]
pub(super) fn diff(old: &Path, new: &Path, out: &mut Vec<u8>) -> Written {
    try_diff(old, new, out).unwrap()
}

fn copy(from: &Path) -> TempDir {
    let to = scratch();
    run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()), b"");
    to
}

/// Times of directories don't count: a difference in nothing else is none.
fn comparable(root: &Path) -> Nodes {
    let mut nodes = nodes(root);
    let is = |node: &Node, kind: u32| node.mode & 0o170000 == kind;
    nodes.values_mut().filter(|n| !is(n, 0o100000)).for_each(|n| n.mtime = (0, 0));
    nodes
}

/// Unpacked on the old tree, the layer gives the new one. Returns its names.
#[track_caller]
fn check(old: &Path, new: &Path) -> Vec<String> {
    let mut layer = Vec::new();
    let written = diff(old, new, &mut layer);
    assert_eq!(written.diff_id.as_bytes()[..], Sha256::digest(&layer)[..]);
    assert_eq!(written.tar_size, layer.len() as u64);
    let result = copy(old);
    let applied = round_trip(result.path(), &layer);
    assert_eq!(applied.entries, written.entries);
    assert_same(&comparable(result.path()), &comparable(new));
    let names = run(Command::new("tar").args(["--quoting-style=literal", "-tf-"]), &layer);
    String::from_utf8(names).unwrap().lines().map(str::to_owned).collect()
}

fn tree() -> TempDir {
    let root = scratch();
    let layer = Tar::default()
        .dir("a")
        .file("a/same", "same")
        .file("a/changed", "before")
        .file("a/gone", "")
        .dir("b")
        .dir("b/c")
        .file("b/c/deep", "")
        .symlink("b/link", "../a")
        .file("l1", "linked")
        .link("l2", "l1")
        .link("b/l3", "l1")
        .entry(&entry(Kind::Fifo, "fifo"), b"")
        .entry(&Entry { device: (1, 3), ..entry(Kind::CharDevice, "null") }, b"");
    apply(root.path(), &layer.end()).unwrap();
    root
}

#[test]
fn equal_trees_make_an_empty_layer() {
    let old = tree();
    let new = copy(old.path());
    assert!(check(old.path(), new.path()).is_empty());
}

#[test]
fn a_whole_tree_is_the_layer_on_nothing() {
    let (nothing, new) = (scratch(), tree());
    assert_eq!(check(nothing.path(), new.path()).len(), nodes(new.path()).len());
    let mut layer = Vec::new();
    diff(nothing.path(), new.path(), &mut layer);
    let extracted = scratch();
    run(Command::new("tar").args(["-xpf-", "-C"]).arg(extracted.path()), &layer);
    assert_same(&nodes(extracted.path()), &nodes(new.path()));
}

#[test]
fn changes_come_with_their_directories_and_removals_as_whiteouts() {
    let old = tree();
    let new = copy(old.path());
    let at = |path: &str| new.path().join(path);
    fs::write(at("a/changed"), "after!").unwrap();
    fs::remove_file(at("a/gone")).unwrap();
    fs::remove_dir_all(at("b/c")).unwrap();
    fs::write(at("b/c"), "a file now").unwrap();
    fs::remove_file(at("fifo")).unwrap();
    fs::create_dir_all(at("new/deep")).unwrap();
    fs::set_permissions(at("null"), PermissionsExt::from_mode(0o600)).unwrap();
    let names = check(old.path(), new.path());
    let expected =
        ["a/", "a/changed", "a/.wh.gone", "b/", "b/c", ".wh.fifo", "new/", "new/deep/", "null"];
    assert_eq!(names, expected);
}

#[test]
fn every_change_of_metadata_is_a_change() {
    let changes: &[fn(&Path)] = &[
        |root| fs::set_permissions(root.join("a"), PermissionsExt::from_mode(0o1777)).unwrap(),
        |root| std::os::unix::fs::chown(root.join("a/same"), Some(4_000_000), None).unwrap(),
        |root| set_xattr(&root.join("a/same"), "user.x", b"y"),
        |root| set_xattr(&root.join("a"), "user.x", b"y"),
        |root| {
            fs::remove_file(root.join("b/link")).unwrap();
            symlink("elsewhere", root.join("b/link")).unwrap();
        },
        |root| {
            let file = File::options().write(true).open(root.join("a/same")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 7)).unwrap();
        },
    ];
    for change in changes {
        let old = tree();
        let new = copy(old.path());
        change(new.path());
        assert!(!check(old.path(), new.path()).is_empty());
    }
}

#[test]
fn all_names_of_a_changed_file_go_on_naming_one_file() {
    let old = tree();
    let new = copy(old.path());
    fs::write(new.path().join("l1"), "changed").unwrap();
    assert_eq!(check(old.path(), new.path()), ["b/", "b/l3", "l1", "l2"]);
    // A new name alone: the old ones haven't changed.
    let new = copy(old.path());
    fs::create_dir(new.path().join("a/x")).unwrap();
    fs::hard_link(new.path().join("l1"), new.path().join("a/x/l4")).unwrap();
    let names = check(old.path(), new.path());
    assert_eq!(names, ["a/", "a/x/", "a/x/l4", "l2", "l1", "b/", "b/l3"]);
}

#[test]
fn sockets_and_the_hosts_own_attributes_are_left_out() {
    let (old, new) = (scratch(), scratch());
    let _socket = UnixListener::bind(new.path().join("socket")).unwrap();
    fs::write(new.path().join("file"), "").unwrap();
    set_xattr(&new.path().join("file"), "trusted.x", b"y");
    set_xattr(&new.path().join("file"), "user.x", b"y");
    let mut layer = Vec::new();
    diff(old.path(), new.path(), &mut layer);
    let result = scratch();
    let applied = apply(result.path(), &layer).unwrap();
    assert_eq!((applied.entries, applied.ignored_xattrs), (1, 0));
    assert_eq!(nodes(result.path())[Path::new("file")].xattrs.len(), 1);
}

#[test]
fn names_that_would_be_whiteouts_are_refused() {
    let refused = |old: &Path, new: &Path| {
        let result = try_diff(old, new, &mut Vec::new());
        assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
    };
    for name in [".wh.x", ".wh.", ".wh..wh..opq"] {
        let (file, dir) = (scratch(), scratch());
        fs::write(file.path().join(name), "").unwrap();
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("x"), "").unwrap();
        refused(scratch().path(), file.path());
        refused(scratch().path(), dir.path());
    }
    let old = scratch();
    fs::write(old.path().join(".wh..opq"), "").unwrap();
    refused(old.path(), scratch().path());
    // But such a name may go.
    let old = scratch();
    fs::write(old.path().join(".wh.x"), "").unwrap();
    assert_eq!(check(old.path(), scratch().path()), [".wh..wh.x"]);
}

/// In whatever order the files were made.
#[test]
fn the_same_trees_give_the_same_bytes() {
    let layer = |names: &[&str]| {
        let new = scratch();
        for name in names {
            fs::write(new.path().join(name), name).unwrap();
            let file = File::options().write(true).open(new.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let mut layer = Vec::new();
        diff(scratch().path(), new.path(), &mut layer);
        layer
    };
    assert!(layer(&["x", "a", "m"]) == layer(&["m", "x", "a"]));
}

proptest! {
    #![proptest_config(crate::testing::random(48, 200))]

    #[test]
    fn unpacked_on_the_old_tree_it_gives_the_new_one(
        first in prop::collection::vec(entries(), 0..12),
        second in prop::collection::vec(entries(), 0..12),
        related: bool,
    ) {
        let plain = |mut entries: Vec<(Entry, Vec<u8>)>| {
            entries.retain(|(entry, _)| !String::from_utf8_lossy(&entry.path).contains(".wh."));
            tar(&acceptable(entries))
        };
        let (old, new) = (scratch(), scratch());
        let (first, second) = (plain(first), plain(second));
        apply(old.path(), &first).unwrap();
        if related {
            apply(new.path(), &first).unwrap();
        }
        // On the first, the second may be impossible; half of it is a tree as well.
        drop(apply(new.path(), &second));
        let mut layer = Vec::new();
        let written = try_diff(old.path(), new.path(), &mut layer);
        prop_assume!(!matches!(written, Err(Error::Refused { .. })));
        apply(old.path(), &layer).unwrap();
        let unlinked = |root: &Path| {
            let mut nodes = comparable(root);
            nodes.values_mut().for_each(|node| node.same_as = PathBuf::new());
            nodes
        };
        assert_same(&unlinked(old.path()), &unlinked(new.path()));
    }
}
