//! Snapshots handed out as block devices: real ext4 mounts of real thin devices, so in the guest only.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Daemon, Options, errno, eventually, is_thin, run, sh};

/// Long enough for the guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LABEL: &str = "containerd.io/snapshot/thinfs.mount-form";

/// A snapshot's block device as `thinfs mounts` tells it.
struct Device {
    source: PathBuf,
    command: Vec<String>,
}

impl Device {
    /// Asks for the device, which hands it out, and checks the answer's form.
    #[track_caller]
    fn of(d: &Daemon, key: &str, access: &str) -> Device {
        let mount = d.json(&["mounts", key]);
        let text = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
        let options: Vec<_> =
            mount["options"].as_array().expect("options").iter().map(text).collect();
        assert_eq!(
            (mount["type"].as_str(), options[0].as_str()),
            (Some("ext4"), access),
            "{mount}"
        );
        let source = PathBuf::from(text(&mount["source"]));
        assert!(source.starts_with("/dev/mapper"), "{mount}");
        assert!(
            std::fs::metadata(&source).expect("the device is there").file_type().is_block_device()
        );
        let command = ["-t", "ext4", "-o", &options.join(",")].map(str::to_owned).to_vec();
        Device { source, command }
    }

    #[track_caller]
    fn mount(&self, d: &Daemon, name: &str) -> Mounted {
        let target = d.root().join(name);
        std::fs::create_dir_all(&target).expect("make a mount point");
        let mut args = self.command.clone();
        args.extend([&self.source, &target].map(|path| path.to_str().unwrap().to_owned()));
        run("mount", args).ok();
        Mounted(target)
    }
}

/// A mount, for its life.
struct Mounted(PathBuf);

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("write to the device");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("read from the device")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty()).expect("unmount");
    }
}

fn start() -> Daemon {
    assert!(is_thin(), "block devices are dm-thin's: run this in the guest (scripts/test guest)");
    Daemon::start()
}

fn prepare_block(d: &Daemon, key: &str, parent: &[&str]) {
    let label = format!("{LABEL}=block");
    d.cli(&[&["prepare", key, "--label", &label], parent].concat()).ok();
}

/// What is in a directory; whether opening it or reading it fails is the kernel's choice.
fn names_in(dir: &Path) -> std::io::Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(dir)?.collect()
}

fn reaped(d: &Daemon) -> bool {
    d.json(&["status"])["pending"] == 0
}

#[test]
fn in_guest_a_block_device_excludes_the_directory_and_commits_once_it_is_closed() {
    let d = start();
    prepare_block(&d, "k", &[]);
    let device = Device::of(&d, "k", "rw");
    let mounted = device.mount(&d, "m");
    assert!(!mounted.path("lost+found").exists(), "a new snapshot is empty");
    mounted.write("file", "by way of the device");

    // The directory is there to be seen, but not to be gone into: it would be the same ext4 a second time.
    assert!(d.active("k").is_dir());
    assert_eq!(errno(names_in(&d.active("k"))), libc::EBUSY);
    assert_eq!(errno(std::fs::write(d.active("k").join("x"), "")), libc::EBUSY);
    assert!(d.log().contains("the directory is closed while the block device is handed out"));
    d.cli(&["usage", "k"]).ok();

    assert_eq!(Device::of(&d, "k", "rw").source, device.source, "the answer is stable");
    drop(mounted);
    d.cli(&["commit", "k", "base"]).ok();
    assert!(!device.source.exists(), "the device is gone with the active snapshot");
    let text = std::fs::read_to_string(d.committed("base").join("file")).unwrap();
    assert_eq!(text, "by way of the device");
    d.finish();
}

