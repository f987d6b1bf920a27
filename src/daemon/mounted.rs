//! Which snapshots are mounted elsewhere: binds of our tree, in any mount namespace that a process
//! lives in. The kernel's tables are asked; nobody has to tell us of a mount or its end.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::fs::names::{self, Name};
use crate::fs::types::NodeId;
use crate::gc::Mount;
use crate::layer_store::resource_of;
use crate::snapshot::Snapshots;
use crate::types::{Namespace, SnapshotKey};

/// All mounts whose root is in a snapshot's directory of the tree mounted at `mount`.
pub(super) fn list(mount: &Path, snapshots: &Arc<Snapshots>) -> io::Result<Vec<Mount>> {
    let device = fs_device(mount)?;
    let mut found = Vec::new();
    for (process, table) in tables()? {
        for (root, place) in table.lines().filter_map(|line| bind_of(line, &device)) {
            let by_number = || snapshot_of(&process, &place, &device, snapshots);
            if let Some((ns, key)) = by_number().or_else(|| snapshot_at(&root, snapshots)) {
                let resource = resource_of(&ns, &key);
                found.push((ns, resource, place));
            }
        }
    }
    Ok(found)
}

fn fs_device(mount: &Path) -> io::Result<String> {
    let device = rustix::fs::stat(mount)?.st_dev;
    Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The mount table of each mount namespace, once, with the directory of a process in it. Processes that end meanwhile
/// are none.
fn tables() -> io::Result<Vec<(PathBuf, String)>> {
    let (mut seen, mut tables) = (BTreeSet::new(), Vec::new());
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let Ok(namespace) = fs::read_link(entry.path().join("ns/mnt")) else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        if let Ok(table) = fs::read(entry.path().join("mountinfo")) {
            tables.push((entry.path(), String::from_utf8_lossy(&table).into_owned()));
            seen.insert(namespace);
        }
    }
    Ok(tables)
}

/// Root within the filesystem and mount point, of a line of mountinfo that is about our device.
fn bind_of(line: &str, device: &str) -> Option<(Vec<u8>, String)> {
    let mut words = line.split(' ').skip(2);
    let (on, root, place) = (words.next()?, words.next()?, words.next()?);
    (on == device && root != "/").then(|| {
        (unescape(root), OsString::from_vec(unescape(place)).to_string_lossy().into_owned())
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(word: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(word.len()), word.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// The snapshot that the mount's root belongs to, by its inode number: the name in the table is that of when it was
/// mounted, and a commit gives another. `None` if something else is mounted over it.
fn snapshot_of(
    process: &Path,
    place: &str,
    device: &str,
    snapshots: &Snapshots,
) -> Option<(Namespace, SnapshotKey)> {
    let path = process.join("root").join(place.trim_start_matches('/'));
    // The kernel knows the number: nobody is asked.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(CWD, &path, flags, StatxFlags::INO).ok()?;
    if device != format!("{}:{}", found.stx_dev_major, found.stx_dev_minor) {
        return None;
    }
    let id = NodeId(found.stx_ino).snapshot()?;
    let (ns, key, _) = snapshots.store().snapshot_by_id(id).ok()??;
    Some((ns, key))
}

/// The snapshot that a path below the tree's root lies in.
fn snapshot_at(root: &[u8], snapshots: &Snapshots) -> Option<(Namespace, SnapshotKey)> {
    let mut parts = root.split(|byte| *byte == b'/').skip(1);
    let mut kind = parts.next()?;
    let mut ns = Namespace::default();
    if kind == names::NAMESPACES.as_bytes() {
        ns = Namespace::new(std::str::from_utf8(parts.next()?).ok()?).ok()?;
        kind = parts.next()?;
    }
    if !crate::types::Kind::ALL.iter().any(|known| known.as_str().as_bytes() == kind) {
        return None;
    }
    let key = match names::decode(parts.next()?)? {
        Name::Key(key) => key,
        Name::Digest(digest) => snapshots.key_by_digest(&ns, &digest).ok()??,
    };
    Some((ns, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_root_and_place_of_our_device_only() {
        let line =
            r"40 30 0:52 /active/a\040b /mnt/x\134y rw,nosuid shared:1 - fuse.thinfs thinfs rw";
        let (root, place) = bind_of(line, "0:52").unwrap();
        assert_eq!((root.as_slice(), place.as_str()), (&b"/active/a b"[..], "/mnt/x\\y"));
        assert_eq!(bind_of(line, "0:5"), None);
        assert_eq!(
            bind_of("40 30 0:52 / /mnt rw - fuse thinfs rw", "0:52"),
            None,
            "the tree itself"
        );
        assert_eq!(bind_of("40 30", "0:52"), None);
    }
}
