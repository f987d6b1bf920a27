//! Credentials of the calling thread: whose files it makes, under which umask, with which rights.
//!
//! Linux keeps all of this per thread. A thread that serves requests is prepared once:
//! - its umask is its own (`unshare(CLONE_FS)`), so that the backing filesystem can apply a caller's
//!   umask, or a default ACL in its place;
//! - changing its filesystem uid leaves its capabilities alone (`SECBIT_NO_SETUID_FIXUP`): who may do what
//!   has been decided by the kernel before the request reached us, with the caller's real groups;
//! - it runs without `CAP_FSETID`, so that whatever changes a file's content or size takes away its
//!   set-user-id and set-group-id bits, also when the kernel writes past us with the credentials that
//!   this thread had when it handed the file over.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::io::Result;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};

thread_local! {
    /// The umask of this thread; `None` until it is prepared.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Prepares the calling thread for serving requests; cheap when it is prepared already.
pub fn prepare_thread() -> Result<()> {
    if UMASK.get().is_some() {
        return Ok(());
    }
    // SAFETY: only `UnshareFlags::FILES` could part descriptors from threads; FS holds umask, root and
    // working directory, and the daemon uses absolute paths or descriptors.
    // JUSTIFICATION: the safe wrapper is deprecated for the sake of FILES.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    let secure_bits = rustix::thread::capabilities_secure_bits()?;
    rustix::thread::set_capabilities_secure_bits(
        secure_bits | CapabilitiesSecureBits::NO_SETUID_FIXUP,
    )?;
    set_fsetid(false)?;
    rustix::process::umask(Mode::empty());
    UMASK.set(Some(0));
    Ok(())
}

/// Runs `work` with the filesystem uid, gid and umask of a caller. What it makes belongs to the caller.
pub fn as_caller<T>(uid: u32, gid: u32, umask: u32, work: impl FnOnce() -> T) -> T {
    if UMASK.get() != Some(umask) {
        rustix::process::umask(Mode::from_raw_mode(umask));
        UMASK.set(Some(umask));
    }
    if (uid, gid) == (0, 0) {
        return work();
    }
    let _back = BackToRoot;
    nix::unistd::setfsgid(gid.into());
    nix::unistd::setfsuid(uid.into());
    work()
}

/// Runs `work` with `CAP_FSETID`: the set-group-id bit that it asks for stays, whichever group owns the file.
pub fn with_fsetid<T>(work: impl FnOnce() -> T) -> T {
    struct Lower;
    impl Drop for Lower {
        fn drop(&mut self) {
            if let Err(error) = set_fsetid(false) {
                // A thread that can't lower its rights must not go on serving.
                tracing::error!(%error, "cannot give CAP_FSETID back");
                std::process::abort();
            }
        }
    }
    let raised = set_fsetid(true);
    let _lower = Lower;
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise CAP_FSETID: a set-group-id bit may be lost");
    }
    work()
}

struct BackToRoot;

impl Drop for BackToRoot {
    fn drop(&mut self) {
        nix::unistd::setfsuid(0.into());
        nix::unistd::setfsgid(0.into());
    }
}

fn set_fsetid(on: bool) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective.set(CapabilitySet::FSETID, on && sets.permitted.contains(CapabilitySet::FSETID));
    rustix::thread::set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Runs in a thread of its own, so that the test runner's thread keeps its credentials.
    fn in_prepared_thread(work: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            prepare_thread().expect("needs root: per-thread credentials");
            work();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn files_belong_to_the_caller_under_the_callers_umask() {
        in_prepared_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            as_caller(1234, 5678, 0o027, || std::fs::write(&path, "").unwrap());
            let meta = path.metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1234, 5678, 0o640));
            let path = dir.path().join("b");
            as_caller(0, 0, 0, || std::fs::write(&path, "").unwrap());
            let meta = path.metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 0, 0o666));
        });
    }

    #[test]
    fn writing_clears_set_user_id_also_after_acting_for_a_caller() {
        in_prepared_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            std::fs::write(&path, "").unwrap();
            as_caller(1, 1, 0, || ());
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
            std::fs::write(&path, "changed").unwrap();
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o755);
        });
    }

    #[test]
    fn set_group_id_of_a_foreign_group_needs_fsetid() {
        in_prepared_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            std::fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(0), Some(4321)).unwrap();
            with_fsetid(|| {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2755)).unwrap()
            });
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o2755);
        });
    }
}