/// containerd's suite commits what it has mounted, and so does who takes an image of a running container.
#[test]
fn in_guest_a_commit_of_a_mounted_device_keeps_this_moment_and_leaves_the_device_to_its_user() {
    let mut d = start();
    prepare_block(&d, "k", &[]);
    let id = d.json(&["info", "k"])["id"].clone();
    let device = Device::of(&d, "k", "rw");
    let mounted = device.mount(&d, "m");
    mounted.write("file", "before the commit");
    let open = std::fs::File::options().append(true).open(mounted.path("file")).unwrap();
    d.cli(&["commit", "k", "base"]).ok();

    // The user goes on, and nothing of it gets into what is committed.
    std::io::Write::write_all(&mut &open, b", and after it").unwrap();
    open.sync_all().unwrap();
    mounted.write("more", "after the commit");
    assert_eq!(mounted.read("file"), "before the commit, and after it");
    assert_eq!(d.cli(&["info", "k"]).code, Some(3), "the key is gone");
    assert_eq!(d.json(&["info", "base"])["id"], id, "a commit keeps the id");
    assert_eq!(d.json(&["gc"])["waiting"], 1, "the device waits for its user");
    assert_content_is_that_of_the_commit(&d, "first");
    d.cli(&["check"]).ok();

    // Over a kill, too. What the user wrote is his until he lets go, and then nobody's.
    d.kill();
    d.restart();
    mounted.write("much later", "with the next daemon");
    assert_content_is_that_of_the_commit(&d, "second");
    drop(open);
    drop(mounted);
    eventually("the device is destroyed after its last user", || reaped(&d));
    assert!(!device.source.exists());
    assert_content_is_that_of_the_commit(&d, "third");
    d.cli(&["check"]).ok();
    d.finish();
}

/// By way of the directory, of a child, and of a device with an ext4 that was left clean.
#[track_caller]
fn assert_content_is_that_of_the_commit(d: &Daemon, view: &str) {
    let names: Vec<_> =
        names_in(&d.committed("base")).unwrap().iter().map(|e| e.file_name()).collect();
    assert_eq!(names, ["file"]);
    let text = std::fs::read_to_string(d.committed("base").join("file")).unwrap();
    assert_eq!(text, "before the commit");
    let child = format!("child-{view}");
    d.cli(&["prepare", &child, "--parent", "base"]).ok();
    std::fs::write(d.active(&child).join("own"), view).unwrap();
    assert_eq!(std::fs::read_to_string(d.active(&child).join("file")).unwrap(), text);
    d.cli(&["rm", &child]).ok();
    let label = format!("{LABEL}=block");
    d.cli(&["view", view, "--parent", "base", "--label", &label]).ok();
    let device = Device::of(d, view, "ro");
    sh(&format!("e2fsck -fn {}", device.source.display())).ok();
    assert_eq!(device.mount(d, view).read("file"), text);
    d.cli(&["rm", view]).ok();
}

/// A kill at any point of such a commit: it happened or it didn't, and the user's filesystem never stays frozen.
#[test]
fn in_guest_a_kill_in_the_commit_of_a_mounted_device_leaves_it_usable_and_the_commit_done_or_not() {
    let mut d = start();
    // A start makes one device active itself, to write the witness.
    let steps =
        [("dm.suspend", ""), ("pool.create_snap", ""), ("dm.resume", ":2"), ("store.commit", "")];
    let points = steps
        .iter()
        .flat_map(|(step, nth)| ["before", "after"].map(|side| format!("{step}.{side}{nth}")));
    for (n, point) in points.enumerate() {
        let (key, name) = (format!("k{n}"), format!("base{n}"));
        prepare_block(&d, &key, &[]);
        let mounted = Device::of(&d, &key, "rw").mount(&d, &key);
        mounted.write("file", &point);
        d.kill();
        assert!(d.start_armed(&point), "{point} was reached too early");
        assert_ne!(d.cli(&["commit", &key, &name]).code, Some(0), "{point}");
        d.wait_for_its_point(&point, PATIENCE);
        d.restart();
        mounted.write("after", "the filesystem can be written");
        let done = d.cli(&["info", &name]).code == Some(0);
        assert_eq!(done, point == "store.commit.after", "{point}");
        assert_eq!(d.cli(&["info", &key]).code == Some(0), !done, "{point}");
        if !done {
            d.cli(&["commit", &key, &name]).ok();
        }
        drop(mounted);
        let file = |file: &str| std::fs::read_to_string(d.committed(&name).join(file));
        assert_eq!(file("file").unwrap(), point);
        assert_eq!(file("after").is_ok(), !done, "{point}");
        eventually("the device is destroyed", || reaped(&d));
        d.cli(&["check"]).ok();
    }
    d.finish();
}

