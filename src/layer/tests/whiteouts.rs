//! Whiteouts hide what lies below the layer, and nothing of the layer itself.

use std::fs;

use super::*;

/// A parent's content: `d/{a,b}`, `d/sub/{c,deep/e}`, `other`.
fn parent() -> Vec<u8> {
    Tar::default()
        .dir_mode("d", 0o711)
        .file("d/a", "lower a")
        .file("d/b", "lower b")
        .entry(
            &Entry {
                mode: 0o700,
                uid: 7,
                xattrs: vec![(b"user.lower".into(), b"1".into())],
                ..entry(Kind::Directory, "d/sub")
            },
            b"",
        )
        .file("d/sub/c", "lower c")
        .dir("d/sub/deep")
        .file("d/sub/deep/e", "lower e")
        .file("other", "lower")
        .end()
}

/// Unpacks a layer made of these parts, in every order, on the parent's content; the result must
/// always be the same. Returns its paths.
#[track_caller]
fn in_any_order(parts: &[fn(Tar) -> Tar]) -> Vec<String> {
    let mut results: Vec<Nodes> = Vec::new();
    for order in permutations(parts.len()) {
        let scratch = scratch();
        apply(scratch.path(), &parent()).unwrap();
        let layer = order.iter().fold(Tar::default(), |tar, &part| parts[part](tar));
        round_trip(scratch.path(), &layer.end());
        let mut result = nodes(scratch.path());
        // Directories that the layer doesn't list have been written to just now.
        result.values_mut().filter(|n| n.mtime.0 != 1_700_000_000).for_each(|n| n.mtime = (0, 0));
        if let Some(first) = results.first() {
            assert_same(&result, first);
        }
        results.push(result);
    }
    results[0].keys().map(|path| path.to_str().unwrap().to_owned()).collect()
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert = |shorter: Vec<usize>| {
        (0..n).map(move |at| {
            let mut longer = shorter.clone();
            longer.insert(at, n - 1);
            longer
        })
    };
    permutations(n - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn a_whiteout_removes_files_and_whole_directories_of_the_parent() {
    assert_eq!(in_any_order(&[|t| t.file(".wh.d", ""), |t| t.file(".wh.other", "")]), [""; 0]);
    let left = in_any_order(&[|t| t.file("d/.wh.a", ""), |t| t.file("d/sub/.wh.deep", "")]);
    assert_eq!(left, ["d", "d/b", "d/sub", "d/sub/c", "other"]);
}

#[test]
fn a_whiteout_of_what_is_not_there_does_nothing() {
    let left = in_any_order(&[|t| t.file("d/.wh.nothing", "")]);
    let all = ["d", "d/a", "d/b", "d/sub", "d/sub/c", "d/sub/deep", "d/sub/deep/e", "other"];
    assert_eq!(left, all);
}

#[test]
fn a_whiteout_hides_no_entry_of_its_own_layer() {
    let left = in_any_order(&[|t| t.file("d/.wh.a", ""), |t| t.file("d/a", "upper")]);
    assert!(left.contains(&"d/a".into()));
    let left = in_any_order(&[|t| t.file(".wh.d", ""), |t| t.dir("d"), |t| t.file("d/x", "")]);
    assert_eq!(left, ["d", "d/x", "other"]);
    let left = in_any_order(&[|t| t.file(".wh.d", ""), |t| t.file("d/sub/deep/x", "")]);
    assert_eq!(left, ["d", "d/sub", "d/sub/deep", "d/sub/deep/x", "other"]);
}

#[test]
fn an_opaque_whiteout_empties_its_directory_of_the_parents_content() {
    let left = in_any_order(&[|t| t.file("d/.wh..wh..opq", "")]);
    assert_eq!(left, ["d", "other"]);
    let left = in_any_order(&[|t| t.file(".wh..wh..opq", "")]);
    assert!(left.is_empty());
}

#[test]
fn an_opaque_whiteout_hides_no_entry_of_its_own_layer() {
    let left = in_any_order(&[
        |t| t.file("d/.wh..wh..opq", ""),
        |t| t.dir("d"),
        |t| t.file("d/a", "upper"),
        |t| t.dir("d/sub").file("d/sub/x", ""),
    ]);
    assert_eq!(left, ["d", "d/a", "d/sub", "d/sub/x", "other"]);
}

/// The directory stays for the file in it, but nothing of it is the parent's any more.
#[test]
fn a_hidden_directory_that_is_needed_again_is_a_new_one() {
    let left = in_any_order(&[|t| t.file("d/.wh..wh..opq", ""), |t| t.file("d/sub/x", "upper")]);
    assert_eq!(left, ["d", "d/sub", "d/sub/x", "other"]);
    let scratch = scratch();
    apply(scratch.path(), &parent()).unwrap();
    let layer = Tar::default().file("d/sub/x", "upper").file("d/.wh..wh..opq", "").end();
    apply(scratch.path(), &layer).unwrap();
    let sub = &nodes(scratch.path())[Path::new("d/sub")];
    assert_eq!((sub.mode, sub.owner, sub.xattrs.len()), (0o040755, (0, 0), 0));
}

#[test]
fn a_directory_entry_merges_with_the_parents_directory() {
    let left = in_any_order(&[|t| t.dir_mode("d", 0o750)]);
    assert_eq!(left.len(), 8);
    let scratch = scratch();
    apply(scratch.path(), &parent()).unwrap();
    apply(scratch.path(), &Tar::default().dir_mode("d/sub", 0o750).end()).unwrap();
    let sub = &nodes(scratch.path())[Path::new("d/sub")];
    assert_eq!((sub.mode, sub.owner), (0o040750, (0, 0)));
    assert_eq!(sub.mtime, (1_700_000_000, 0));
    assert!(sub.xattrs.contains_key(&b"user.lower"[..]));
}

#[test]
fn a_whiteout_leaves_other_names_of_a_file_alone() {
    let scratch = scratch();
    apply(scratch.path(), &Tar::default().file("a", "both").link("b", "a").end()).unwrap();
    apply(scratch.path(), &Tar::default().file(".wh.a", "").end()).unwrap();
    assert_eq!(fs::read(scratch.path().join("b")).unwrap(), b"both");
}

#[test]
fn a_whiteout_removes_immutable_files_too() {
    use rustix::fs::{IFlags, ioctl_setflags};
    let scratch = scratch();
    apply(scratch.path(), &parent()).unwrap();
    let file = File::open(scratch.path().join("d/a")).unwrap();
    ioctl_setflags(&file, IFlags::IMMUTABLE).unwrap();
    apply(scratch.path(), &Tar::default().file(".wh.d", "").end()).unwrap();
    assert!(!scratch.path().join("d").exists());
}
