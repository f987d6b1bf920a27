//! Copies of random trees, and random changes of the copies.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::testing::{dir, manifest, set_xattr};
use super::tests::NEVER;
use super::*;

/// What makes and changes trees. Operations that don't fit are skipped.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    File(PathBuf, u16),
    Dir(PathBuf),
    Symlink(PathBuf, u8),
    Link(PathBuf, PathBuf),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32),
    Xattr(PathBuf, u8),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec("[abc]", 1..4).prop_map(|names| names.iter().collect())
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), any::<u16>()).prop_map(|(path, size)| Op::File(path, size)),
        5 => path().prop_map(Op::Dir),
        1 => (path(), any::<u8>()).prop_map(|(path, to)| Op::Symlink(path, to)),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => (path(), 0_u32..0o1000).prop_map(|(path, mode)| Op::Chmod(path, mode | 0o700)),
        1 => (path(), 0_u32..3).prop_map(|(path, owner)| Op::Chown(path, owner)),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Op::Xattr(path, value)),
        2 => path().prop_map(Op::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
    ]
}

pub(crate) fn apply(root: &Path, op: &Op) {
    let full = |path: &Path| root.join(path);
    let there = |path: &Path| fs::symlink_metadata(full(path)).ok();
    // A failure is an operation that doesn't fit.
    let _ = match op {
        Op::File(path, size) => fs::write(full(path), vec![b'x'; usize::from(*size)]),
        Op::Dir(path) => fs::create_dir(full(path)),
        Op::Symlink(path, to) => symlink(to.to_string(), full(path)),
        Op::Link(from, to) => fs::hard_link(full(from), full(to)),
        Op::Chmod(path, mode) => match there(path) {
            Some(stat) if !stat.is_symlink() => {
                fs::set_permissions(full(path), fs::Permissions::from_mode(*mode))
            }
            _ => Ok(()),
        },
        Op::Chown(path, owner) => std::os::unix::fs::lchown(full(path), Some(*owner), None),
        Op::Xattr(path, value) => {
            if there(path).is_some() {
                set_xattr(&full(path), "trusted.test", &[*value]);
            }
            Ok(())
        }
        Op::Remove(path) => match there(path) {
            Some(stat) if stat.is_dir() => fs::remove_dir_all(full(path)),
            _ => fs::remove_file(full(path)),
        },
        Op::Rename(from, to) => fs::rename(full(from), full(to)),
    };
}

/// What of an entry makes a difference, straight from `std`.
fn identity(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let entries = manifest(root).into_keys();
    entries
        .map(|path| {
            let full = root.join(&path);
            let stat = fs::symlink_metadata(&full).unwrap();
            let mut text = format!("{:o} {} {}", stat.mode(), stat.uid(), stat.gid());
            if stat.is_file() {
                text += &format!(" {} {}.{}", stat.size(), stat.mtime(), stat.mtime_nsec());
            }
            if stat.is_symlink() {
                text += &format!(" {:?}", fs::read_link(&full).unwrap());
            }
            let mut value = vec![0; 10];
            let length = rustix::fs::lgetxattr(&full, "trusted.test", &mut value[..]).unwrap_or(0);
            value.truncate(length);
            (path, (text, value))
        })
        .collect()
}

/// The differences by set arithmetic on whole trees.
fn expected(old: &Path, new: &Path) -> Vec<(PathBuf, ChangeKind)> {
    let kind = |root: &Path, path: &Path| fs::symlink_metadata(root.join(path)).unwrap().is_dir();
    let (before, after) = (identity(old), identity(new));
    let mut changes = BTreeMap::new();
    for (path, entry) in &after {
        match before.get(path) {
            None => drop(changes.insert(path.clone(), ChangeKind::Added)),
            Some(was) if was != entry => {
                changes.insert(path.clone(), ChangeKind::Modified);
            }
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        // Only the topmost of what is gone, and nothing below what is no directory now.
        let parent = path.parent().unwrap();
        if after.contains_key(parent) && kind(new, parent) {
            changes.insert(path.clone(), ChangeKind::Deleted);
        }
    }
    changes.into_iter().collect()
}

proptest! {
    #![proptest_config(crate::testing::random(150, 1_000))]

    #[test]
    fn copies_are_equal_and_changes_are_told_exactly(
        make in prop::collection::vec(op(), 0..60),
        change in prop::collection::vec(op(), 0..12),
    ) {
        let base = tempfile::tempdir().unwrap();
        let (old, new) = (base.path().join("old"), base.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        make.iter().for_each(|op| apply(&old, op));
        let control = Control { cancel: &NEVER, progress: &|_| {} };
        let before = manifest(&old);
        copy(dir(&old).as_fd(), dir(&new).as_fd(), control).unwrap();
        prop_assert_eq!(before, manifest(&new));
        prop_assert_eq!(told(&old, &new), vec![]);
        change.iter().for_each(|op| apply(&new, op));
        prop_assert_eq!(told(&old, &new), expected(&old, &new));
    }
}

fn told(old: &Path, new: &Path) -> Vec<(PathBuf, ChangeKind)> {
    let mut told = Vec::new();
    let options = DiffOptions::default();
    diff(dir(old).as_fd(), dir(new).as_fd(), options, &NEVER, &mut |change| {
        told.push((change.path.to_owned(), change.kind));
        ControlFlow::Continue(())
    })
    .unwrap();
    told
}
