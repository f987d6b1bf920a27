//! Whether this machine can run the thin backend.

use std::process::{Command, Stdio};

use super::config::Filesystem;
use super::template::mkfs_is_installed;
use crate::sys::mount;
use crate::thin::dm::{Dm, Version};

/// The oldest thin-pool target of a kernel that has the new mount API (Linux 5.2).
const OLDEST_TARGET: Version = (1, 20, 0);
const TARGET: &str = "thin-pool";

/// Whether dm-thin can be used here, and if not, why, in one line. Tries to load the kernel's
/// module.
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("dm-thin needs root".to_owned());
    }
    let version = match target() {
        Ok(Some(version)) => version,
        _ => {
            load_module();
            target()?.ok_or("the kernel has no thin-pool target (module dm_thin_pool)")?
        }
    };
    if version < OLDEST_TARGET {
        let (major, minor, patch) = version;
        return Err(format!("the kernel's thin-pool target is too old ({major}.{minor}.{patch})"));
    }
    usable(Filesystem::Ext4)
}

/// Whether volumes can have this filesystem here, and if not, why.
pub(super) fn usable(filesystem: Filesystem) -> Result<(), String> {
    mount::probe(filesystem.driver()).map_err(|e| format!("{e}: {}", e.source))?;
    mkfs_is_installed(filesystem)
}

/// The version of the thin-pool target, if it is loaded.
fn target() -> Result<Option<Version>, String> {
    let targets = Dm::open().and_then(|dm| dm.targets()).map_err(|e| e.to_string())?;
    Ok(targets.into_iter().find(|(name, _)| name == TARGET).map(|(_, version)| version))
}

/// Whether it worked shows at the next look.
fn load_module() {
    let quiet = Stdio::null;
    let tried = Command::new("modprobe")
        .args(["-q", "dm_thin_pool"])
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .status();
    tracing::debug!(?tried, "tried to load dm_thin_pool");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_cannot_do_it_says_why_in_one_line() {
        if let Err(why) = available() {
            println!("{why}");
            assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
        }
    }
}
