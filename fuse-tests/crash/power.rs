//! The same workers, but the whole guest is cut off: what its kernel had not sent to its disks is gone, with everything that
//! dm-thin had not committed. The next boot has the disks as they were.
//!
//! The host's test boots guests that run the guest's test, kills them at random moments, and has the last one stop cleanly.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use super::book::Book;
use super::{Worker, prune, settle};
use crate::harness::{Client, Daemon, Options, proc, random, run, work_dir};

/// How many.
fn cuts() -> u32 {
    4 * random::times()
}

/// The guest's first disk, which the daemon of this test has no use for: its pool is made of files.
const NOTES: &str = "/dev/ubda";

/// A boot takes some seconds, more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "boots many guests: run by `scripts/test power`"]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged_and_leaks_nothing() {
    let dir = tempfile::Builder::new().prefix("power-").tempdir_in(work_dir()).unwrap();
    let started = Instant::now();
    for cut in 0..cuts() {
        let mut guest = Guest::boot(dir.path(), &cut.to_string());
        guest.wait_until_ready();
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..3_000)));
        guest.cut();
        eprintln!("cut {cut} at {:?}", started.elapsed());
    }
    let mut guest = Guest::boot(dir.path(), "last");
    assert!(guest.script.wait().unwrap().success(), "the last boot failed");
}

struct Guest {
    script: Child,
    dir: PathBuf,
    boot: String,
}

impl Guest {
    fn boot(dir: &Path, boot: &str) -> Guest {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/guest");
        let mut command = Command::new(script);
        command
            .arg("--disk-dir")
            .arg(dir.join("disks"))
            .arg("--")
            .arg(std::env::current_exe().unwrap());
        command.args([
            "--ignored",
            "--exact",
            "crash::power::one_boot",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
            .env("THINFS_TEST_BACKEND", "thin")
            .env("THINFS_TEST_DIR", "/mnt/scratch")
            .env("RUST_BACKTRACE", "0");
        command.env("THINFS_TEST_POWER", dir).env("THINFS_TEST_BOOT", boot).stdin(Stdio::null());
        Guest { script: command.spawn().unwrap(), dir: dir.to_owned(), boot: boot.to_owned() }
    }

    fn wait_until_ready(&mut self) {
        let (started, ready) = (Instant::now(), self.dir.join(format!("ready-{}", self.boot)));
        while !ready.exists() {
            assert!(
                self.script.try_wait().unwrap().is_none(),
                "boot {} ended before its power was cut",
                self.boot
            );
            assert!(started.elapsed() < PATIENCE, "boot {} is not ready", self.boot);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn cut(&mut self) {
        assert!(
            self.script.try_wait().unwrap().is_none(),
            "boot {} ended before its power was cut",
            self.boot
        );
        let pid = std::fs::read_to_string(self.dir.join("disks/pid")).unwrap();
        proc::kill(pid.trim().parse().unwrap());
        self.script.wait().unwrap();
    }
}

impl Drop for Guest {
    /// After a failed test: the script's end ends the guest.
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
#[ignore = "runs inside the guest, started by the test above"]
fn one_boot() {
    let dir =
        PathBuf::from(std::env::var_os("THINFS_TEST_POWER").expect("the host's test sets it"));
    let boot = std::env::var("THINFS_TEST_BOOT").expect("the host's test sets it");
    let mut book = Book::load(Path::new(NOTES));
    // The pool as the cut left it, before anybody opens it.
    let metadata = work_dir().join("power/thin/metadata.img");
    if metadata.exists() {
        run("thin_check", [metadata]).ok();
    }
    let d = Daemon::start_at(work_dir().join("power"), Options::default());
    let mut client = Client::connect(&d.socket());
    eprintln!("boot {boot}: {} keys", book.lock().unwrap().len());
    settle(&d, &mut client, &book, boot.parse().unwrap_or(usize::MAX));
    prune(&mut client, &book);
    // What was removed just now goes in the background: its device would go amid the check.
    client.gc();
    check_filesystems();
    book.keep_on(Path::new(NOTES));
    if boot == "last" {
        d.finish();
        return;
    }
    std::fs::write(dir.join(format!("ready-{boot}")), "").unwrap();
    work_until_cut(&d, &book);
    panic!("the workers ended before the power was cut\n{}", d.log());
}

/// Committed volumes are mounted read-only since their content was compared; no other volume is active yet.
fn check_filesystems() {
    let name_of = |disk: &Path| std::fs::read_to_string(disk.join("dm/name")).unwrap_or_default();
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path());
    let volumes = disks
        .map(|disk| (name_of(&disk), disk))
        .filter(|(name, _)| name.starts_with("thinfs-") && !name.trim_end().ends_with("-pool"));
    for (name, disk) in volumes.take(6) {
        let device = Path::new("/dev").join(disk.file_name().unwrap());
        let checked = run("e2fsck", ["-fn".as_ref(), device.as_os_str()]);
        // What is unused may be deactivated at any time, and its device with it.
        if name_of(&disk) == name {
            checked.ok();
        }
    }
}

fn work_until_cut(d: &Daemon, book: &Book) {
    let (calls, killed) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for n in 0..3 {
            let random = fastrand::Rng::new();
            let worker = Worker {
                name: format!("w{n}"),
                random,
                book,
                mount: d.mount(),
                killed: &killed,
                calls: &calls,
            };
            let client = Client::connect(&d.socket());
            scope.spawn(move || worker.run(client));
        }
    });
}
