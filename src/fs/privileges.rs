//! When set-user-id and set-group-id bits stay although a file changes.
//!
//! Whoever changes a file's content or size takes these bits away, unless it holds `CAP_FSETID` as root does.
//! (A set-group-id bit on a file that its group can't execute has another meaning, and stays for members of the
//! group too.) The threads that serve requests run without that right ([`crate::sys::creds`]), so the backing
//! filesystem takes the bits away, unless the kernel has said that the caller may leave them.

use std::os::fd::AsFd;

use rustix::fs::fstat;

use super::types::Caller;
use crate::sys::creds;

/// Both bits, the one for the group, and the group's right to execute.
const PRIVILEGES: u32 = 0o6000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o0010;

/// Whether the file has any.
pub(super) fn has_privileges(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|stat| stat.st_mode & PRIVILEGES != 0)
}

/// Changes a file with as much right to leave its bits as the caller has. The right is raised only where it
/// makes a difference.
pub(super) fn change<T>(caller: &Caller, file: impl AsFd, work: impl FnOnce() -> T) -> T {
    let keeps = fstat(file).is_ok_and(|stat| {
        stat.st_mode & PRIVILEGES != 0
            && (caller.holds_fsetid()
                || stat.st_mode & (PRIVILEGES | GROUP_EXECUTES) == SET_GROUP_ID
                    && caller.is_in_group(stat.st_gid))
    });
    if keeps { creds::with_fsetid(work) } else { work() }
}
