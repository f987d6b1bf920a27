//! Templates: thin devices that mkfs touched once, and that every empty volume starts from.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::config::{Filesystem, ThinConfig};
use super::error::{self, DeviceError, Refusal, backend};
use super::{ThinBackend, odd};
use crate::crashpoint::{Step, around};
use crate::thin::{Sectors, ThinId};
use crate::types::Template;
use crate::volume::{Access, Result};

/// Where mkfs is, when the daemon's PATH leaves out the system's directories.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

impl ThinBackend {
    /// How empty volumes with this filesystem are made. The operator's options are for the operator's filesystem.
    pub(super) fn recipe(&self, filesystem: Filesystem) -> Recipe {
        match filesystem == self.config.filesystem {
            true => Recipe::new(&self.config),
            false => Recipe::of(filesystem, &[]),
        }
    }

    /// The template of empty volumes of `size`, made if need be.
    pub(super) fn template(&self, filesystem: Filesystem, size: u64) -> Result<Template> {
        let recipe = self.recipe(filesystem);
        let find = || recipe.find(&self.book.record().templates, size).cloned();
        if let Some(template) = find() {
            return Ok(template);
        }
        let _one_at_a_time = self.template.lock();
        if let Some(template) = find() {
            return Ok(template);
        }
        self.make_template(&recipe, size)
    }

    /// 1. a thin device, 2. mkfs, 3. an empty root, 4. clean and inactive, 5. the record. A crash before 5 leaves
    ///    an id that nobody names.
    fn make_template(&self, recipe: &Recipe, size: u64) -> Result<Template> {
        let thin = self.create_with(|thin| self.pool.create_thin(thin))?;
        let thin = thin.ok_or_else(|| {
            odd("making a template", "the pool wants an origin for it".to_owned())
        })?;
        if let Err(error) = self.format(recipe, thin, Sectors::in_bytes(size)) {
            self.devices.undo(&self.pool, thin);
            return Err(error);
        }
        let template = Template { thin_id: thin.get(), size, fingerprint: recipe.fingerprint() };
        self.book.change(|record| record.templates.push(template.clone()))?;
        tracing::info!(%thin, size, "made the filesystem that empty volumes start from");
        Ok(template)
    }

    fn format(&self, recipe: &Recipe, thin: ThinId, size: Sectors) -> Result<()> {
        let failed = |e| backend("making the filesystem that empty volumes start from", e);
        self.devices.with_device(thin, size, |path| recipe.make(path)).map_err(failed)??;
        let root = self.devices.activate(thin, size, Access::ReadWrite).map_err(failed)?;
        around(Step::EmptyRoot, || empty_the_root(&root))
            .map_err(|e| error::io("emptying a new filesystem's root", e))?;
        self.devices.seal(thin, &root).map_err(failed)?;
        drop(root);
        self.devices.deactivate(thin).map_err(failed)
    }
}

/// How templates are made, and how one is recognised.
#[derive(Debug)]
pub(super) struct Recipe {
    program: &'static str,
    options: Vec<String>,
}

impl Recipe {
    pub(super) fn new(config: &ThinConfig) -> Self {
        Self::of(config.filesystem, &config.mkfs_options)
    }

    fn of(filesystem: Filesystem, more: &[String]) -> Self {
        let (program, options) = filesystem.mkfs();
        let own = options.iter().map(|&o| o.to_owned());
        Self { program, options: own.chain(more.iter().cloned()).collect() }
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
        let mut command =
            Command::new(find_program(self.program).unwrap_or_else(|| self.program.into()));
        command.args(&self.options).arg(device).stdin(Stdio::null());
        let failed = |output: String| {
            let refusal = Refusal::Mkfs { program: self.program.to_owned(), output };
            Err(backend("making the filesystem that empty volumes start from", refusal))
        };
        match around(Step::Mkfs, || command.output()) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => failed(format!(
                "{}, {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(e) => failed(e.to_string()),
        }
    }
}

/// Looks a program up in PATH, then in the system's directories.
pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
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
        None => Err(format!("{program} is not installed (Debian: {})", filesystem.package())),
    }
}

/// Has e2fsck mend an ext2 that was not unmounted: it has no journal to replay.
pub(super) fn mend(device: &Path) -> std::result::Result<(), DeviceError> {
    tracing::info!(device = %device.display(), "checking an ext2 that was not unmounted");
    let program = find_program("e2fsck").unwrap_or_else(|| "e2fsck".into());
    let output = Command::new(program).args(["-f", "-p"]).arg(device).stdin(Stdio::null()).output();
    let context = || format!("checking {} with e2fsck", device.display());
    let output = output.map_err(|source| DeviceError::Io { context: context(), source })?;
    // 1 and 2: mended.
    if output.status.code().is_some_and(|code| code <= 2) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(DeviceError::Io { context: context(), source: io::Error::other(said) })
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
