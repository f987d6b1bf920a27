//! Archives that want out, or want more than they are given.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use super::*;

/// A root inside a directory whose other content must never change.
struct Cage {
    scratch: TempDir,
}

impl Cage {
    fn new() -> Self {
        let scratch = scratch();
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::write(scratch.path().join("victim"), "untouched").unwrap();
        Self { scratch }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    #[track_caller]
    fn assert_outside_is_untouched(&self) {
        let mut names: Vec<_> =
            fs::read_dir(self.scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["root", "victim"]);
        let victim = self.scratch.path().join("victim");
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o644);
    }
}

/// Unpacks, whatever comes of it, and looks at the outside.
#[track_caller]
fn unpack(tar: Tar) -> (Cage, Result<Applied>) {
    let cage = Cage::new();
    let result = apply(&cage.root(), &tar.end());
    cage.assert_outside_is_untouched();
    (cage, result)
}

#[track_caller]
fn assert_file(root: &Path, path: &str, content: &str) {
    assert_eq!(fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
}

#[test]
fn paths_with_dots_and_slashes_stay_below_the_root() {
    let names = ["../victim", "/../../victim", "a/../../victim", "./../victim", "..//victim"];
    for name in names {
        let (cage, result) = unpack(Tar::default().file(name, "inside"));
        result.unwrap();
        assert_file(&cage.root(), "victim", "inside");
    }
    let (cage, result) = unpack(Tar::default().file("/abs/./x//y", "inside"));
    result.unwrap();
    assert_file(&cage.root(), "abs/x/y", "inside");
}

#[test]
fn entries_that_name_the_root_are_ignored() {
    for name in ["", ".", "./", "/", "..", "../..", "a/.."] {
        let cage = Cage::new();
        let before = fs::metadata(cage.root()).unwrap();
        let tar = Tar::default().dir_mode(name, 0o4700).symlink(name, "/etc").file(name, "content");
        let applied = round_trip(&cage.root(), &tar.end());
        assert_eq!(applied.entries, 3);
        let after = fs::metadata(cage.root()).unwrap();
        assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
        assert!(nodes(&cage.root()).is_empty());
    }
}

#[test]
fn symlinks_lead_no_further_than_the_root() {
    let targets = ["..", "../..", "/..", "/../../..", "../../root/..", "nowhere/../../.."];
    for target in targets {
        let tar = Tar::default().symlink("out", target).file("out/victim", "inside");
        let (cage, result) = unpack(tar);
        result.unwrap();
        assert_file(&cage.root(), "victim", "inside");
    }
}

#[test]
fn chains_of_symlinks_are_followed_below_the_root() {
    let tar = Tar::default()
        .dir("d")
        .symlink("a", "/b")
        .symlink("b", "d/c")
        .symlink("d/c", "../../d/e")
        .file("a/x", "inside");
    let (cage, result) = unpack(tar);
    result.unwrap();
    assert_file(&cage.root(), "d/e/x", "inside");
}

#[test]
fn symlink_loops_are_an_error() {
    let tar = Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "");
    assert_refused(unpack(tar).1);
    let tar = Tar::default().symlink("a", "a/a").file("a/x", "");
    assert_refused(unpack(tar).1);
}

/// Each link doubles the path: followed naively, this takes 2^200 steps.
#[test]
fn symlinks_that_multiply_are_cut_off() {
    let mut tar = Tar::default().dir("l0");
    for n in 1..200 {
        let before = n - 1;
        tar = tar.symlink(&format!("l{n}"), &format!("l{before}/../l{before}"));
        tar = tar.symlink(&format!("m{n}"), &format!("/l{before}/../l{before}/../l{before}"));
    }
    drop(unpack(tar.file("m199/x", "")).1);
}

#[test]
fn an_existing_symlink_is_replaced_and_not_followed() {
    for kind in [Kind::File, Kind::Directory, Kind::Fifo] {
        let cage = Cage::new();
        symlink("../victim", cage.root().join("x")).unwrap();
        apply(&cage.root(), &Tar::default().entry(&entry(kind, "x"), b"").end()).unwrap();
        assert!(!fs::symlink_metadata(cage.root().join("x")).unwrap().is_symlink());
        cage.assert_outside_is_untouched();
    }
}

