//! Everything that a file could be compared by: two trees are equal when `listing` is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// One line for each path below `root`: type, mode, owner, size, time, device, hard-link group, link target,
/// extended attributes and a digest of the content.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut links: HashMap<u64, String> = HashMap::new();
    visit(root, root, &mut lines, &mut links);
    lines
}

fn visit(
    root: &Path,
    dir: &Path,
    lines: &mut BTreeMap<String, String>,
    links: &mut HashMap<u64, String>,
) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("list {}: {e}", dir.display()))
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let meta =
            path.symlink_metadata().unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let group = if meta.is_dir() {
            String::new()
        } else {
            links.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
        };
        lines.insert(name, describe(&path, &meta, &group));
        if meta.is_dir() {
            visit(root, &path, lines, links);
        }
    }
}

fn describe(path: &Path, meta: &std::fs::Metadata, group: &str) -> String {
    let kind = meta.file_type();
    let mut line = format!(
        "{:o} {}:{} nlink={} mtime={}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if !kind.is_dir() {
        let _ = write!(line, " first={group} size={}", meta.size());
    }
    if kind.is_char_device() || kind.is_block_device() {
        let _ = write!(line, " rdev={:x}", meta.rdev());
    }
    if kind.is_symlink() {
        let _ = write!(line, " -> {}", std::fs::read_link(path).expect("read a link").display());
    }
    if kind.is_file() {
        let _ = write!(line, " digest={:x}", digest(path));
    }
    for (name, value) in xattrs(path) {
        let _ = write!(line, " {name}={value:02x?}");
    }
    line
}

/// FNV-1a: enough to tell two test files apart.
fn digest(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut names)
        .unwrap_or_else(|e| panic!("listxattr {}: {e}", path.display()));
    let names = names[..len].split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let name = String::from_utf8_lossy(name).into_owned();
            let len = rustix::fs::lgetxattr(path, name.as_str(), &mut value)
                .unwrap_or_else(|e| panic!("getxattr {name}: {e}"));
            value.truncate(len);
            (name, value)
        })
        .collect()
}
