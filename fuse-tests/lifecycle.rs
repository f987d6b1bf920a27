//! The daemon's life: what survives a stop, a kill, a second daemon, a stale mount.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use crate::harness::{Daemon, Options, eventually, run, sh};

#[test]
fn everything_is_there_again_after_a_clean_restart() {
    let mut d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "committed").unwrap();
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    d.cli(&["prepare", "work", "--parent", "base", "--label", "k=v"]).ok();
    fs::write(d.active("work").join("g"), "active").unwrap();
    let mounts = d.json(&["mounts", "work"]);
    assert_eq!(d.stop(), Some(0));
    d.restart();
    assert_eq!(fs::read_to_string(d.committed("base").join("f")).unwrap(), "committed");
    assert_eq!(fs::read_to_string(d.active("work").join("g")).unwrap(), "active");
    assert_eq!(d.json(&["mounts", "work"]), mounts, "the answer of mounts is stable");
    assert_eq!(d.json(&["info", "work"])["labels"]["k"], "v");
    d.cli(&["check"]).ok();
    d.finish();
}

#[test]
fn a_killed_daemon_starts_again_over_its_stale_mount() {
    let mut d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    fs::write(d.active("a").join("f"), "x").unwrap();
    fs::rename(d.active("a"), d.committed("base")).unwrap();
    d.cli(&["prepare", "work", "--parent", "base"]).ok();
    d.kill();
    // Not `metadata`: the kernel may still know the root's attributes.
    assert!(rustix::fs::statvfs(d.mount()).is_err(), "the mount is stale");
    d.restart();
    assert_eq!(fs::read_to_string(d.committed("base").join("f")).unwrap(), "x");
    fs::write(d.active("work").join("g"), "x").unwrap();
    d.cli(&["check"]).ok();
    d.finish();
}

#[test]
fn two_daemons_cannot_share_a_root() {
    let d = Daemon::start();
    let second = d.serve_command().output().unwrap();
    assert!(!second.status.success());
    let message = String::from_utf8_lossy(&second.stderr).into_owned()
        + &String::from_utf8_lossy(&second.stdout);
    assert!(message.contains(&d.pid().to_string()), "names the other daemon's pid: {message}");
    assert!(UnixStream::connect(d.socket()).is_ok(), "the first daemon still serves");
    d.finish();
}

/// containerd keeps its connection open for ever; a stop used to wait ten seconds for it to ask something.
#[test]
fn a_stop_does_not_wait_for_a_client_that_asks_nothing() {
    let mut d = Daemon::start();
    let silent = UnixStream::connect(d.socket()).unwrap();
    let mut idle = crate::harness::Client::connect(&d.socket());
    idle.list();
    assert_eq!(d.stop(), Some(0));
    assert!(!d.log().contains("requests still running"), "{}", d.log());
    drop((silent, idle));
    d.finish();
}

