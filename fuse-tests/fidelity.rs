//! `cp -a`, `tar` and `rsync` into and out of snapshots keep everything.

use std::path::{Path, PathBuf};

use crate::harness::tree::listing;
use crate::harness::{Daemon, sh, work_dir};

/// A tree with everything that a root filesystem may hold.
fn awkward_tree(at: &Path) {
    let script = r#"
        mkdir -p dir/deep/er "sp ace" ünï
        echo content > file; echo x > "sp ace/new
line"
        ln file dir/hard; ln -s ../file dir/soft; ln -s /nowhere dangling
        mknod null c 1 3; mknod blk b 7 200; mkfifo fifo
        python3 - <<'P'
import socket
socket.socket(socket.AF_UNIX).bind("sock")
P
        truncate -s 10M sparse; printf end | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        dd if=/dev/urandom of=random bs=64k count=8 status=none
        chmod 4755 file; chmod 1777 dir; chmod 2750 dir/deep; chmod 0 "ünï"
        chown 12345:54321 dir/deep/er; chown -h 7:8 dangling; chown 3000000000:3000000000 random
        setfattr -n user.note -v hello file; setfattr -n trusted.secret -v t dir; setfattr -n security.capability -v 0sAQAAAgAkAAAAAAAAAAAAAAAAAAA= random
        setfacl -m u:12:rw,g:34:r random; setfacl -d -m u:12:rwx dir
        touch -d '1931-02-03 04:05:06.123456789' -h dangling; touch -d '2345-06-07 08:09:10.987654321' random; touch -d '2001-01-01 00:00:00.5' dir/deep
        "#;
    sh(&format!("umask 022; cd '{}'; {script}", at.display())).ok();
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(work_dir()).unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    awkward_tree(&source);
    (dir, source)
}

fn round_trip(leave_out: &str, copy: impl Fn(&Path, &Path) -> String) {
    let (dir, source) = scratch();
    sh(&format!("cd '{}'; rm -f {leave_out}", source.display())).ok();
    let d = Daemon::start();
    std::fs::create_dir(d.active("in")).unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let expected = listing(&source);

    sh(&format!("timeout 200 {}", copy(&source, &d.active("in")))).ok();
    assert_eq!(listing(&d.active("in")), expected, "into a snapshot");
    d.cli(&["commit", "in", "base"]).ok();
    d.cli(&["prepare", "child", "--parent", "base"]).ok();
    assert_eq!(listing(&d.active("child")), expected, "in a child of the committed snapshot");
    sh(&format!("timeout 200 {}", copy(&d.committed("base"), &out))).ok();
    assert_eq!(listing(&out), expected, "out of a snapshot");
    assert_eq!(
        d.cli(&["diff", "base", "child"]).ok(),
        "",
        "nothing changed between base and child"
    );
    d.finish();
}

#[test]
fn cp_keeps_everything_both_ways() {
    round_trip("", |from, to| format!("cp -a '{}/.' '{}/'", from.display(), to.display()));
}

#[test]
fn rsync_keeps_everything_both_ways() {
    // Without the window, rsync takes times within one second for equal and leaves them.
    round_trip("", |from, to| {
        format!("rsync -aHAXS --modify-window=-1 '{}/' '{}/'", from.display(), to.display())
    });
}

#[test]
fn tar_keeps_everything_both_ways() {
    // A tar file cannot hold a socket.
    round_trip("sock", |from, to| {
        let flags = "--xattrs --xattrs-include='*' --acls";
        format!(
            "bash -c \"tar -C '{}' {flags} -S --format=posix -cf - . | tar -C '{}' {flags} --same-owner -xpf -\"",
            from.display(),
            to.display()
        )
    });
}

#[test]
fn a_mutable_copy_and_its_source_differ_only_where_written() {
    let (_dir, source) = scratch();
    let d = Daemon::start();
    std::fs::create_dir(d.active("a")).unwrap();
    sh(&format!("timeout 100 cp -a '{}/.' '{}/'", source.display(), d.active("a").display())).ok();
    d.cli(&["commit", "a", "base"]).ok();
    d.cli(&["prepare", "b", "--parent", "base"]).ok();
    let b = d.active("b");
    sh(&format!("cd '{}'; echo more >> file; rm dangling; rm -r dir; mkdir -p added/below; echo n > added/below/n", b.display())).ok();
    let changes = d.cli(&["diff", "base", "b"]).ok();
    let mut lines: Vec<&str> = changes.lines().collect();
    lines.sort_unstable();
    for expected in ["D dangling", "D dir", "M file", "A added", "A added/below", "A added/below/n"]
    {
        assert!(
            lines.iter().any(|l| l
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .ends_with(expected)
                || l.replace(" /", " ").ends_with(expected)),
            "{expected}: {changes}"
        );
    }
    d.finish();
}

/// With O_RDONLY|O_TRUNC the kernel asks the filesystem to truncate first and finds out afterwards that the file is being
/// executed: the program died of SIGBUS, and whoever asked got either answer. Found by pjdfstest (`open::etxtbsy`).
#[test]
fn a_running_program_cannot_be_truncated_by_an_open_for_reading() {
    use std::os::unix::fs::OpenOptionsExt;
    let d = Daemon::start();
    d.cli(&["prepare", "x"]).ok();
    let path = d.active("x").join("sleep");
    std::fs::copy("/bin/busybox", &path).unwrap();
    let length = path.metadata().unwrap().len();
    let truncate = || {
        let flags = (rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::RDONLY).bits() as i32;
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path)
    };
    // Busybox goes by the name that it is called by.
    let mut running = std::process::Command::new(&path).arg("1000").spawn().unwrap();
    let refused = crate::harness::errno(truncate());
    assert_eq!(refused, rustix::io::Errno::TXTBSY.raw_os_error());
    assert_eq!(path.metadata().unwrap().len(), length);
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    running.kill().unwrap();
    running.wait().unwrap();
    crate::harness::eventually("it can be truncated once it has ended", || truncate().is_ok());
    assert_eq!(path.metadata().unwrap().len(), 0);
    d.finish();
}
