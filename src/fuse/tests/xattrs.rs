//! Extended attributes: the files' own and the snapshots'.

use std::fs;

use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::*;
use crate::fs::testing::{key, ns};
use crate::types::Labels;

fn get(path: impl AsRef<Path>, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 70_000];
    let len = getxattr(path.as_ref(), name, &mut buffer[..])?;
    buffer.truncate(len);
    Ok(buffer)
}

fn list(path: impl AsRef<Path>) -> String {
    let mut buffer = vec![0; 70_000];
    let len = listxattr(path.as_ref(), &mut buffer[..]).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn attributes_are_set_listed_and_removed() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let file = root.join("f");
    fs::write(&file, "").unwrap();
    setxattr(&file, "user.one", b"1", XattrFlags::CREATE).unwrap();
    setxattr(&file, "trusted.two", &[7; 2000], XattrFlags::empty()).unwrap();
    setxattr(&file, "security.capability", CAPABILITY, XattrFlags::empty()).unwrap();
    assert_eq!(setxattr(&file, "user.one", b"1", XattrFlags::CREATE).unwrap_err(), Errno::EXIST);
    assert_eq!(setxattr(&file, "user.none", b"1", XattrFlags::REPLACE).unwrap_err(), Errno::NODATA);
    assert_eq!(get(&file, "user.one").unwrap(), b"1");
    assert_eq!(get(&file, "trusted.two").unwrap(), vec![7; 2000]);
    assert_eq!(getxattr(&file, "trusted.two", &mut [0_u8; 10]).unwrap_err(), Errno::RANGE);
    let names = list(&file);
    assert!(
        ["user.one\0", "trusted.two\0", "security.capability\0"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );
    removexattr(&file, "user.one").unwrap();
    assert_eq!(get(&file, "user.one").unwrap_err(), Errno::NODATA);
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    lsetxattr(root.join("link"), "trusted.x", b"y", XattrFlags::empty()).unwrap();
    let mut value = [0; 10];
    assert_eq!(lgetxattr(root.join("link"), "trusted.x", &mut value[..]).unwrap(), 1);
}

/// `struct vfs_cap_data`, version 2: CAP_NET_RAW permitted.
const CAPABILITY: &[u8] = &[0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn snapshot_says_what_it_is_on_its_root() {
    let mounted = Mounted::new();
    mounted.empty("base");
    mounted.rig.commit("layer", "base");
    let labels = Labels::from([("containerd.io/x".to_owned(), "some value".to_owned())]);
    let info =
        mounted.rig.snapshots.prepare(&ns(), &key("c/1"), Some(&key("layer")), labels).unwrap();
    let root = mounted.path("active/c%2F1");
    for (name, value) in [
        ("thinfs.key", "c/1".to_owned()),
        ("thinfs.kind", "active".to_owned()),
        ("thinfs.parent", "layer".to_owned()),
        ("thinfs.namespace", "default".to_owned()),
        ("thinfs.id", info.snapshot.id.to_string()),
        ("thinfs.labels.containerd.io/x", "some value".to_owned()),
    ] {
        assert_eq!(
            get(&root, name).map(|value| String::from_utf8(value).unwrap()),
            Ok(value),
            "{name}"
        );
    }
    let created: jiff::Timestamp =
        String::from_utf8(get(&root, "thinfs.created").unwrap()).unwrap().parse().unwrap();
    assert_eq!(created, jiff::Timestamp::try_from(info.snapshot.created).unwrap());
    fs::write(root.join("f"), vec![1; 100_000]).unwrap();
    let size: u64 =
        String::from_utf8(get(&root, "thinfs.usage.size").unwrap()).unwrap().parse().unwrap();
    assert!(size >= 100_000, "{size}");
    assert!(get(&root, "thinfs.usage.inodes").is_ok());
    assert_eq!(get(mounted.path("committed/layer"), "thinfs.parent").unwrap_err(), Errno::NODATA);
    assert_eq!(get(&root, "thinfs.nonsense").unwrap_err(), Errno::NODATA);
    assert_eq!(get(root.join("f"), "thinfs.key").unwrap_err(), Errno::OPNOTSUPP);
}

#[test]
fn snapshot_facts_are_neither_listed_nor_set() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    assert!(!list(&root).contains("thinfs"));
    assert_eq!(setxattr(&root, "thinfs.key", b"x", XattrFlags::empty()).unwrap_err(), Errno::PERM);
    assert_eq!(removexattr(&root, "thinfs.key").unwrap_err(), Errno::PERM);
    setxattr(&root, "user.x", b"y", XattrFlags::empty()).unwrap();
    assert_eq!(list(&root), "user.x\0");
    assert_eq!(list(mounted.path("active")), "");
}