#[test]
fn an_absolute_symlink_of_the_tree_means_the_trees_root() {
    let cage = Cage::new();
    let outside = cage.scratch.path().to_owned();
    symlink(&outside, cage.root().join("out")).unwrap();
    apply(&cage.root(), &Tar::default().file("out/victim", "inside").end()).unwrap();
    cage.assert_outside_is_untouched();
    let inside = cage.root().join(outside.strip_prefix("/").unwrap()).join("victim");
    assert_eq!(fs::read(inside).unwrap(), b"inside");
}

#[test]
fn hard_links_reach_nothing_outside() {
    for target in ["../victim", "/../victim", "../../victim", "out/victim"] {
        let tar = Tar::default().symlink("out", "../..").link("x", target);
        let (cage, result) = unpack(tar);
        assert_refused(result);
        assert!(!cage.root().join("x").exists());
    }
}

#[test]
fn a_hard_link_to_a_symlink_is_that_symlink() {
    let cage = Cage::new();
    let victim = cage.scratch.path().join("victim");
    let tar = Tar::default()
        .symlink("s", victim.to_str().unwrap())
        .entry(&Entry { link: b"s".into(), mode: 0, ..entry(Kind::HardLink, "h") }, b"");
    apply(&cage.root(), &tar.end()).unwrap();
    cage.assert_outside_is_untouched();
    let nodes = nodes(&cage.root());
    assert_eq!(nodes[Path::new("s")].same_as, nodes[Path::new("h")].same_as);
}

#[test]
fn hard_links_to_directories_themselves_or_nothing_are_errors() {
    let cases = [
        Tar::default().dir("d").link("x", "d"),
        Tar::default().dir("d").link("x", "d/"),
        Tar::default().dir("d").link("x", "d/."),
        Tar::default().link("x", "/"),
        Tar::default().link("x", ""),
        Tar::default().link("x", ".."),
        Tar::default().link("x", "missing"),
        Tar::default().link("x", "missing/y"),
        Tar::default().file("x", "").link("x", "x"),
        Tar::default().file("f", "").link("x", "f/y"),
    ];
    for tar in cases {
        assert_refused(unpack(tar).1);
    }
}

#[test]
fn whiteouts_reach_nothing_outside() {
    let tar = Tar::default().symlink("out", "../..").file("out/.wh.victim", "");
    unpack(tar).1.unwrap();
    let tar = Tar::default().file("../.wh.victim", "").file("../.wh..wh..opq", "");
    unpack(tar).1.unwrap();
    let tar = Tar::default().symlink("out", "..").file("out/.wh..wh..opq", "");
    let (cage, result) = unpack(tar);
    result.unwrap();
    assert!(cage.root().is_dir());
}

#[test]
fn whiteouts_of_the_directory_they_are_in_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        let (cage, result) = unpack(Tar::default().file("d/keep", "").file(name, ""));
        assert_refused(result);
        assert!(cage.root().join("d/keep").exists());
    }
}

#[test]
fn an_entry_below_a_file_is_an_error() {
    assert_refused(unpack(Tar::default().file("f", "").file("f/x", "")).1);
    assert_refused(unpack(Tar::default().symlink("l", "f").file("f", "").file("l/x", "")).1);
    assert_refused(unpack(Tar::default().entry(&entry(Kind::Fifo, "p"), b"").file("p/x", "")).1);
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let kinds: [fn(Tar) -> Tar; 5] = [
        |tar| tar.file("x", "content"),
        |tar| tar.dir("x").file("x/below/deep", "content"),
        |tar| tar.symlink("x", "target"),
        |tar| tar.entry(&entry(Kind::Fifo, "x"), b""),
        |tar| tar.file("other", "content").link("x", "other"),
    ];
    for first in kinds {
        for second in kinds {
            let cage = Cage::new();
            round_trip(&cage.root(), &second(first(Tar::default())).end());
            let alone = Cage::new();
            apply(&alone.root(), &second(Tar::default()).end()).unwrap();
            let mut ours = nodes(&cage.root());
            ours.retain(|path, _| path.starts_with("x"));
            let mut expected = nodes(&alone.root());
            expected.retain(|path, _| path.starts_with("x"));
            // A directory on a directory is merged.
            ours.retain(|path, _| expected.contains_key(path) || !path.starts_with("x/below"));
            for nodes in [&mut ours, &mut expected] {
                nodes.values_mut().for_each(|node| {
                    node.same_as = PathBuf::new();
                    if node.mode == 0o040755 {
                        node.mtime = (0, 0);
                    }
                });
            }
            assert_same(&ours, &expected);
        }
    }
}

