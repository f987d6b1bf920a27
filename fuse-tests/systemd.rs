//! What the unit file (scripts/thinfs.service) relies on.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{Daemon, run, sh};

const UNIT: &str = include_str!("../scripts/thinfs.service");

#[test]
fn systemd_accepts_the_unit_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thinfs.service");
    // systemd-analyze looks whether the program is there.
    fs::write(&file, UNIT.replace("/usr/local/bin/thinfs", env!("CARGO_BIN_EXE_thinfs"))).unwrap();
    let verified = run("systemd-analyze", ["verify", "--man=no", file.to_str().unwrap()]);
    assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""), "{}", verified.stdout);
}

/// The lines in its head that put things in their places, into another root; and there systemd starts it at boot.
#[test]
fn the_unit_file_says_how_to_install_it() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| format!("{}{path}", root.path().display());
    for dir in ["/usr/local/bin", "/etc/systemd/system"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    let lines: Vec<_> = UNIT.lines().filter_map(|line| line.strip_prefix("#   install ")).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let line = line.replace("…/release/thinfs", env!("CARGO_BIN_EXE_thinfs"));
        let line = line.replace(" /usr/local/bin/", &format!(" {}", at("/usr/local/bin/")));
        let line = line.replace(" /etc/systemd/", &format!(" {}", at("/etc/systemd/")));
        sh(&format!("cd '{}' && install {line}", env!("CARGO_MANIFEST_DIR"))).ok();
    }
    assert!(UNIT.contains("systemctl enable --now thinfs"));
    run("systemctl", ["--root", root.path().to_str().unwrap(), "enable", "thinfs"]).ok();
    let wanted = at("/etc/systemd/system/multi-user.target.wants/thinfs.service");
    assert!(fs::symlink_metadata(wanted).unwrap().is_symlink());
}

/// `Type=notify`: containerd is started after READY=1, and its first call must find us.
#[test]
fn systemd_is_told_when_the_daemon_serves_and_when_it_stops() {
    let mut d = Daemon::start();
    assert_eq!(d.stop(), Some(0));
    let path = d.root().with_extension("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Other messages say which descriptors to keep.
    let receive = |wanted: &str| loop {
        let mut buffer = [0u8; 256];
        let len = notify.recv(&mut buffer).unwrap_or_else(|e| panic!("no {wanted} came: {e}"));
        let told = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if told.contains(wanted) {
            break;
        }
    };
    let mut child = d.serve_command().env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    receive("READY=1");
    let served = UnixStream::connect(d.socket()).map(drop);
    let listed = fs::read_dir(d.mount()).map(Iterator::count);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    receive("STOPPING=1");
    let status = child.wait().unwrap();
    fs::remove_file(&path).unwrap();

    assert!(served.is_ok(), "the socket answers by then: {served:?}");
    assert!(listed.is_ok_and(|entries| entries >= 3), "the snapshots are mounted by then");
    assert!(status.success(), "{status}");
    d.finish();
}
