//! Archives by the programs that people make archives with.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::*;

/// What every format can hold.
fn make_plain(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/empty"), "").unwrap();
    for size in [1, 511, 512, 513, 100_000, 1_500_000] {
        fs::write(root.join(format!("dir/{size}")), pattern(size)).unwrap();
    }
    fs::hard_link(root.join("dir/513"), root.join("dir/sub/link")).unwrap();
    symlink("../dir/513", root.join("dir/sub/symlink")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    fs::hard_link(root.join("dangling"), root.join("dangling-too")).unwrap();
    for (name, kind) in [("c", FileType::CharacterDevice), ("b", FileType::BlockDevice)] {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), makedev(250, 77)).unwrap();
    }
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    chown(root.join("dir/1"), Some(1000), Some(2_000_000)).unwrap();
    lchown(root.join("dangling"), Some(7), Some(8)).unwrap();
    fs::set_permissions(root.join("dir/1"), PermissionsExt::from_mode(0o6751)).unwrap();
    fs::set_permissions(root.join("dir/sub"), PermissionsExt::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("dir/511"), PermissionsExt::from_mode(0o000)).unwrap();
}

/// Long names, large owners and sizes.
fn make_long(root: &Path) {
    for length in [99, 100, 101, 154, 155, 156, 200, 250] {
        let name = "n".repeat(length);
        fs::write(root.join(&name), length.to_string()).unwrap();
        symlink("t".repeat(length), root.join(format!("l{length}"))).unwrap();
        let deep = root.join("d".repeat(length.min(200))).join(&name);
        fs::create_dir_all(deep.parent().unwrap()).unwrap();
        fs::hard_link(root.join(&name), deep).unwrap();
    }
    fs::write(root.join("grüße-世界 \n\t*"), "unicode").unwrap();
    fs::write(root.join("dir-big-owner"), "").unwrap();
    chown(root.join("dir-big-owner"), Some(3_000_000), Some(4_000_000_000)).unwrap();
}

/// What needs PAX records.
fn make_extended(root: &Path) {
    let file = root.join("xattrs");
    fs::write(&file, "content").unwrap();
    set_xattr(&file, "user.text", b"value");
    set_xattr(&file, "user.bytes", b"\x01\xfe=\n ");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&file, "security.capability", &capability);
    set_xattr(root, "user.root", b"ignored");
    fs::create_dir(root.join("d")).unwrap();
    set_xattr(&root.join("d"), "user.dir", b"yes");
    for (name, nanoseconds) in [("t1", 1), ("t2", 123_456_789), ("t3", 999_999_999)] {
        let file = File::create(root.join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(1_600_000_000, nanoseconds)).unwrap();
    }
    let directory = File::open(root.join("d")).unwrap();
    directory.set_modified(UNIX_EPOCH + Duration::new(1_500_000_000, 5)).unwrap();
}

/// Files with holes at all places, and one with more fragments than a header holds.
fn make_sparse(root: &Path) {
    let file = |name: &str, size: u64, data: &[u64]| {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &at in data {
            file.write_all_at(&pattern(4096), at).unwrap();
        }
    };
    file("all-hole", 1 << 20, &[]);
    file("end-hole", 1 << 20, &[0]);
    file("begin-hole", 1 << 20, &[(1 << 20) - 4096]);
    file("odd-end", 1_000_001, &[8192]);
    file("huge", 1 << 40, &[1 << 39]);
    file("many", 4 << 20, &(0..100).map(|n| n * 40_960).collect::<Vec<_>>());
    fs::write(root.join("dense"), pattern(10_000)).unwrap();
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n * 31 + n / 251 + 1) as u8).collect()
}

/// The tree by our hands is the tree by `tar -x`, and the bytes come back.
#[track_caller]
fn check(tar: &[u8]) -> Nodes {
    let (ours, theirs) = (scratch(), scratch());
    round_trip(ours.path(), tar);
    let extract = [
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "--same-owner",
        "--delay-directory-restore",
        "-xpf-",
    ];
    run(Command::new("tar").args(extract).arg("-C").arg(theirs.path()), tar);
    let nodes = nodes(ours.path());
    assert_same(&nodes, &self::nodes(theirs.path()));
    nodes
}

fn gnu_tar(root: &Path, args: &[&str]) -> Vec<u8> {
    run(Command::new("tar").args(args).arg("-C").arg(root).args(["-cf-", "."]), b"")
}

#[test]
fn gnu_tar_in_all_its_formats() {
    let plain = scratch();
    make_plain(plain.path());
    for format in ["v7", "oldgnu", "gnu", "ustar", "pax"] {
        if format != "v7" {
            check(&gnu_tar(plain.path(), &["--format", format]));
        }
        // v7 knows no devices and no fifos.
        let without = ["--format", format, "--exclude=./b", "--exclude=./c", "--exclude=./fifo"];
        check(&gnu_tar(plain.path(), &without));
    }
    make_long(plain.path());
    for format in ["oldgnu", "gnu", "pax"] {
        check(&gnu_tar(plain.path(), &["--format", format]));
    }
    make_extended(plain.path());
    let tar = gnu_tar(plain.path(), &["--format=pax", "--xattrs", "--xattrs-include=*"]);
    let nodes = check(&tar);
    assert_eq!(nodes[Path::new("xattrs")].xattrs.len(), 3);
    assert_eq!(nodes[Path::new("t2")].mtime, (1_600_000_000, 123_456_789));
    assert_eq!(nodes[Path::new("d")].mtime, (1_500_000_000, 5));
    assert_eq!(nodes[Path::new("dir-big-owner")].owner, (3_000_000, 4_000_000_000));
}