#[test]
fn in_guest_views_of_one_parent_share_a_read_only_device_beside_its_directory() {
    let d = start();
    d.cli(&["prepare", "k"]).ok();
    std::fs::write(d.active("k").join("file"), "base").unwrap();
    d.cli(&["commit", "k", "base"]).ok();
    let label = format!("{LABEL}=block");
    for view in ["v1", "v2"] {
        d.cli(&["view", view, "--parent", "base", "--label", &label]).ok();
    }
    let (first, second) = (Device::of(&d, "v1", "ro"), Device::of(&d, "v2", "ro"));
    assert_eq!(first.source, second.source);
    let mounted = first.mount(&d, "m");
    assert_eq!(mounted.read("file"), "base");
    assert_eq!(errno(std::fs::write(mounted.path("x"), "")), libc::EROFS);
    assert!(run("blockdev", ["--getro".as_ref(), first.source.as_os_str()]).ok().starts_with('1'));
    assert_eq!(std::fs::read_to_string(d.viewed("v1").join("file")).unwrap(), "base");

    d.cli(&["rm", "v2"]).ok();
    assert_eq!(mounted.read("file"), "base");
    drop(mounted);
    d.cli(&["rm", "v1"]).ok();
    assert!(!first.source.exists(), "nobody has been handed the device any more");
    d.finish();
}

/// As a virtual machine has it: open, and not mounted here.
#[test]
fn in_guest_a_device_in_use_is_never_removed_and_its_removal_waits() {
    let d = start();
    prepare_block(&d, "vm", &[]);
    let device = Device::of(&d, "vm", "rw");
    let machine = std::fs::File::options().read(true).write(true).open(&device.source).unwrap();
    d.cli(&["rm", "vm"]).ok();
    assert_eq!(d.cli(&["info", "vm"]).code, Some(3), "the key is free at once");
    assert_eq!(d.json(&["gc"])["waiting"], 1);
    std::os::unix::fs::FileExt::write_all_at(&machine, &[7; 4096], 1 << 20).unwrap();
    machine.sync_all().unwrap();
    assert!(device.source.exists());

    // The key is used again while the old device is still there: it gets another one.
    prepare_block(&d, "vm", &[]);
    assert_ne!(Device::of(&d, "vm", "rw").source, device.source);
    drop(machine);
    eventually("the device is destroyed after its last user", || reaped(&d));
    assert!(!device.source.exists());
    d.cli(&["check"]).ok();
    d.finish();
}

#[test]
fn in_guest_a_device_in_use_outlives_a_kill_and_a_stop_of_the_daemon() {
    let mut d = start();
    prepare_block(&d, "k", &[]);
    let device = Device::of(&d, "k", "rw");
    let mounted = device.mount(&d, "m");
    mounted.write("1", "before the kill");
    d.kill();
    mounted.write("2", "while nobody serves");
    d.restart();
    assert_eq!(errno(names_in(&d.active("k"))), libc::EBUSY, "the next daemon knows");
    assert_eq!(Device::of(&d, "k", "rw").source, device.source);

    assert_eq!(d.stop(), Some(0), "{}", d.log());
    assert!(d.log().contains("somebody has these block devices open: they stay active"));
    mounted.write("3", "after the stop");
    d.restart();
    mounted.write("4", "with a third daemon");
    drop(mounted);
    d.cli(&["commit", "k", "base"]).ok();
    for (name, text) in [
        ("1", "before the kill"),
        ("2", "while nobody serves"),
        ("3", "after the stop"),
        ("4", "with a third daemon"),
    ] {
        assert_eq!(std::fs::read_to_string(d.committed("base").join(name)).unwrap(), text);
    }
    d.cli(&["check"]).ok();
    d.finish();
}