#[test]
fn a_directory_replaced_by_a_symlink_is_no_longer_a_way_in() {
    let tar = Tar::default()
        .dir("d")
        .file("d/a", "before")
        .symlink("d", "e")
        .file("d/b", "after")
        .dir("d")
        .file("d/c", "last");
    let (cage, result) = unpack(tar);
    result.unwrap();
    assert_file(&cage.root(), "e/b", "after");
    assert_file(&cage.root(), "d/c", "last");
    assert!(!cage.root().join("d/a").exists() && !cage.root().join("d/b").exists());
}

#[test]
fn claimed_sizes_cost_nothing() {
    let huge: &[&[u8]] = &[b"77777777777", b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"];
    for size in huge {
        let tar = Tar::default().raw(|block| put(block, 124, 12, size), b"only this");
        let (cage, result) = unpack(tar);
        assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
        let blocks = fs::metadata(cage.root().join("raw")).map_or(0, |meta| meta.blocks());
        assert!(blocks < 100);
    }
    let negative: &[u8] = &[0xff; 12];
    assert_refused(unpack(Tar::default().raw(|block| put(block, 124, 12, negative), b"")).1);
}

#[test]
fn claimed_sizes_of_extended_headers_cost_nothing() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let tar = Tar::default().raw(
            |block| {
                put(block, 124, 12, b"77777777777");
                block[156] = flag;
            },
            b"",
        );
        assert_refused(unpack(tar).1);
    }
}

#[test]
fn endless_extended_headers_are_cut_off() {
    let mut tar = Tar::default();
    for _ in 0..1000 {
        tar = tar.raw(
            |block| {
                block[156] = b'x';
                put(block, 124, 12, b"00000000011");
            },
            b"9 k=vvvv\n",
        );
    }
    assert_refused(unpack(tar.file("x", "")).1);
}

#[test]
fn decompression_bombs_end_at_the_limit() {
    let cage = Cage::new();
    let tar = Tar::default().entry(&entry(Kind::File, "x"), &vec![0; 8 << 20]).end();
    let bomb = zstd::encode_all(&*tar, 3).unwrap();
    assert!(bomb.len() < 10_000);
    let done = AtomicU64::new(0);
    let limits = Limits { bytes: 1 << 20, entries: 10, ..Limits::default() };
    let options = Options { limits, ..options(&done) };
    let result = crate::layer::apply(open(&cage.root()).as_fd(), &*bomb, &mut (), options);
    assert!(matches!(result, Err(Error::Limit { what: "bytes", .. })), "{result:?}");
}

#[test]
fn more_entries_than_allowed_are_an_error() {
    let cage = Cage::new();
    let tar = (0..11).fold(Tar::default(), |tar, n| tar.dir(&format!("d{n}"))).end();
    let done = AtomicU64::new(0);
    let limits = Limits { bytes: 1 << 20, entries: 10, ..Limits::default() };
    let options = Options { limits, ..options(&done) };
    let result = crate::layer::apply(open(&cage.root()).as_fd(), &*tar, &mut (), options);
    assert!(matches!(result, Err(Error::Limit { what: "entries", .. })), "{result:?}");
}

/// Unpacks with a record and this much memory for what is kept until the end.
fn apply_retaining(retained: u64, tar: &[u8]) -> Result<Applied> {
    let root = scratch();
    let done = AtomicU64::new(0);
    let limits = Limits { retained, ..Limits::default() };
    let options = Options { limits, ..options(&done) };
    let mut recorder = Recorder::new(Vec::new())?;
    crate::layer::apply(open(root.path()).as_fd(), tar, &mut recorder, options)
}

