//! thinfs is stopped, killed and started again under a containerd that goes on.
//!
//! A FUSE directory of a daemon that is gone answers ENOTCONN for good, so a task that ran on it must be started again;
//! its container, its snapshot and all that it wrote are still there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::containers::{IMAGE, LAYERS, assert_agree, assert_nothing_kept};
use crate::harness::containerd::{Containerd, THINFS, snapshots_on};
use crate::harness::golang::awkward_image;
use crate::harness::{Daemon, eventually};

#[test]
fn calls_are_unavailable_while_thinfs_is_stopped_and_go_on_after() {
    goes_away_and_comes_back(|d| assert_eq!(d.stop(), Some(0), "{}", d.log()));
}

#[test]
fn calls_are_unavailable_while_thinfs_is_dead_and_go_on_after() {
    goes_away_and_comes_back(Daemon::kill);
}

fn goes_away_and_comes_back(end: impl FnOnce(&mut Daemon)) {
    let mut d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    c.import(THINFS, &awkward_image(0));
    c.run(
        THINFS,
        IMAGE,
        "kept",
        &["--detach"],
        &["sh", "-c", "echo kept > /written; sync; exec sleep 1000"],
    )
    .ok();
    eventually("the container has written", || {
        c.exec("kept", "0", &["cat", "/written"]).stdout == "kept\n"
    });

    end(&mut d);
    let refused = c.run(THINFS, IMAGE, "refused", &["--rm"], &["true"]);
    assert_ne!(refused.code, Some(0));
    let said = refused.stderr.to_lowercase();
    // containerd 2 leaves the status out of what it prints, and not the reason.
    let unavailable = ["unavailable", "connection error"].iter().any(|word| said.contains(word));
    assert!(unavailable, "the error says that it may be tried again: {said}");

    d.restart();
    wait_until_reached(&c);
    c.ctr(["containers", "delete", "refused"]);
    c.run(THINFS, IMAGE, "new", &["--rm"], &["cat", "/a/links/first"]).ok();
    c.stop_task("kept");
    c.ctr([
        "tasks",
        "start",
        "--detach",
        "--fifo-dir",
        c.dir().join("fifos").to_str().unwrap(),
        "kept",
    ])
    .ok();
    c.collect();
    assert_agree(&c, &d);
    assert_eq!(snapshots_on(&d.socket()).len(), LAYERS + 1);

    let mounted = c.mount(THINFS, "kept");
    assert_eq!(std::fs::read_to_string(mounted.path().join("written")).unwrap(), "kept\n");
    drop(mounted);
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}

/// containerd connects again by itself, after a pause that grows to three seconds. Until then its collector fails too,
/// and containerd 1.6 tries it again only after the next removal.
fn wait_until_reached(c: &Containerd) {
    eventually("containerd reaches thinfs again", || {
        c.ctr(["snapshots", "--snapshotter", THINFS, "usage"]).code == Some(0)
    });
}

/// Three clients run containers without a pause while thinfs is killed again and again. Afterwards containerd's
/// collector brings both sides to the same state, and it is an empty one.
#[test]
fn kills_under_load_leave_no_snapshot_that_containerd_cannot_remove() {
    const KILLS: usize = 5;
    let mut d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    c.import(THINFS, &awkward_image(0));
    let (stop, ran, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (c, stop, ran, failed) = (&c, &stop, &ran, &failed);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("k{client}-{n}");
                    let done = c
                        .run(
                            THINFS,
                            IMAGE,
                            &id,
                            &["--rm"],
                            &["sh", "-c", "echo x > /f && rm -r /a/names"],
                        )
                        .code
                        == Some(0);
                    let counter = if done { ran } else { failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let kills = (0..KILLS).map(|_| {
            let before = ran.load(Ordering::Relaxed);
            eventually("containers run between two kills", || {
                ran.load(Ordering::Relaxed) > before + 2
            });
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..500)));
            d.kill();
            d.restart();
        });
        let kills = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kills.count()));
        stop.store(true, Ordering::Relaxed); // also when a restart failed, or the clients would run for ever
        assert_eq!(kills.unwrap_or_else(|cause| std::panic::resume_unwind(cause)), KILLS);
    });
    eprintln!(
        "{} containers ran, {} failed under {KILLS} kills",
        ran.into_inner(),
        failed.into_inner()
    );
    wait_until_reached(&c);
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}