/// A request that waits for its client, which never goes on: the stop would give it ten seconds.
#[test]
fn a_second_signal_waits_for_no_request() {
    let mut d = Daemon::start();
    let mut import = Command::new(env!("CARGO_BIN_EXE_thinfs"))
        .arg("--socket")
        .arg(d.socket())
        .args(["layer", "import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The head of a file of 1 MiB and some of it: more than fits between the two, so the daemon has begun to read.
    let big = d.root().join("big");
    fs::write(&big, vec![7; 1 << 20]).unwrap();
    let tar = run("sh", ["-c", "tar -C \"$0\" -cf \"$0/tar\" big", d.root().to_str().unwrap()]);
    tar.ok();
    let tar = fs::read(d.root().join("tar")).unwrap();
    let mut stdin = import.stdin.take().unwrap();
    stdin.write_all(&tar[..600 << 10]).unwrap();
    d.terminate();
    eventually("the stop has begun", || d.log().contains("a second signal hurries"));
    d.terminate();
    eventually("it is dropped", || d.log().contains("requests still running"));
    drop(stdin);
    import.wait().unwrap();
    // Not 0 if the request, which nobody has stopped, still holds its volume: then the log says so.
    let code = d.stop();
    assert!(code == Some(0) || d.log().contains("is in use"), "{code:?}\n{}", d.log());
    assert!(d.log().contains("hurrying: requests still running are dropped"), "{}", d.log());
    d.restart();
    d.cli(&["check"]).ok();
    d.finish();
}

/// Else the service manager would keep them, and hand them out again with newer ones.
#[test]
fn half_of_a_handed_over_mount_is_refused_and_withdrawn() {
    let mut d = Daemon::start();
    assert_eq!(d.stop(), Some(0));
    let path = d.root().with_extension("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let serve = d.serve_command();
    let mut child = Command::new("sh")
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\" 3</dev/null"])
        .arg(serve.get_program())
        .args(serve.get_args())
        .env("NOTIFY_SOCKET", &path)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "thinfs-ledger")
        .spawn()
        .unwrap();
    let mut told = String::new();
    while !told.contains("READY=1") {
        let mut buffer = [0u8; 256];
        let len = notify.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}, after {told}"));
        told += &String::from_utf8_lossy(&buffer[..len]);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    fs::remove_file(&path).unwrap();
    let withdrawn = told.find("FDSTOREREMOVE=1").expect("nothing was withdrawn");
    assert!(told.find("FDSTORE=1").is_none_or(|kept| withdrawn < kept), "{told}");
    assert!(status.success(), "{status}");
    d.finish();
}

#[test]
fn a_stop_with_a_shell_inside_a_snapshot_still_ends() {
    let mut d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    let mut inside =
        std::process::Command::new("sleep").arg("600").current_dir(d.active("a")).spawn().unwrap();
    let code = d.stop();
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert_eq!(code, Some(0), "{}", d.log());
    d.finish();
}

#[test]
fn serve_says_which_backend_it_chose_and_why() {
    let d = Daemon::start_with(Options { auto: true, ..Options::default() });
    let log = d.log();
    let line = log
        .lines()
        .find(|l| l.contains("backend"))
        .unwrap_or_else(|| panic!("no line about the backend: {log}"));
    if std::path::Path::new("/dev/mapper/control").exists() {
        assert!(line.contains("thin"), "{line}");
    } else {
        assert!(line.contains("native") && line.contains("device-mapper"), "{line}");
    }
    d.finish();
}

#[test]
fn a_failed_start_names_the_object_and_leaves_nothing() {
    let d = Daemon::start();
    let root = d.root().join("elsewhere");
    let file = d.root().join("a-file");
    fs::write(&file, "x").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_thinfs"))
        .args(["serve", "--backend", "native", "--root"])
        .arg(&root)
        .arg("--mount")
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("a-file"), "{message}");
    d.finish();
}

#[test]
fn a_snapshot_removed_before_a_kill_is_reaped_after_it() {
    let mut d = Daemon::start();
    for i in 0..5 {
        fs::create_dir(d.active(&format!("k{i}"))).unwrap();
        fs::write(d.active(&format!("k{i}")).join("f"), vec![1u8; 1 << 20]).unwrap();
    }
    for i in 0..5 {
        fs::remove_dir(d.active(&format!("k{i}"))).unwrap();
    }
    d.kill();
    d.restart();
    d.cli(&["gc"]).ok();
    eventually("no tombstone left", || d.json(&["status"])["pending"] == 0);
    d.cli(&["check"]).ok();
    d.finish();
}

#[test]
fn a_program_runs_chrooted_inside_a_snapshot() {
    let d = Daemon::start();
    fs::create_dir(d.active("rootfs")).unwrap();
    let root = d.active("rootfs");
    sh(&format!(
        "cd {} && mkdir bin && cp /bin/busybox bin/ && ln -s busybox bin/sh && timeout 60 chroot . /bin/sh -c 'echo hello > /greeting; exec /bin/busybox cat /greeting'",
        root.display()
    ))
    .ok();
    assert_eq!(fs::read_to_string(root.join("greeting")).unwrap(), "hello\n");
    d.finish();
}
