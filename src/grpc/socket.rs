//! The unix socket of the daemon: mode 0600 from its first moment, a dead daemon's leftover
//! replaced, a live daemon's refused.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The kernel's `sun_path` holds 108 bytes with the final NUL.
const MAX_PATH: usize = 107;
/// How many names are tried for a temporary directory.
const NESTS: u32 = 10;

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Someone answers on it.
    #[error("a daemon is listening on {0} already")]
    InUse(PathBuf),
    /// Not ours to replace.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The kernel would cut it off.
    #[error(
        "the socket path {path} is {len} bytes long, more than {MAX_PATH}: choose a shorter --socket"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The file system refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A bound socket; its file is removed when this is dropped, unless another daemon has replaced it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Binds `path`. The socket appears there whole: bound and restricted in a private directory
    /// beside it, then renamed into place, over a dead daemon's leftover if there is one.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let len = path.as_os_str().len();
        if len > MAX_PATH {
            return Err(SocketError::TooLong { path: path.to_owned(), len });
        }
        refuse_live(path)?;
        let nest = Nest::make(path)?;
        let born = nest.0.join("s");
        let listener = UnixListener::bind(&born).map_err(failed("bind", &born))?;
        fs::set_permissions(&born, Permissions::from_mode(0o600))
            .map_err(failed("restrict", &born))?;
        let metadata = fs::symlink_metadata(&born).map_err(failed("look at", &born))?;
        fs::rename(&born, path).map_err(failed("put into place", path))?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), inode } })
    }

    pub(super) fn into_tokio(self) -> Result<(tokio::net::UnixListener, SocketFile), SocketError> {
        let listen = || {
            self.listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(self.listener)
        };
        let listener = listen().map_err(failed("listen on", &self.file.path))?;
        Ok((listener, self.file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            // A leftover is harmless: the next daemon replaces it.
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

/// A private directory, as short a path as the final one, so that both fit into `sun_path`.
struct Nest(PathBuf);

impl Nest {
    /// A killed daemon may have left one of the same name, so others are tried.
    fn make(beside: &Path) -> Result<Self, SocketError> {
        let pid = std::process::id();
        let mut taken = None;
        for n in 0..NESTS {
            let path = beside.with_file_name(format!(".s{n}-{pid}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    taken = Some((path, error))
                }
                Err(error) => return Err(failed("make the directory", &path)(error)),
            }
        }
        let (path, error) = taken.expect("NESTS is not 0");
        Err(failed("make the directory", &path)(error))
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        // The socket inside is there only if binding failed midway.
        let _ = fs::remove_file(self.0.join("s"));
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary directory stays behind");
        }
    }
}

fn refuse_live(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed("see who listens on", path)(error)),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_is_private_and_leaves_nothing_else_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thinfs.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_live_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thinfs.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind, as a killed daemon does");
        let listener = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::InUse(_))));
        UnixStream::connect(&path).expect("the refused second one has not taken it away");
        drop(listener);
    }

    #[test]
    fn a_temporary_directory_that_a_killed_daemon_left_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thinfs.sock");
        std::mem::forget(Nest::make(&path).unwrap());
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_off_is_refused() {
        let path = PathBuf::from(format!("/{}", "x".repeat(MAX_PATH)));
        assert!(matches!(Listener::bind(&path), Err(SocketError::TooLong { len: 108, .. })));
    }
}
