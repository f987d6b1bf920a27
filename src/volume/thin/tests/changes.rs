//! What differs, from the pool's mapping, against a walk over all files.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::test_runner::TestRunner;

use super::*;
use crate::tree::proptests::{Op, apply, op};
use crate::tree::{ChangeKind, Changed, DiffOptions, diff};

static NEVER: AtomicBool = AtomicBool::new(false);

type Told = Vec<(PathBuf, ChangeKind)>;

fn told(old: &Mounted, new: &Mounted, options: DiffOptions<'_>) -> Told {
    let mut told = Vec::new();
    diff(old.root.as_fd(), new.root.as_fd(), options, &NEVER, &mut |change| {
        told.push((change.path.to_owned(), change.kind));
        ControlFlow::Continue(())
    })
    .unwrap();
    told
}

fn by_walk(old: &Mounted, new: &Mounted) -> Told {
    told(old, new, DiffOptions { same_lineage: true, ..DiffOptions::default() })
}

fn by_blocks(old: &Mounted, new: &Mounted, changed: &Changed) -> Told {
    let changed = Some(changed);
    told(old, new, DiffOptions { same_lineage: true, changed, ..DiffOptions::default() })
}

/// A committed volume with this tree.
fn base(backend: &ThinBackend, id: u32, make: impl FnOnce(&Path)) -> Volume {
    let volume = backend.create(VolumeId(id), None, None).unwrap();
    let mut mounted = backend.activate(&volume, Access::ReadWrite).unwrap();
    make(&below(&mounted, "."));
    backend.seal(&volume, &mut mounted).unwrap();
    backend.deactivate(&volume, mounted).unwrap();
    volume
}

/// Files enough that a few changes are a small part.
fn fill(root: &Path, directories: usize, files: usize, content: &[u8]) {
    for directory in 0..directories {
        let path = root.join(format!("fill/{}/{directory}", directory % 7));
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            std::fs::write(path.join(format!("file-{file}")), content).unwrap();
        }
    }
}

fn check(backend: &ThinBackend, ids: &mut u32, make: &[Op], change: &[Op]) {
    let mut id = || {
        *ids += 1;
        *ids
    };
    let old = base(backend, id(), |root| {
        fill(root, 20, 20, b"");
        make.iter().for_each(|op| apply(root, op));
    });
    let new = backend.create(VolumeId(id()), Some(&old), None).unwrap();
    let was = backend.activate(&old, Access::ReadOnly).unwrap();
    let mut is = backend.activate(&new, Access::ReadWrite).unwrap();
    let root = below(&is, ".");
    change.iter().for_each(|op| apply(&root, op));
    // Twice: while it can be written, and committed.
    for _ in 0..2 {
        let found = backend.changed(&old, &new, &is, &NEVER).unwrap();
        let found = found.expect("few inodes differ, on an ext4");
        let walked = by_walk(&was, &is);
        assert_eq!(by_blocks(&was, &is, &found), walked);
        if is.access == Access::ReadWrite {
            let content = DiffOptions { content: true, ..DiffOptions::default() };
            let compared = told(&was, &is, content);
            // A file that was written anew with the same bytes counts as changed, for its time.
            assert!(compared.iter().all(|change| walked.contains(change)), "{compared:?}");
            backend.seal(&new, &mut is).unwrap();
        }
    }
    for (volume, mounted) in [(&new, is), (&old, was)] {
        backend.deactivate(volume, mounted).unwrap();
        backend.destroy(volume).unwrap();
    }
}

