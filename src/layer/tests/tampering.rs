//! A tree or a record that has changed: an error, never a wrong tar.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn layer() -> Vec<u8> {
    Tar::default()
        .dir("d")
        .file("d/small", "small content")
        .file("d/big", &"0123456789abcdef".repeat(200_000))
        .end()
}

/// Changes the tree, and demands that no byte of what was changed comes out.
fn check(tamper: fn(&Path)) {
    let root = scratch();
    let tar = layer();
    let (_, record) = apply_recorded(root.path(), &tar).unwrap();
    tamper(root.path());
    let (result, out) = tar_of(root.path(), &record);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Verify(_)), "{error:?}");
    assert!(error.to_string().starts_with("could not verify layer data"), "{error}");
    assert!(out.len() < tar.len());
}

#[test]
fn changed_content_is_an_error() {
    check(|root| fs::write(root.join("d/small"), "other content").unwrap());
    check(|root| fs::write(root.join("d/small"), "longer content").unwrap());
    check(|root| fs::write(root.join("d/small"), "").unwrap());
    check(|root| {
        let mut bytes = fs::read(root.join("d/big")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(root.join("d/big"), bytes).unwrap();
    });
}

#[test]
fn a_file_that_became_something_else_is_an_error() {
    check(|root| fs::remove_file(root.join("d/small")).unwrap());
    check(|root| fs::remove_dir_all(root.join("d")).unwrap());
    check(|root| {
        fs::rename(root.join("d/small"), root.join("moved")).unwrap();
        symlink("../moved", root.join("d/small")).unwrap();
    });
    check(|root| {
        fs::rename(root.join("d"), root.join("e")).unwrap();
        symlink("e", root.join("d")).unwrap();
    });
    check(|root| {
        fs::remove_file(root.join("d/small")).unwrap();
        fs::create_dir(root.join("d/small")).unwrap();
    });
    check(|root| {
        fs::remove_file(root.join("d/small")).unwrap();
        run(Command::new("mkfifo").arg(root.join("d/small")), b"");
    });
}

#[test]
fn changed_metadata_is_none_of_the_tars_business() {
    let root = scratch();
    let (_, record) = apply_recorded(root.path(), &layer()).unwrap();
    run(Command::new("chown").arg("7:7").arg(root.path().join("d/small")), b"");
    assert!(tar_of(root.path(), &record).1 == layer());
}

#[test]
fn a_damaged_record_is_an_error_whichever_byte_is_hit() {
    let root = scratch();
    let tar = Tar::default().file("a", "one").file("a", "two").end();
    let (_, record) = apply_recorded(root.path(), &tar).unwrap();
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 0x10;
        assert!(tar_of(root.path(), &damaged).0.is_err(), "byte {at}");
        assert!(tar_of(root.path(), &record[..at]).0.is_err(), "cut at {at}");
    }
    assert!(tar_of(root.path(), &record).1 == tar);
}
