//! What the daemon needs of the machine before it starts anything.

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{Error, Result, failed};

/// Refuses to start where it can't work.
pub(super) fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::NoFuse);
    }
    Ok(())
}

/// Open files up to the hard limit: each file that is open in a snapshot takes one.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(limit = ?limit.maximum, "raised the limit of open files"),
        Err(error) => {
            tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays as it is")
        }
    }
}

/// Makes the mount point if need be; refuses one that isn't an empty directory.
pub(super) fn check_mount_point(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::MountNotDirectory(path.to_owned()));
        }
        Err(error) => return Err(failed("make the mount point", path)(error)),
    }
    match std::fs::read_dir(path).map_err(failed("read the mount point", path))?.next() {
        None => Ok(()),
        Some(_) => Err(Error::MountNotEmpty(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_made_or_found_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        check_mount_point(&path).unwrap();
        check_mount_point(&path).unwrap();
    }

    #[test]
    fn a_mount_point_with_something_in_it_or_no_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check_mount_point(dir.path()), Err(Error::MountNotEmpty(_))));
        assert!(matches!(check_mount_point(&file), Err(Error::MountNotDirectory(_))));
    }
}
