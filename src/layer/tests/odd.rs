//! Well-formed archives that no common program writes, and endings of all kinds.

use std::fs;

use super::*;

/// Everything a layer replaces in itself is kept in the record.
#[test]
fn contents_that_the_layer_itself_replaces_come_back() {
    let big = "0123456789".repeat(300_000);
    let tar = Tar::default()
        .file("a", "first")
        .file("a", "second")
        .file("big", &big)
        .dir("d")
        .file("d/x", "in a directory that goes")
        .file("d/e/y", &big)
        .file("d", "a file in its place")
        .file("l", "linked")
        .link("m", "l")
        .file("l", "not linked")
        .symlink("big", "a")
        .end();
    let root = scratch();
    round_trip(root.path(), &tar);
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"second");
    assert_eq!(fs::read(root.path().join("m")).unwrap(), b"linked");
    let (_, record) = apply_recorded(scratch().path(), &tar).unwrap();
    assert!(record.len() < 50_000, "rescued contents are compressed: {}", record.len());
}

#[test]
fn sparse_contents_that_are_replaced_come_back() {
    let sparse = |tar: Tar| {
        let map = b"2\n1024\n512\n4096\n100\n";
        let mut content = map.to_vec();
        content.resize(512, 0);
        content.extend([7; 612]);
        let records = [
            pax("GNU.sparse.major", b"1"),
            pax("GNU.sparse.minor", b"0"),
            pax("GNU.sparse.name", b"s"),
            pax("GNU.sparse.realsize", b"10000"),
        ];
        pax_header(tar, &records.concat())
            .file("GNUSparseFile.0/s", std::str::from_utf8(&content).unwrap())
    };
    let root = scratch();
    round_trip(root.path(), &sparse(Tar::default()).end());
    let bytes = fs::read(root.path().join("s")).unwrap();
    assert_eq!(bytes.len(), 10_000);
    assert_eq!(bytes.iter().filter(|&&byte| byte == 7).count(), 612);
    assert!(bytes[1024..1536].iter().chain(&bytes[4096..4196]).all(|&byte| byte == 7));
    round_trip(scratch().path(), &sparse(sparse(Tar::default())).dir("s").end());
}

/// One PAX record.
pub(super) fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

pub(super) fn pax_header(tar: Tar, records: &[u8]) -> Tar {
    special(tar, b'x', records)
}

pub(super) fn special(tar: Tar, flag: u8, content: &[u8]) -> Tar {
    let size = format!("{:011o}", content.len());
    tar.raw(
        |block| {
            block[156] = flag;
            put(block, 124, 12, size.as_bytes());
        },
        content,
    )
}

#[test]
fn every_way_to_end_an_archive_comes_back() {
    let body = Tar::default().file("a", "content").dir("d");
    let second = Tar::default().file("hidden", "not ours").end();
    let zeros = [0; 20 * BLOCK];
    let endings: &[&[u8]] = &[
        b"",
        &zeros[..BLOCK],
        &zeros[..2 * BLOCK],
        &zeros,
        &[&zeros[..2 * BLOCK], b"trailing garbage"].concat(),
        &[&zeros[..2 * BLOCK], &*second].concat(),
        &[&zeros[..2 * BLOCK], &*vec![0xa5; 3_000_000]].concat(),
    ];
    for ending in endings {
        let root = scratch();
        let applied = round_trip(root.path(), &body.clone().bytes(ending).0);
        assert_eq!(applied.entries, 2);
        assert_eq!(nodes(root.path()).len(), 2);
    }
}

