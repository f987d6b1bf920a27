//! Templates: thin devices that mkfs touched once, and that every empty volume starts from.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::config::{Filesystem, ThinConfig};
use super::error::{Refusal, backend};
use crate::types::Template;
use crate::volume::Result;

/// Where mkfs is, when the daemon's PATH leaves out the system's directories.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// How templates are made, and how one is recognised.
#[derive(Debug)]
pub(super) struct Recipe {
    program: &'static str,
    options: Vec<String>,
}

impl Recipe {
    pub(super) fn new(config: &ThinConfig) -> Self {
        let (program, options) = config.filesystem.mkfs();
        let own = options.iter().map(|&o| o.to_owned());
        Self { program, options: own.chain(config.mkfs_options.iter().cloned()).collect() }
    }

    /// Filesystem and options in one line: templates made otherwise are not used.
    pub(super) fn fingerprint(&self) -> String {
        format!("{} {}", self.program, self.options.join(" "))
    }

    /// The template of this recipe and size.
    pub(super) fn find<'a>(&self, templates: &'a [Template], size: u64) -> Option<&'a Template> {
        let fingerprint = self.fingerprint();
        templates.iter().find(|t| t.size == size && t.fingerprint == fingerprint)
    }

    /// Makes the filesystem on a device.
    pub(super) fn make(&self, device: &Path) -> Result<()> {
        let mut command = Command::new(find_program(self.program).unwrap_or_else(|| self.program.into()));
        command.args(&self.options).arg(device).stdin(Stdio::null());
        let failed = |output: String| {
            let refusal = Refusal::Mkfs { program: self.program.to_owned(), output };
            Err(backend("making the filesystem that empty volumes start from", refusal))
        };
        match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => failed(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
            Err(e) => failed(e.to_string()),
        }
    }
}

/// Looks a program up in PATH, then in the system's directories.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(OsString::new);
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether the program that makes the filesystem is installed.
pub(super) fn mkfs_is_installed(filesystem: Filesystem) -> std::result::Result<(), String> {
    let (program, _) = filesystem.mkfs();
    match find_program(program) {
        Some(_) => Ok(()),
        None => Err(format!("{program} is not installed (Debian: e2fsprogs)")),
    }
}

/// Turns mkfs's root directory into an empty snapshot's: 0755, root's, and without lost+found.
pub(super) fn empty_the_root(root: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(root, "lost+found", AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    rustix::fs::fchown(root, Some(Uid::ROOT), Some(Gid::ROOT))?;
    Ok(rustix::fs::fchmod(root, Mode::from_raw_mode(0o755))?)
}