/// A few MB of zstd are 64 GiB of names.
#[test]
fn names_of_attributes_that_are_not_set_cost_nothing() {
    let name = ["trusted.", &"x".repeat(1_000_000)].concat();
    let tar = (0..20).fold(Tar::default(), |tar, n| {
        let xattrs = vec![(name.clone().into_bytes(), Vec::new())];
        tar.entry(&Entry { xattrs, ..entry(Kind::Directory, &format!("d{n:02}")) }, b"")
    });
    assert_eq!(apply_retaining(60, &tar.end()).unwrap().ignored_xattrs, 20);
}

#[test]
fn what_is_kept_until_the_end_has_a_limit() {
    let set = |path: &str| Entry {
        xattrs: vec![(b"user.".repeat(20), b"1".to_vec())],
        ..entry(Kind::Directory, path)
    };
    let paths = (0..20).fold(Tar::default(), |tar, n| tar.file(&format!("{n:0100}"), ""));
    let names = (0..20).fold(Tar::default(), |tar, n| tar.entry(&set(&format!("{n}")), b""));
    let runs: Vec<_> = (0..100).map(|n| format!("{},1", 2 * n)).collect();
    let records = [
        odd::pax("GNU.sparse.map", runs.join(",").as_bytes()),
        odd::pax("GNU.sparse.numblocks", b"100"),
        odd::pax("GNU.sparse.size", b"200"),
    ];
    let map = odd::pax_header(Tar::default(), &records.concat()).file("s", &"x".repeat(100));
    for tar in [paths, names, map] {
        let tar = tar.end();
        apply_retaining(3000, &tar).unwrap();
        let result = apply_retaining(1500, &tar);
        let Err(error @ Error::Limit { limit: 1500, .. }) = result else { panic!("{result:?}") };
        assert!(error.to_string().starts_with("the layer has more than 1500 bytes of paths"));
    }
    // What goes again, or is there twice, counts once.
    let again = (0..100).fold(Tar::default(), |tar, _| {
        let tar = tar.entry(&set("d"), b"").file("d/file", "content");
        tar.entry(&set("d"), b"").symlink("d", "elsewhere")
    });
    apply_retaining(200, &again.end()).unwrap();
}

#[test]
fn errors_show_the_beginning_of_a_long_name() {
    let long = "x".repeat(1_000_000);
    let bad_owner = Entry { uid: -1, ..entry(Kind::File, &long[..250]) };
    let cases = [
        Tar::default().file(&long, ""),
        Tar::default().file(&["d/", &long, "/f"].concat(), ""),
        Tar::default().link("l", &["missing/", &long].concat()),
        Tar::default().entry(&bad_owner, b""),
    ];
    for tar in cases {
        let error = unpack(tar).1.unwrap_err().to_string();
        assert!(error.contains("xxx…") && error.len() < 500, "{} bytes", error.len());
    }
}

#[test]
fn deep_and_long_paths_are_made_or_refused_and_nothing_else() {
    let deep = "d/".repeat(1500) + "f";
    let (cage, result) = unpack(Tar::default().file(&deep, "deep"));
    result.unwrap();
    // Removal must cope as well.
    apply(&cage.root(), &Tar::default().file(".wh.d", "").end()).unwrap();
    assert!(nodes(&cage.root()).is_empty());
    // Nothing of it is made.
    for path in ["d/".repeat(3000), "d/".repeat(400_000), "d/../".repeat(50) + &"d/".repeat(3000)] {
        let (cage, result) = unpack(Tar::default().file(&path, ""));
        assert_refused(result);
        assert!(fs::read_dir(cage.root()).unwrap().next().is_none());
    }
    assert_refused(unpack(Tar::default().file(&"x".repeat(256), "")).1);
    assert_refused(unpack(Tar::default().file(&("x".repeat(256) + "/y"), "")).1);
}

