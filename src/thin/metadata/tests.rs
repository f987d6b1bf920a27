//! On metadata that `thin_restore` writes from XML: no device-mapper needed. Trees that share
//! nodes, which only the kernel makes, are compared with `thin_ls` and `thin_delta` in the guest.

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// Mappings (thin block, data block, length) of one thin device.
type Mappings = Vec<(u64, u64, u64)>;

/// A file with the metadata of a pool that has these thin devices.
fn restore(thins: &[(u32, Mappings)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (xml_path, path) = (dir.path().join("xml"), dir.path().join("metadata"));
    let mut xml = String::from(
        r#"<superblock uuid="" time="3" transaction="5" data_block_size="128" nr_data_blocks="1000000">"#,
    );
    for (id, mappings) in thins {
        let mapped: u64 = mappings.iter().map(|m| m.2).sum();
        write!(xml, r#"<device dev_id="{id}" mapped_blocks="{mapped}" transaction="4" creation_time="1" snap_time="2">"#).unwrap();
        for (origin, data, length) in mappings {
            write!(xml, r#"<range_mapping origin_begin="{origin}" data_begin="{data}" length="{length}" time="1"/>"#).unwrap();
        }
        xml.push_str("</device>");
    }
    xml.push_str("</superblock>");
    std::fs::write(&xml_path, xml).unwrap();
    File::create(&path).unwrap().set_len(32 << 20).unwrap();
    let restored = Command::new("thin_restore")
        .arg("-q")
        .arg("-i")
        .arg(&xml_path)
        .arg("-o")
        .arg(&path)
        .output();
    let restored = restored.expect("needs thin_restore: apt-get install thin-provisioning-tools");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    (dir, path)
}

fn thin(id: u32) -> ThinId {
    ThinId::new(id).unwrap()
}

fn exclusive(view: &View<'_>, a: u32, b: Option<u32>) -> Option<u64> {
    view.exclusive_blocks(thin(a), b.map(thin), &AtomicBool::new(false)).unwrap()
}

#[test]
fn thin_devices_are_listed_in_order_with_their_details() {
    let ids: Vec<u32> = (0..700).map(|n| n * 3 + 1).collect();
    let thins: Vec<_> = ids.iter().map(|&id| (id, vec![(0, u64::from(id), 1)])).collect();
    let (_dir, path) = restore(&thins);
    let device = open(&path).unwrap();
    let listed = View::open(&device, 0).unwrap().thins().unwrap();
    assert_eq!(listed.iter().map(|t| t.id.get()).collect::<Vec<_>>(), ids);
    let expected = ThinDetails {
        id: thin(4),
        mapped_blocks: 1,
        transaction_id: 4,
        creation_time: 1,
        snapshotted_time: 2,
    };
    assert_eq!(listed[1], expected);
}

#[test]
fn exclusive_blocks_are_those_mapped_elsewhere_or_not_at_all_in_the_origin() {
    let base = vec![(0, 0, 5000), (10_000, 5000, 2000)];
    let cases: [(Mappings, u64); 7] = [
        (base.clone(), 0),
        (vec![], 0),
        (vec![(0, 0, 5000)], 0),
        (vec![(0, 0, 5000), (10_000, 9000, 2000)], 2000),
        (vec![(0, 0, 2500), (2500, 9000, 1), (2501, 2501, 2499), (10_000, 5000, 2000)], 1),
        (vec![(0, 0, 5000), (6000, 9000, 7), (10_000, 5000, 2000), (20_000, 9007, 3)], 10),
        (vec![(7000, 9000, 100)], 100),
    ];
    for (number, (changed, expected)) in cases.into_iter().enumerate() {
        let (_dir, path) = restore(&[(1, base.clone()), (2, changed)]);
        let device = open(&path).unwrap();
        let view = View::open(&device, 0).unwrap();
        assert_eq!(exclusive(&view, 2, Some(1)), Some(expected), "case {number}");
        assert_eq!(exclusive(&view, 1, Some(1)), Some(0), "case {number}");
        let changed = view.changed_blocks(thin(2), thin(1), &AtomicBool::new(false)).unwrap();
        let changed = changed.unwrap();
        assert_eq!(changed.len() as u64, expected, "case {number}");
        assert!(changed.is_sorted(), "case {number}");
    }
}

#[test]
fn without_an_origin_everything_mapped_is_exclusive() {
    let (_dir, path) = restore(&[(1, vec![(0, 0, 321)])]);
    let device = open(&path).unwrap();
    let view = View::open(&device, 0).unwrap();
    assert_eq!(exclusive(&view, 1, None), Some(321));
    assert_eq!(exclusive(&view, 1, Some(99)), Some(321));
    assert_eq!(exclusive(&view, 99, None), None);
}

#[test]
fn a_cancelled_comparison_says_so() {
    let (_dir, path) = restore(&[(1, vec![(0, 0, 10)]), (2, vec![(0, 50, 10)])]);
    let device = open(&path).unwrap();
    let answer = View::open(&device, 0).unwrap().exclusive_blocks(
        thin(2),
        Some(thin(1)),
        &AtomicBool::new(true),
    );
    assert!(matches!(answer, Err(Error::Cancelled)), "{answer:?}");
}

#[test]
fn a_changed_byte_is_found_by_the_checksum() {
    use std::os::unix::fs::FileExt;
    let (_dir, path) = restore(&[(1, vec![(0, 0, 10)])]);
    File::options().write(true).open(&path).unwrap().write_all_at(&[0xff], 1000).unwrap();
    let device = open(&path).unwrap();
    let error = View::open(&device, 0).unwrap_err();
    assert!(error.to_string().contains("block 0 has a wrong checksum"), "{error}");
}

#[test]
fn the_first_block_tells_a_blank_device_from_a_pool_and_from_anything_else() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("blank");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(first_block(&open(&path).unwrap()).unwrap(), FirstBlock::Blank);
    std::fs::write(&path, vec![7u8; 8192]).unwrap();
    assert_eq!(first_block(&open(&path).unwrap()).unwrap(), FirstBlock::Other);
    let (_dir, path) = restore(&[]);
    assert_eq!(first_block(&open(&path).unwrap()).unwrap(), FirstBlock::Superblock);
}