/// A device that was handed out and that nobody has opened yet: a stop takes it down, a kill leaves it.
#[test]
fn in_guest_a_device_that_nobody_opened_goes_with_a_stop_and_stays_over_a_kill() {
    let mut d = start();
    prepare_block(&d, "k", &[]);
    let device = Device::of(&d, "k", "rw");
    d.kill();
    d.restart();
    drop(device.mount(&d, "m"));
    assert_eq!(d.stop(), Some(0), "{}", d.log());
    assert!(!device.source.exists());
    d.restart();
    assert_eq!(Device::of(&d, "k", "rw").source, device.source);
    d.finish();
}

#[test]
fn in_guest_the_form_is_switched_by_label_while_nobody_uses_the_snapshot() {
    let d = start();
    d.cli(&["prepare", "k"]).ok();
    let bind = d.json(&["mounts", "k"]);
    assert_eq!(bind["type"], "bind");
    std::fs::write(d.active("k").join("file"), "by way of the directory").unwrap();
    let open = std::fs::File::open(d.active("k").join("file")).unwrap();

    // Whoever has a file open through the directory keeps the device from being handed out.
    d.cli(&["label", "k", &format!("{LABEL}=block")]).ok();
    let refused = d.cli(&["mounts", "k"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("open through its directory"), "{}", refused.stderr);
    drop(open);
    let device = Device::of(&d, "k", "rw");
    let mounted = device.mount(&d, "m");
    assert_eq!(mounted.read("file"), "by way of the directory");
    mounted.write("file", "by way of the device");

    // And the other way round.
    let refused = d.cli(&["label", "k", &format!("{LABEL}=bind")]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert_eq!(
        d.json(&["info", "k"])["labels"][LABEL],
        "block",
        "a refused switch changes nothing"
    );
    drop(mounted);
    d.cli(&["label", "k", &format!("{LABEL}=bind")]).ok();
    assert_eq!(d.json(&["mounts", "k"]), bind);
    assert_eq!(
        std::fs::read_to_string(d.active("k").join("file")).unwrap(),
        "by way of the device"
    );
    let refused = d.cli(&["label", "k", &format!("{LABEL}=nbd")]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    d.finish();
}

#[test]
fn in_guest_the_setting_is_the_form_of_snapshots_whose_labels_say_nothing() {
    assert!(is_thin(), "block devices are dm-thin's: run this in the guest (scripts/test guest)");
    let flags = ["--mount-form", "block"].map(str::to_owned).to_vec();
    let d = Daemon::start_with(Options { flags, ..Options::default() });
    d.cli(&["prepare", "k"]).ok();
    // Until somebody asks for the device, the directory is as usual.
    std::fs::write(d.active("k").join("file"), "text").unwrap();
    let device = Device::of(&d, "k", "rw");
    assert_eq!(device.mount(&d, "m").read("file"), "text");
    d.cli(&["prepare", "b", "--label", &format!("{LABEL}=bind")]).ok();
    assert_eq!(d.json(&["mounts", "b"])["type"], "bind");

    // A child that is larger than its parent: the filesystem has grown by the time the device is handed out.
    d.cli(&["commit", "k", "base"]).ok();
    let size = "containerd.io/snapshot/max-size=16106127360";
    d.cli(&["prepare", "large", "--parent", "base", "--label", size]).ok();
    let mounted = Device::of(&d, "large", "rw").mount(&d, "m");
    assert!(blocks(&mounted.0) > 14 << 30, "{}", blocks(&mounted.0));
    drop(mounted);
    sh(&format!("e2fsck -fn {}", Device::of(&d, "large", "rw").source.display())).ok();
    d.finish();
}

fn blocks(path: &Path) -> u64 {
    let fs = rustix::fs::statvfs(path).expect("look at the filesystem");
    fs.f_blocks * fs.f_frsize
}