#[test]
fn in_guest_the_pools_mapping_tells_the_same_changes_as_a_walk() {
    let rig = Rig::new();
    let backend = rig.start();
    let mut ids = 0;
    let fixed: [(&[Op], &[Op]); 3] = [
        (&[], &[]),
        // A directory that takes another's place, and one that goes to and fro.
        (
            &[
                Op::Dir("a".into()),
                Op::Dir("b".into()),
                Op::File("a/c".into(), 7),
                Op::File("b/c".into(), 9),
            ],
            &[
                Op::Rename("a".into(), "c".into()),
                Op::Rename("b".into(), "a".into()),
                Op::Rename("c".into(), "b".into()),
                Op::Chmod("fill/1/1/file-3".into(), 0o600),
            ],
        ),
        // Names of a changed file in directories that haven't changed.
        (
            &[
                Op::Link("fill/2/2/file-1".into(), "a".into()),
                Op::Link("fill/2/2/file-1".into(), "fill/3/3/b".into()),
            ],
            &[Op::File("fill/2/2/file-1".into(), 5000), Op::Remove("fill/4/4".into())],
        ),
    ];
    for (make, change) in fixed {
        check(&backend, &mut ids, make, change);
    }
    let ids = std::cell::Cell::new(ids);
    TestRunner::new(crate::testing::random(4, 20))
        .run(&(vec(op(), 0..40), vec(op(), 0..12)), |(make, change)| {
            let mut next = ids.get();
            // Counted before, for a failed case leaves its volumes.
            ids.set(next + 2);
            check(&backend, &mut next, &make, &change);
            Ok(())
        })
        .unwrap();
    backend.stop().unwrap();
}

/// Prints how long each way takes; asserts what each looks at.
#[test]
fn in_guest_a_mebibyte_in_a_large_tree_is_found_without_walking_it() {
    let rig = Rig::new();
    let backend = rig.start();
    let old = base(&backend, 1, |root| fill(root, 600, 30, b"content"));
    let new = backend.create(VolumeId(2), Some(&old), None).unwrap();
    let was = backend.activate(&old, Access::ReadOnly).unwrap();
    let is = backend.activate(&new, Access::ReadWrite).unwrap();
    std::fs::write(below(&is, "fill/3/10/file-7"), vec![7; MIB as usize]).unwrap();
    let expected = vec![(PathBuf::from("fill/3/10/file-7"), ChangeKind::Modified)];
    let cold = || {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    };
    let quick = || {
        let started = Instant::now();
        let found = backend.changed(&old, &new, &is, &NEVER).unwrap().unwrap();
        // The file; its directory, what is above it, and the root.
        assert_eq!((found.len(), found.above()), (1, 4));
        assert_eq!(by_blocks(&was, &is, &found), expected);
        started.elapsed()
    };
    let walk = || {
        let started = Instant::now();
        assert_eq!(by_walk(&was, &is), expected);
        started.elapsed()
    };
    let times: Vec<_> = [false, true]
        .into_iter()
        .map(|warm| {
            let timed = |work: &dyn Fn() -> Duration| {
                if !warm {
                    cold();
                }
                work()
            };
            (timed(&quick), timed(&walk))
        })
        .collect();
    println!("18,000 files, 1 MiB changed: by blocks and by a walk, cold, then warm: {times:?}");
    for (volume, mounted) in [(&new, is), (&old, was)] {
        backend.deactivate(volume, mounted).unwrap();
    }
    backend.stop().unwrap();
}

#[test]
fn in_guest_other_filesystems_and_large_changes_are_left_to_the_walk() {
    let rig = Rig::new();
    let backend = rig.start();
    let sizes = [("ext4", 256), ("ext2", 64), ("xfs", 320)];
    for (number, (filesystem, size)) in (0..).zip(sizes) {
        let (id, child) = (VolumeId(2 * number + 1), VolumeId(2 * number + 2));
        let old = backend.create_formatted(id, filesystem, Some(size * MIB)).unwrap();
        let mut mounted = backend.activate(&old, Access::ReadWrite).unwrap();
        backend.seal(&old, &mut mounted).unwrap();
        let new = backend.create(child, Some(&old), None).unwrap();
        let is = backend.activate(&new, Access::ReadWrite).unwrap();
        fill(&below(&is, "."), 3, 3, b"new");
        assert_eq!(backend.changed(&old, &new, &is, &NEVER).unwrap(), None, "{filesystem}");
        backend.deactivate(&new, is).unwrap();
        backend.deactivate(&old, mounted).unwrap();
    }
    backend.stop().unwrap();
}
