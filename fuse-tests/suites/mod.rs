//! Suites written by others, real programs, and what only shows under load: `scripts/test suites`.
//!
//! Each of them runs on a snapshot of a real daemon, on the backend of the run ([`crate::harness::backend`]); in the
//! guest, which is some twenty times slower, with fewer rounds.

mod fsx;
mod hostile;
mod isolation;
mod memory;
mod pjdfstest;
mod programs;
mod requests;
mod stress;
mod volumes;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::{Client, Daemon, Options, is_thin};

/// Held by those who count on the kernel's caches, and by who drops them all.
static CACHES: Mutex<()> = Mutex::new(());

fn caches() -> MutexGuard<'static, ()> {
    CACHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test program that `scripts/test` has installed from crates.io.
#[track_caller]
fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("THINFS_TOOLS").map_or_else(
        || {
            Path::new(&std::env::var_os("HOME").expect("HOME is set"))
                .join(".cache/thinfs/tools/bin")
        },
        PathBuf::from,
    );
    let path = tools.join(name);
    assert!(path.is_file(), "{} is missing: `scripts/test suites` installs it", path.display());
    path
}

/// `many` on the host, `few` in the guest.
fn rounds(many: usize, few: usize) -> usize {
    if is_thin() { few } else { many }
}

/// A daemon that keeps at most this many unused volumes activated.
fn with_max_active(active: usize) -> Daemon {
    let flags = vec!["--max-active".to_owned(), active.to_string()];
    Daemon::start_with(Options { flags, ..Options::default() })
}

/// Snapshots whose only purpose is to be activated, so that others are evicted.
struct Neighbours<'a> {
    daemon: &'a Daemon,
    count: usize,
}

impl<'a> Neighbours<'a> {
    fn prepare(daemon: &'a Daemon, count: usize) -> Neighbours<'a> {
        let mut client = Client::connect(&daemon.socket());
        for n in 0..count {
            client.prepare(&format!("neighbour-{n}"), "").unwrap();
            std::fs::write(daemon.active(&format!("neighbour-{n}")).join("f"), "x").unwrap();
        }
        Neighbours { daemon, count }
    }

    /// Touches each of them: an open for writing is always asked of the daemon.
    fn touch(&self) {
        for n in 0..self.count {
            let path = self.daemon.active(&format!("neighbour-{n}")).join("f");
            File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
        }
    }

    /// Touches them until told to stop, with pauses that leave the processors to the others.
    fn touch_until(&self, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            self.touch();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// How often volumes have been activated and deactivated.
fn activity(d: &Daemon) -> thinfs::grpc::proto::thinfs::admin::v1::Activity {
    Client::connect(&d.socket()).status().activity.expect("this daemon counts")
}

/// Ends background work also when the foreground panics: the scope would wait for it for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
