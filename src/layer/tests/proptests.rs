//! Random archives: they come back byte by byte, unpack twice to the same tree, and damaged ones
//! are errors and nothing worse.

use proptest::prelude::*;

use super::*;

/// Few names, so that entries meet.
fn path() -> impl Strategy<Value = String> {
    let name =
        prop::sample::select(vec!["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", "..", "s"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

pub(super) fn entries() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kinds = vec![
        Kind::File,
        Kind::File,
        Kind::Directory,
        Kind::Directory,
        Kind::Symlink,
        Kind::HardLink,
        Kind::Fifo,
    ];
    let content = (prop_oneof![0_usize..20, 500_usize..1500], any::<u8>())
        .prop_map(|(length, byte)| vec![byte; length]);
    let link = prop_oneof![path(), path().prop_map(|path| format!("/{path}"))];
    (prop::sample::select(kinds), path(), link, content, 0_u32..0o10000).prop_map(
        |(kind, path, link, content, mode)| {
            let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
            let link = if is_link { link.into_bytes() } else { Vec::new() };
            let content = if kind == Kind::File { content } else { Vec::new() };
            (Entry { link, mode, ..entry(kind, &path) }, content)
        },
    )
}

pub(super) fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    entries.iter().fold(Tar::default(), |tar, (entry, content)| tar.entry(entry, content)).end()
}

/// Entries that are errors after those before them (a link to nothing, a way through a file) are
/// left out: else nearly all random archives would be refused.
pub(super) fn acceptable(entries: Vec<(Entry, Vec<u8>)>) -> Vec<(Entry, Vec<u8>)> {
    let mut kept = Vec::new();
    for entry in entries {
        kept.push(entry);
        if apply(scratch().path(), &tar(&kept)).is_err() {
            kept.pop();
        }
    }
    kept
}

proptest! {
    #![proptest_config(crate::testing::random(48, 300))]

    #[test]
    fn every_accepted_archive_comes_back(
        entries in prop::collection::vec(entries(), 1..12),
        below in prop::collection::vec(entries(), 0..6),
        rest in prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 0..1000)],
    ) {
        let (below, entries) = (acceptable(below), acceptable(entries));
        let root = scratch();
        apply(root.path(), &tar(&below)).unwrap();
        let tar = [tar(&entries), rest].concat();
        if let Ok((applied, record)) = apply_recorded(root.path(), &tar) {
            let (result, back) = tar_of(root.path(), &record);
            prop_assert_eq!(result.unwrap().diff_id, applied.diff_id);
            prop_assert!(back == tar);
        }
    }

    #[test]
    fn a_damaged_archive_is_an_error_or_comes_back(
        entries in prop::collection::vec(entries(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index,
    ) {
        let mut tar = tar(&entries);
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        tar.truncate(cut.index(2 * tar.len()));
        let root = scratch();
        if let Ok((_, record)) = apply_recorded(root.path(), &tar) {
            prop_assert!(tar_of(root.path(), &record).1 == tar);
        }
    }
}