#[test]
fn owners_devices_and_types_out_of_range_are_refused() {
    let big = i64::from(u32::MAX);
    for uid in [-1, big, big + 1, i64::MAX, i64::MIN] {
        let tar = Tar::default().entry(&Entry { uid, ..entry(Kind::File, "x") }, b"");
        assert_refused(unpack(tar).1);
    }
    for device in [(4096, 0), (0, 1 << 20), (-1, 0)] {
        let tar = Tar::default().raw(
            |block| {
                block[156] = b'3';
                let field = |number: i64| {
                    let mut field = (number as u64).to_be_bytes();
                    field[0] |= 0x80;
                    field
                };
                put(block, 329, 8, &field(device.0));
                put(block, 337, 8, &field(device.1));
            },
            b"",
        );
        assert_refused(unpack(tar).1);
    }
    for flag in [b'8', b'A', b'M', b'V', b'D', 0xff] {
        assert_refused(unpack(Tar::default().raw(|block| block[156] = flag, b"")).1);
    }
}

#[test]
fn devices_are_made_as_such_and_never_opened() {
    let device = |kind, path: &str| Entry { device: (1, 3), mode: 0o4666, ..entry(kind, path) };
    let tar = Tar::default()
        .entry(&device(Kind::CharDevice, "c"), b"")
        .entry(&device(Kind::BlockDevice, "b"), b"")
        .link("c2", "c")
        .entry(&entry(Kind::Fifo, "p"), b"")
        .link("p2", "p");
    let (cage, result) = unpack(tar);
    result.unwrap();
    let kind = |path| fs::symlink_metadata(cage.root().join(path)).unwrap().file_type();
    assert!(kind("c").is_char_device() && kind("b").is_block_device() && kind("p2").is_fifo());
}

#[test]
fn trusted_attributes_are_left_out_and_counted() {
    let xattrs = vec![
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.kept".to_vec(), b"1".to_vec()),
    ];
    let tar = Tar::default()
        .entry(&Entry { xattrs: xattrs.clone(), ..entry(Kind::Directory, "d") }, b"")
        .entry(&Entry { xattrs, link: b"x".into(), ..entry(Kind::Symlink, "s") }, b"");
    let (cage, result) = unpack(tar);
    assert_eq!(result.unwrap().ignored_xattrs, 3);
    let names: Vec<_> = xattrs_of(&cage, "d");
    assert_eq!(names, [b"user.kept"]);
    assert!(xattrs_of(&cage, "s").is_empty());
}

fn xattrs_of(cage: &Cage, path: &str) -> Vec<Vec<u8>> {
    super::xattrs(&cage.root().join(path)).into_keys().collect()
}

#[test]
fn a_flag_stops_the_work() {
    let cage = Cage::new();
    let cancel = AtomicBool::new(true);
    let done = AtomicU64::new(0);
    let options = Options { cancel: &cancel, ..options(&done) };
    let tar = Tar::default().file("x", "").end();
    let result = crate::layer::apply(open(&cage.root()).as_fd(), &*tar, &mut (), options);
    assert!(matches!(result, Err(Error::Cancelled)));
}

/// A layer's tar, an end, and zeros for ever; sets the flag on its way.
struct Endless<'a> {
    tar: Cursor<Vec<u8>>,
    given: usize,
    cancel: &'a AtomicBool,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.tar.read(buffer)?;
        let length = if read > 0 { read } else { buffer.len() };
        buffer[read..length].fill(0);
        self.given += length;
        self.cancel.store(self.given > 32 << 20, std::sync::atomic::Ordering::Relaxed);
        Ok(length)
    }
}

/// Terabytes of zeros are a small layer, too.
#[test]
fn a_flag_stops_the_work_behind_the_archives_end() {
    let cage = Cage::new();
    let (cancel, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let limits = Limits { bytes: 256 << 20, ..Limits::default() };
    let options = Options { limits, cancel: &cancel, done: &done };
    let tar = Cursor::new(Tar::default().file("x", "").end());
    let input = Endless { tar, given: 0, cancel: &cancel };
    let result = crate::layer::apply(open(&cage.root()).as_fd(), input, &mut (), options);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}