#[test]
fn gnu_tar_with_global_headers_and_odd_options() {
    let root = scratch();
    make_plain(root.path());
    let globals = "globexthdr.name=etc,comment=hello";
    check(&gnu_tar(root.path(), &["--format=pax", "--pax-option", globals]));
    check(&gnu_tar(root.path(), &["--format=pax", "--pax-option=exthdr.name=%d/x/%f,atime:=0"]));
}

#[test]
fn gnu_tar_sparse_files_in_all_formats() {
    let root = scratch();
    make_sparse(root.path());
    let formats: &[&[&str]] = &[
        &["--format=oldgnu"],
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let mut args = vec!["--sparse"];
        args.extend_from_slice(format);
        let tar = gnu_tar(root.path(), &args);
        assert!(tar.len() < 1 << 20, "{format:?}");
        check(&tar);
        let unpacked = scratch();
        apply(unpacked.path(), &tar).unwrap();
        let huge = fs::metadata(unpacked.path().join("huge")).unwrap();
        assert!(huge.blocks() < 1000, "the holes of {format:?} were filled");
        let mut block = [0; 4096];
        File::open(unpacked.path().join("huge")).unwrap().read_at(&mut block, 1 << 39).unwrap();
        assert_eq!(block[..], pattern(4096));
    }
}

#[test]
fn bsdtar_in_all_its_formats() {
    let root = scratch();
    make_plain(root.path());
    let bsdtar = |format: &str, root: &Path| {
        let args = ["--format", format, "--numeric-owner", "--no-acls", "-cf-", "-C"];
        run(Command::new("bsdtar").args(args).arg(root).arg("."), b"")
    };
    for format in ["ustar", "gnutar", "pax", "paxr"] {
        check(&bsdtar(format, root.path()));
    }
    make_long(root.path());
    make_extended(root.path());
    for format in ["gnutar", "pax"] {
        check(&bsdtar(format, root.path()));
    }
    let sparse = scratch();
    make_sparse(sparse.path());
    check(&bsdtar("pax", sparse.path()));
}

/// Python writes the same tree in three formats, and base-256 numbers and odd names besides.
#[test]
fn python_tarfile_in_all_its_formats() {
    let program = r#"
import sys, tarfile, io
form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
name, root = sys.argv[1], sys.argv[2]
headers = {"comment": "global", "mtime": "1.5"} if name == "pax" else None
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=form[name], pax_headers=headers) as tar:
    tar.add(root, arcname=".")
    if name != "ustar":
        info = tarfile.TarInfo("big")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
        info = tarfile.TarInfo("big/" + "é" * 120)
        info.uid, info.gid, info.size, info.mtime = 2**31, 2**32 - 2, 5, 2**33 + 0.25
        tar.addfile(info, io.BytesIO(b"hello"))
"#;
    let root = scratch();
    make_plain(root.path());
    for format in ["ustar", "gnu", "pax"] {
        if format != "ustar" && !root.path().join("xattrs").exists() {
            make_long(root.path());
            make_extended(root.path());
        }
        let mut python = Command::new("python3");
        let tar = run(python.args(["-c", program, format]).arg(root.path()), b"");
        let nodes = if format == "pax" { check_without_globals(&tar) } else { check(&tar) };
        if format != "ustar" {
            let (_, node) =
                nodes.iter().find(|(path, _)| path.parent() == Some(Path::new("big"))).unwrap();
            assert_eq!(node.owner, (1 << 31, u32::MAX - 1));
            assert_eq!(node.mtime.0, 1 << 33);
        }
    }
}

/// GNU tar takes `mtime` of a global header for the default; Go, and so containerd, doesn't.
#[track_caller]
fn check_without_globals(tar: &[u8]) -> Nodes {
    let root = scratch();
    round_trip(root.path(), tar);
    assert!(nodes(root.path()).values().all(|node| node.mtime != (1, 500_000_000)));
    nodes(root.path())
}

#[test]
fn compressed_layers_have_the_diff_id_of_the_tar_inside() {
    let root = scratch();
    make_plain(root.path());
    let tar = gnu_tar(root.path(), &[]);
    let plain = apply(scratch().path(), &tar).unwrap();
    for program in [["gzip", "-c"], ["zstd", "-c"]] {
        let packed = run(Command::new(program[0]).arg(program[1]), &tar);
        let unpacked = scratch();
        let (applied, record) = apply_recorded(unpacked.path(), &packed).unwrap();
        assert_eq!(applied.diff_id, plain.diff_id);
        assert!(tar_of(unpacked.path(), &record).1 == tar);
    }
}
