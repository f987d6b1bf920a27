//! The daemon's directory: who may be in it, and that only one daemon is.
//!
//! ```text
//! ROOT            0711  so that everyone reaches mnt/
//! ├── thinfs.lock 0600  flock held by the daemon, its pid inside
//! ├── backend     0600  which backend holds this root's data, one word
//! ├── meta/       0700  the store
//! ├── layers/     0700  tar-split records
//! ├── native/     0700  or
//! ├── thin/       0700  the pool's files
//! └── mnt/              the FUSE root is mounted here unless told otherwise
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::{Error, Result, failed};
use crate::crashpoint::{Step, around};

const LOCK: &str = "thinfs.lock";
const BACKEND: &str = "backend";
/// What a root may hold before its first daemon: mount points and what mkfs leaves.
const HARMLESS: [&str; 2] = ["mnt", "lost+found"];

/// The locked directory of a running daemon.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    lock: File,
}

impl Root {
    /// Makes the directory if need be, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self> {
        make(path)?;
        if is_fresh(path)? {
            fs::set_permissions(path, Permissions::from_mode(0o711))
                .map_err(failed("set the mode of", path))?;
        }
        let lock = take_lock(path)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// A subdirectory that only root may enter; made if need be.
    pub(super) fn private(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("make", &path)(error))
            }
            Ok(()) | Err(_) => {
                fs::set_permissions(&path, Permissions::from_mode(0o700))
                    .map_err(failed("set the mode of", &path))?;
                Ok(path)
            }
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that names the backend.
    pub(super) fn backend_file(&self) -> PathBuf {
        self.path.join(BACKEND)
    }

    /// The backend that holds this root's data, if it has any.
    pub(super) fn backend(&self) -> Result<Option<String>> {
        let path = self.backend_file();
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Records the backend, durably. After a crash, either the word is there whole or not at all.
    pub(super) fn record_backend(&self, name: &str) -> Result<()> {
        let (path, new) = (self.path.join(BACKEND), self.path.join("backend.new"));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            writeln!(file, "{name}")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        around(Step::RecordBackend, write).map_err(failed("write", &path))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The file stays: removing it would let two daemons lock two files of one name. Its lock
        // goes with the descriptor, whether or not the pid can be wiped.
        let _ = self.lock.set_len(0);
    }
}

fn make(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(Error::RootNotDirectory(path.to_owned())),
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => {
            Err(Error::RootNotOurs { path: path.to_owned(), uid: metadata.uid() })
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed("make", path))
        }
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Whether no daemon has been here and nobody else uses the directory. The mode of any other is
/// somebody's choice.
fn is_fresh(path: &Path) -> Result<bool> {
    if path.join(LOCK).exists() {
        return Ok(false);
    }
    for entry in fs::read_dir(path).map_err(failed("read", path))? {
        let name = entry.map_err(failed("read", path))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn take_lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    // Not truncated: the pid inside is another daemon's until the lock is ours.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed("read", &path))?;
            return Err(Error::Locked { root: root.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(error) => return Err(failed("lock", &path)(error.into())),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(failed("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn everyone_may_pass_through_the_root_and_nobody_into_the_private_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::lock(&dir.path().join("a/b")).unwrap();
        assert_eq!(mode(&dir.path().join("a/b")), 0o711);
        assert_eq!(mode(&root.private("meta").unwrap()), 0o700);
        assert_eq!(mode(&root.private("meta").unwrap()), 0o700, "a second time is fine");
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Root::lock(dir.path()).unwrap();
        let refused = Root::lock(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(first);
        Root::lock(dir.path()).expect("the lock goes with the daemon");
    }

    #[test]
    fn a_directory_with_other_things_in_it_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let before = mode(dir.path());
        let root = Root::lock(dir.path()).unwrap();
        assert_eq!(mode(&root.private("meta").unwrap()), 0o700);
        assert_eq!(mode(dir.path()), before);
        drop(root);
        drop(Root::lock(dir.path()).unwrap());
        assert_eq!(mode(dir.path()), before, "at the next start too");
    }

    #[test]
    fn the_backend_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::lock(dir.path()).unwrap();
        assert_eq!(root.backend().unwrap(), None);
        root.record_backend("native").unwrap();
        assert_eq!(root.backend().unwrap().as_deref(), Some("native"));
    }
}
