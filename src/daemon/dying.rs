//! A killed daemon that cannot die, and the next one that waits for its lock.
//!
//! The thread that tells the kernel of changes may, inside the kernel, wait for the lock of a
//! directory whose holder waits for an answer from us. When all threads are killed in that moment the answer never
//! comes, so that thread stays, and with it the process and every lock it holds. Aborting its
//! FUSE connection lets all of them go. That mount is lost then, and can't be taken over
//! (`super::handover`): this is for the rare case that nothing else helps.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::mount::Abort;
use super::root::Root;

/// How long a process may take to end once nothing holds it any more.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Locks the root. A daemon that serves is left alone and its lock is an error; one that was killed is helped to its end.
pub(super) fn lock_root(root: &Path, mount: &Path) -> Result<Root> {
    let deadline = Instant::now() + PATIENCE;
    let mut helped = false;
    loop {
        let refused = match Root::lock(root) {
            Err(error @ Error::Locked { .. }) => error,
            other => return other,
        };
        let Error::Locked { pid, .. } = &refused else { return Err(refused) };
        let state = state_of(pid);
        if state == State::Alive || Instant::now() >= deadline {
            return Err(refused);
        }
        if state == State::Dying && !helped {
            helped = true;
            cut_off(mount, pid);
        }
        std::thread::sleep(POLL);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// Its first thread has ended, others have not.
    Dying,
    Gone,
}

fn state_of(pid: &str) -> State {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_state(&stat),
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Gone,
        Err(_) => State::Alive,
    }
}

/// The state follows the command's name, which may hold anything.
fn parse_state(stat: &str) -> State {
    match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
        Some('Z' | 'X') => State::Dying,
        _ => State::Alive,
    }
}

/// What can't be cut off here is reported: the lock stays taken, and that is the caller's error.
fn cut_off(mount: &Path, pid: &str) {
    let aborted = match connection_at(mount) {
        Ok(Some(connection)) => {
            Abort::open(connection).and_then(|abort| abort.abort()).map_err(Into::into)
        }
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match aborted {
        Ok(()) => {
            tracing::info!(pid, mount = %mount.display(), "aborted the FUSE connection that a killed daemon was stuck in")
        }
        Err(error) => {
            tracing::warn!(pid, %error, "cannot abort the FUSE connection of a killed daemon")
        }
    }
}

/// The FUSE connection of what is mounted at a path, without touching the mount.
pub(super) fn connection_at(path: &Path) -> io::Result<Option<u32>> {
    Ok(find_connection(&fs::read_to_string("/proc/self/mountinfo")?, path))
}

/// Lines are `id parent major:minor root mount-point options... - type source options`; the last one is on top.
fn find_connection(mountinfo: &str, path: &Path) -> Option<u32> {
    mountinfo.lines().rev().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut fields = head.split(' ').skip(2);
        let (device, point) = (fields.next()?, fields.nth(1)?);
        let is_ours = tail.starts_with("fuse") && unescape(point) == path;
        let (_, minor) = device.split_once(':')?;
        is_ours.then(|| minor.parse().ok())?
    })
}

/// Blanks and backslashes stand as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_first_thread_is_gone_is_dying() {
        assert_eq!(parse_state("12 (thinfs) S 1 12"), State::Alive);
        assert_eq!(parse_state("12 (thinfs) Z 1 12"), State::Dying);
        assert_eq!(parse_state("12 (a) Z (b) S 1 12"), State::Alive);
        assert_eq!(state_of(&std::process::id().to_string()), State::Alive);
        assert_eq!(state_of("999999999"), State::Gone);
    }

    #[test]
    fn the_connection_is_that_of_the_topmost_fuse_mount_at_the_path() {
        let table = "36 35 0:40 / /mnt rw - tmpfs tmpfs rw\n\
                     37 35 0:51 / /mnt/a\\040b rw,nosuid shared:1 - fuse.thinfs thinfs rw\n\
                     38 35 0:52 / /mnt/a\\040b rw - fuse.thinfs thinfs rw\n\
                     39 35 0:53 / /mnt/c rw - ext4 /dev/vda rw";
        assert_eq!(find_connection(table, Path::new("/mnt/a b")), Some(52));
        assert_eq!(find_connection(table, Path::new("/mnt/c")), None);
        assert_eq!(find_connection(table, Path::new("/mnt")), None);
    }

    #[test]
    fn a_daemon_that_serves_keeps_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Root::lock(dir.path()).unwrap();
        let started = Instant::now();
        assert!(matches!(lock_root(dir.path(), dir.path()), Err(Error::Locked { .. })));
        assert!(started.elapsed() < PATIENCE, "without waiting");
    }
}