#[test]
fn an_empty_stream_and_an_empty_archive_are_layers() {
    for tar in [&[][..], &[0; BLOCK], &[0; 2 * BLOCK]] {
        assert_eq!(round_trip(scratch().path(), tar).entries, 0);
    }
    let empty = round_trip(scratch().path(), &[0; 2 * BLOCK]).diff_id.to_string();
    assert_eq!(empty, "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
}

#[test]
fn padding_and_headers_may_hold_anything() {
    let mut tar = Tar::default()
        .file("a", "x")
        .raw(
            |block| {
                block[500..512].copy_from_slice(b"not for us!!");
                put(block, 265, 32, b"a user");
            },
            b"",
        )
        .end();
    // The padding behind "x".
    let content = tar.iter().position(|&byte| byte == b'x').unwrap();
    let padding = (content / BLOCK + 1) * BLOCK;
    tar[padding - 5..padding].copy_from_slice(b"trash");
    round_trip(scratch().path(), &tar);
}

#[test]
fn archives_that_stop_in_the_middle_are_errors_at_every_byte() {
    let tar =
        pax_header(Tar::default(), &pax("path", b"name")).file("a", "content").file("b", "x").0;
    let (mut clean, mut broken) = (Vec::new(), 0);
    for length in 0..tar.len() {
        match apply(scratch().path(), &tar[..length]) {
            Ok(_) => clean.push(length),
            Err(Error::Malformed { .. }) => broken += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    // Between entries, and in the padding behind a content, which Go accepts as well.
    let blocks = |length: usize| length / BLOCK;
    assert!(clean.iter().all(|&length| length % BLOCK == 0 || [1, 3, 5].contains(&blocks(length))));
    assert!(broken > 1500);
}

#[test]
fn damage_in_a_header_is_noticed() {
    let tar = Tar::default().file("a", "content").end();
    // The two bytes behind the checksum may be a space or a NUL.
    for at in (0..BLOCK).filter(|at| !(154..156).contains(at)) {
        let mut damaged = tar.clone();
        damaged[at] ^= 0x20;
        assert!(apply(scratch().path(), &damaged).is_err(), "byte {at}");
    }
    let lone_zero_block = Tar::default().bytes(&[0; BLOCK]).file("a", "").end();
    assert!(matches!(apply(scratch().path(), &lone_zero_block), Err(Error::Malformed { .. })));
}

#[test]
fn old_headers_are_understood() {
    let tar = Tar::default()
        // v7: no magic, a directory by its slash, a checksum of signed bytes.
        .raw(
            |block| {
                put(block, 0, 100, b"v7-dir/");
                put(block, 100, 8, b"0000711\0");
                put(block, 257, 8, b"");
                block[156] = 0;
            },
            b"",
        )
        // ustar with a prefix.
        .raw(
            |block| {
                put(block, 0, 100, b"name");
                put(block, 345, 155, b"some/prefix");
            },
            b"",
        )
        // star: a shorter prefix, then times.
        .raw(
            |block| {
                put(block, 0, 100, b"star");
                put(block, 345, 131, b"prefix");
                put(block, 476, 12, b"00000000017");
                put(block, 488, 12, b"00000000017");
                block[508..512].copy_from_slice(b"tar\0");
            },
            b"",
        )
        // GNU with times where ustar has its prefix.
        .raw(
            |block| {
                put(block, 0, 100, b"gnu");
                block[257..265].copy_from_slice(b"ustar  \0");
                put(block, 345, 12, b"00000000017");
            },
            b"",
        )
        .end();
    let root = scratch();
    round_trip(root.path(), &tar);
    let paths: Vec<_> = nodes(root.path()).into_keys().collect();
    let expected =
        ["gnu", "prefix", "prefix/star", "some", "some/prefix", "some/prefix/name", "v7-dir"];
    assert_eq!(paths, expected.map(PathBuf::from));
    assert_eq!(nodes(root.path())[Path::new("v7-dir")].mode, 0o040711);
}

#[test]
fn a_name_comes_from_the_strongest_header() {
    let both = pax_header(Tar::default(), &pax("path", b"from-pax"));
    let both = special(both, b'L', b"from-gnu\0").file("from-header", "");
    let twice = pax_header(both, &pax("path", b"first"));
    let twice = pax_header(twice, &pax("path", b"second")).file("third", "");
    let empty = pax_header(twice, &pax("path", b"")).file("header-again", "");
    let global = special(empty, b'g', &pax("path", b"global")).file("not-global", "");
    let long_link = special(global, b'K', b"a-long-target\0").symlink("s", "short");
    let root = scratch();
    round_trip(root.path(), &long_link.end());
    let paths: Vec<_> = nodes(root.path()).into_keys().collect();
    let expected = ["from-gnu", "header-again", "not-global", "s", "second"];
    assert_eq!(paths, expected.map(PathBuf::from));
    assert_eq!(fs::read_link(root.path().join("s")).unwrap(), Path::new("a-long-target"));
}

/// A global header named like a directory of the parent: containerd 1.6 removes that directory.
#[test]
fn a_global_header_touches_nothing() {
    let root = scratch();
    apply(root.path(), &Tar::default().file("etc/passwd", "x").end()).unwrap();
    let tar = Tar::default().raw(
        |block| {
            put(block, 0, 100, b"etc");
            put(block, 124, 12, b"00000000006");
            block[156] = b'g';
        },
        b"6 k=v\n",
    );
    round_trip(root.path(), &tar.end());
    assert!(root.path().join("etc/passwd").exists());
}

#[test]
fn a_size_in_a_record_counts_and_links_have_no_content() {
    let tar = pax_header(Tar::default(), &pax("size", b"7"));
    let tar = tar.raw(|block| put(block, 0, 100, b"f"), b"content");
    let tar = tar
        .raw(
            |block| {
                put(block, 0, 100, b"h");
                put(block, 157, 100, b"f");
                put(block, 124, 12, b"00000000007");
                block[156] = b'1';
            },
            b"",
        )
        .end();
    let root = scratch();
    round_trip(root.path(), &tar);
    assert_eq!(fs::read(root.path().join("h")).unwrap(), b"content");
}

#[test]
fn damaged_sparse_maps_are_refused() {
    let sparse = |map: &str, blocks: &str, size: &str, content: &[u8]| {
        let records = [
            pax("GNU.sparse.map", map.as_bytes()),
            pax("GNU.sparse.numblocks", blocks.as_bytes()),
            pax("GNU.sparse.size", size.as_bytes()),
        ];
        let tar = pax_header(Tar::default(), &records.concat());
        apply(scratch().path(), &tar.entry(&entry(Kind::File, "s"), content).end())
    };
    sparse("0,3,10,3", "2", "100", b"abcdef").unwrap();
    let cases = [
        ("0,3,10,3", "1", "100"),
        ("0,3,10", "2", "100"),
        ("0,3,2,3", "2", "100"),
        ("10,3,0,3", "2", "100"),
        ("0,3,98,3", "2", "100"),
        ("0,3,10,2", "2", "100"),
        ("0,3,10,4", "2", "100"),
        ("0,3,-10,3", "2", "100"),
        ("0,3,10,x", "2", "100"),
        ("0,3,9223372036854775807,3", "2", "9223372036854775807"),
        ("0,3,10,3", "2", "-1"),
        ("0,3,10,3", "9223372036854775807", "100"),
    ];
    for (map, blocks, size) in cases {
        assert_refused(sparse(map, blocks, size, b"abcdef"));
    }
    let records = [pax("GNU.sparse.major", b"1"), pax("GNU.sparse.minor", b"0")].concat();
    for map in ["99999999999\n", "1\n0\n", "x\n", "123456789012345678901234567890\n", "-1\n"] {
        let mut content = map.as_bytes().to_vec();
        content.resize(BLOCK, 0);
        let tar = pax_header(Tar::default(), &records);
        let tar = tar.entry(&entry(Kind::File, "s"), &content).end();
        assert_refused(apply(scratch().path(), &tar));
    }
}

#[test]
fn capabilities_survive_hard_links_and_set_id_bits_survive_owners() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let file = Entry {
        mode: 0o6755,
        uid: 1000,
        gid: 1000,
        xattrs: vec![(b"security.capability".to_vec(), capability)],
        ..entry(Kind::File, "ping")
    };
    let link = Entry {
        kind: Kind::HardLink,
        path: b"pong".into(),
        link: b"ping".into(),
        xattrs: Vec::new(),
        ..file.clone()
    };
    let root = scratch();
    round_trip(root.path(), &Tar::default().entry(&file, b"elf").entry(&link, b"").end());
    let nodes = nodes(root.path());
    assert_eq!(nodes[Path::new("pong")].mode, 0o106755);
    assert!(nodes[Path::new("pong")].xattrs.contains_key(&b"security.capability"[..]));
}

#[test]
fn times_out_of_range_become_1970_as_in_containerd() {
    let at = |seconds| Entry { mtime: Time { seconds, nanoseconds: 0 }, ..entry(Kind::File, "f") };
    for (seconds, expected) in
        [(-5, 0), (1 << 40, 0), (1 << 33, 1 << 33), (9_223_372_036, 9_223_372_036)]
    {
        let root = scratch();
        round_trip(root.path(), &Tar::default().entry(&at(seconds), b"").end());
        assert_eq!(nodes(root.path())[Path::new("f")].mtime.0, expected, "{seconds}");
    }
}
