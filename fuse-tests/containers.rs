//! Real containers: containerd and runc, with thinfs as the snapshotter, on an image made to be awkward.
//!
//! The reference is containerd's own overlayfs snapshotter: what it makes of the same layers is right.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::harness::containerd::{Containerd, Listed, THINFS, as_containerd_sees, snapshots_on};
use crate::harness::golang::awkward_image;
use crate::harness::{Daemon, Options, eventually, is_thin, run, sh, tree};

/// The image's name, as fuse-tests/containerd/image writes it.
pub const IMAGE: &str = "thinfs.test/awkward:1";
/// How many layers it has.
pub const LAYERS: usize = 10;
const COMMITTED: &str = "thinfs.test/committed:1";
pub const OVERLAYFS: &str = "overlayfs";

#[test]
fn a_container_lives_on_thinfs_from_import_to_collection() {
    let d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    // Some 220 MB; in the guest, where that takes ten minutes, a tenth of it.
    c.import(THINFS, &awkward_image(if is_thin() { 16 } else { 160 }));
    assert_same_as_on_overlayfs(&c, IMAGE);
    live(&c);
    assert_commit_keeps_everything(&c);
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}

#[test]
fn many_containers_start_at_once_from_one_image() {
    // The guest has one slow processor: a dozen clients there wait as long as fifty here.
    let containers: usize = if is_thin() { 12 } else { 50 };
    let d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    c.import(THINFS, &awkward_image(0));
    let ids: Vec<String> = (0..containers).map(|n| format!("c{n:02}")).collect();
    let each = |work: &(dyn Fn(&str) + Sync)| {
        std::thread::scope(|s| ids.iter().for_each(|id| drop(s.spawn(move || work(id)))))
    };

    let started = Instant::now();
    each(&|id| {
        // What one container writes, no other sees: the marker names whose file it is.
        let script = format!(
            "test ! -e /marker && echo {id} > /marker && rm /etc/hostname && exec sleep 1000"
        );
        c.run(THINFS, IMAGE, id, &["--detach"], &["sh", "-c", &script]).ok();
    });
    eprintln!("{containers} containers started in {:.1} s", started.elapsed().as_secs_f64());

    each(&|id| {
        eventually("the marker is written", || {
            c.exec(id, "0", &["cat", "/marker"]).stdout == format!("{id}\n")
        });
    });
    let tasks = c.ctr(["tasks", "ls"]).ok();
    assert_eq!(tasks.matches("RUNNING").count(), containers, "{tasks}");
    let listed = snapshots_on(&d.socket());
    assert_eq!(listed.values().filter(|l| l.kind == "Active").count(), containers);
    assert_eq!(listed.values().filter(|l| l.kind == "Committed").count(), LAYERS);

    each(&|id| c.remove_container(id));
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}

/// The same with block devices in place of directories, as Kata and Firecracker need them: unpacking, running,
/// committing.
#[test]
fn in_guest_a_container_lives_on_block_devices() {
    assert!(is_thin(), "block devices are dm-thin's: run this in the guest (scripts/test guest)");
    let flags = ["--mount-form", "block"].map(str::to_owned).to_vec();
    let d = Daemon::start_with(Options { flags, ..Options::default() });
    let c = Containerd::start(Some(&d.socket()));
    c.import(THINFS, &awkward_image(0));
    c.run(THINFS, IMAGE, "c1", &["--detach"], &["sleep", "1000"]).ok();
    let root = c.exec("c1", "0", &["cat", "/proc/mounts"]).ok();
    let root = root.lines().find(|l| l.split(' ').nth(1) == Some("/")).expect("a root").to_owned();
    assert!(root.starts_with("/dev/mapper/thinfs-") && root.contains(" ext4 rw"), "{root}");
    c.exec("c1", "0", &["sh", "-euc", CHANGES]).ok();
    // containerd mounts what it commits read-only, which the kernel refuses for a device that is mounted for writing.
    c.stop_task("c1");
    assert_commit_keeps_everything(&c);
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}

/// Removing an image while containers run from it, and one container of several: only what nothing needs goes away.
#[test]
fn containerds_collector_removes_what_is_unused_and_nothing_else() {
    let d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    c.import(THINFS, &awkward_image(0));
    for id in ["stays", "goes"] {
        c.run(THINFS, IMAGE, id, &["--detach"], &["sleep", "1000"]).ok();
    }
    c.ctr(["images", "rm", "--sync", IMAGE]).ok();
    c.remove_container("goes");
    c.collect();
    let listed = as_containerd_sees(snapshots_on(&d.socket()));
    assert_eq!(listed.len(), LAYERS + 1, "the running container holds its layers: {listed:?}");
    assert_eq!(listed["stays"].kind, "Active");
    c.exec("stays", "0", &["cat", "/a/links/first"]).ok();

    // The command line shows the same snapshots, under containerd's names for them.
    let shown = d.cli(&["--namespace", "containerd", "ls"]).ok();
    assert!(shown.contains("/stays"), "{shown}");

    // A key that containerd never made is not containerd's to remove: it lives in another thinfs namespace.
    d.cli(&["prepare", "mine"]).ok();
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    d.cli(&["info", "mine"]).ok();
    c.finish();
    d.finish();
}

/// The indented lines of the README's containerd part, as they stand: `ctr` is a script that adds what keeps the test
/// to itself.
#[test]
fn the_commands_of_the_readme_run() {
    let readme = include_str!("../README.md");
    let part = readme.split("\n## containerd\n").nth(1).expect("a part on containerd");
    let part = part.split("\n## ").next().expect("its text");
    let lines: Vec<&str> = part.lines().filter_map(|l| l.strip_prefix("    ")).collect();
    assert!(
        lines.len() >= 9 && lines.iter().all(|l| l.starts_with("ctr ") || l.starts_with("thinfs "))
    );
    // No command hides in the text.
    for word in part.split('`').skip(1).step_by(2) {
        let program = word.split_once(' ').map(|(program, _)| program);
        let commands = ["ctr", "thinfs", "systemctl", "kubectl", "containerd", "nerdctl"];
        assert!(!commands.iter().any(|known| program == Some(known)), "{word:?} is not run");
    }

    let d = Daemon::start();
    let c = Containerd::start(Some(&d.socket()));
    let bin = c.dir().join("bin");
    c.write_ctr(&bin);
    std::os::unix::fs::symlink(awkward_image(0), c.dir().join("image.tar")).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_thinfs")).parent().unwrap();
    for line in lines {
        let script = format!(
            "cd '{}'; export PATH='{}':'{}':$PATH THINFS_SOCKET='{}'; {}",
            c.dir().display(),
            bin.display(),
            binaries.display(),
            d.socket().display(),
            line.replace("IMAGE", IMAGE)
        );
        let output = sh(&script);
        assert_eq!(output.code, Some(0), "$ {line}\n{}{}", output.stdout, output.stderr);
        if line.contains(" cat ") {
            assert_eq!(output.stdout, "awkward\n");
        }
        if line.starts_with("thinfs ") {
            assert!(output.stdout.contains("/web"), "{}", output.stdout);
        }
        if line.contains(" kill ") {
            c.wait_stopped("web");
        }
    }
    c.remove_everything();
    assert_nothing_kept(&c, &d);
    c.finish();
    d.finish();
}

/// The part for Kubernetes too, which the other tests switch off.
#[test]
fn containerd_accepts_the_example_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/containerd-config.toml");
    let merged = run("containerd", ["--config", file, "config", "dump"]).ok();
    let merged: toml::Table = merged.parse().expect("containerd prints TOML");
    let proxy = &merged["proxy_plugins"]["thinfs"];
    assert_eq!(proxy["address"].as_str(), Some("/var/lib/thinfs/thinfs.sock"), "{proxy}");
    // Where containerd 2 has it, and where 1 has it.
    let plugins = merged["plugins"].as_table().expect("a table");
    let cri = plugins
        .get("io.containerd.cri.v1.images")
        .unwrap_or_else(|| &plugins["io.containerd.grpc.v1.cri"]["containerd"]);
    assert_eq!(cri["snapshotter"].as_str(), Some("thinfs"), "{cri}");
}

/// Neither containerd nor thinfs knows a snapshot any more, and thinfs has given back what they took.
pub fn assert_nothing_kept(c: &Containerd, d: &Daemon) {
    assert_agree(c, d);
    let left = snapshots_on(&d.socket());
    assert!(left.is_empty(), "thinfs kept {left:?}");
    eventually("everything removed is reclaimed", || d.json(&["status"])["pending"] == 0);
    d.cli(&["check"]).ok();
}

/// containerd's metadata and thinfs name the same snapshots, with the same kinds and parents.
pub fn assert_agree(c: &Containerd, d: &Daemon) {
    let (containerd, thinfs) = (c.snapshots(THINFS), as_containerd_sees(snapshots_on(&d.socket())));
    assert_same("containerd and thinfs", &lines(&containerd), &lines(&thinfs));
}

fn lines(listed: &BTreeMap<String, Listed>) -> BTreeMap<String, String> {
    listed.iter().map(|(key, l)| (key.clone(), format!("{} of {:?}", l.kind, l.parent))).collect()
}

/// The same image, unpacked by both snapshotters: equal in every path, mode, owner, time, link, attribute and byte.
fn assert_same_as_on_overlayfs(c: &Containerd, image: &str) {
    let here = c.view(THINFS, image);
    let there = c.view(OVERLAYFS, image);
    assert_same("overlayfs and thinfs", &exact(there.path()), &exact(here.path()));
    assert_links_are_counted(here.path());
}

/// A file's link count is the number of its names. (overlayfs counts names too that upper layers have removed.)
fn assert_links_are_counted(root: &Path) {
    let files: Vec<_> =
        tree::listing(root).into_iter().filter(|(_, line)| !is_directory(line)).collect();
    let word = |line: &str, name: &str| {
        line.split(' ').find_map(|w| w.strip_prefix(name)).map(str::to_owned)
    };
    let mut names = BTreeMap::<_, u64>::new();
    for (_, line) in &files {
        *names.entry(word(line, "first=")).or_default() += 1;
    }
    for (path, line) in &files {
        assert_eq!(
            word(line, "nlink="),
            Some(names[&word(line, "first=")].to_string()),
            "links of {path:?}"
        );
    }
}

/// Everything that a container does with its files.
fn live(c: &Containerd) {
    let run = c.run(THINFS, IMAGE, "c1", &["--detach"], &["sleep", "1000"]);
    run.ok();
    let say = |user: &str, command: &[&str]| c.exec("c1", user, command).ok();

    // Maps, executes, locks, connects: the probe checks each and says which failed.
    say("0", &["mkdir", "/work"]);
    let checks = say("0", &["probe", "fs", "/work"]);
    assert!(
        checks.lines().count() > 15 && checks.lines().all(|l| l.starts_with("ok: ")),
        "{checks}"
    );

    // A plain user is nobody special; a set-user-id program makes him root; a file capability gives him that one.
    assert!(
        say("1000", &["probe", "credentials"])
            .starts_with("uid=1000 euid=1000 capeff=0000000000000000")
    );
    assert!(say("1000", &["suid-probe", "credentials"]).starts_with("uid=1000 euid=0"));
    assert!(
        say("1000", &["cap-probe", "credentials"])
            .starts_with("uid=1000 euid=1000 capeff=0000000000002000")
    );

    // Permissions hold inside the container: the closed directory is root's, the listed file is the user's to read.
    assert_ne!(c.exec("c1", "1000", &["cat", "/a/privileges/closed/acl"]).code, Some(0));
    say("1000", &["sh", "-c", "echo mine > /tmp/of-a-user"]);
    // The device node of the image works as one: it is the null device, not a file.
    say("0", &["sh", "-c", "echo gone > /a/nodes/null && test ! -s /a/nodes/null"]);

    // What a commit must find again: each kind of change to what a lower layer holds.
    say("0", &["sh", "-euc", CHANGES]);
}

const CHANGES: &str = "
    cd /bulk
    printf changed | dd of=large-003 bs=1 seek=500000 conv=notrunc
    echo appended >> large-004
    : > large-005
    rm large-006
    mv small renamed
    chmod 0640 new
    chown 1000:1000 large-000
    cd /a
    ln links/first linked
    rm -r numbers/zeros names/*
    mkdir names/instead
    rmdir deep/none 2>/dev/null || rm deep/instead
    ln -s over links/symlink
    mkfifo nodes/fifo2
    mknod nodes/zero c 1 5
    touch -d '2001-02-03 04:05:06' links/fourth
    cp -p /usr/bin/suid-probe /usr/bin/suid-copy
    sync
";

/// Commits the container, takes the image to another containerd that has never heard of thinfs, and compares.
fn assert_commit_keeps_everything(c: &Containerd) {
    c.tool(&["commit", "c1", COMMITTED]);
    let live = {
        let mounted = c.mount(THINFS, "c1");
        as_committed(mounted.path())
    };
    let archive = c.dir().join("committed.tar");
    c.ctr(["images", "export", archive.to_str().unwrap(), COMMITTED]).ok();

    let elsewhere = Containerd::start(None);
    elsewhere.import(OVERLAYFS, &archive);
    let unpacked = as_committed(elsewhere.view(OVERLAYFS, COMMITTED).path());
    assert_same("the container and its image elsewhere", &live, &unpacked);
    elsewhere.remove_everything();
    elsewhere.finish();

    let again = c.view(THINFS, COMMITTED);
    assert_same("the container and its image on thinfs", &live, &as_committed(again.path()));
}

/// A tree but for link counts, which overlayfs makes up; which names are one file is compared all the same.
pub fn exact(root: &Path) -> BTreeMap<String, String> {
    tree::listing(root).into_iter().map(|(path, line)| (path, without(&line, "nlink="))).collect()
}

/// A tree as far as a committed image can hold it: containerd 1.6 writes layers with whole seconds, without sockets
/// (tar has none) and with no attribute but capabilities; `user.name` is the one that the probe sets.
fn as_committed(root: &Path) -> BTreeMap<String, String> {
    let kept = exact(root).into_iter().filter(|(_, line)| !line.starts_with("14"));
    kept.map(|(path, line)| (path, without(&without_nanoseconds(&line), "user.name="))).collect()
}

fn is_directory(line: &str) -> bool {
    line.len() > 5 && line.starts_with('4') && line.as_bytes()[5] == b' '
}

/// The line without the word that starts so; an attribute's value runs to its closing bracket.
fn without(line: &str, word: &str) -> String {
    let Some(start) = line.find(&format!(" {word}")) else { return line.to_owned() };
    let rest = &line[start + 1..];
    let end = if rest[word.len()..].starts_with('[') {
        rest.find(']').map(|at| at + 1)
    } else {
        rest.find(' ')
    };
    format!("{}{}", &line[..start], end.map_or("", |at| &rest[at..]))
}

fn without_nanoseconds(line: &str) -> String {
    let start = line.find(" mtime=").expect("every line has a time");
    let dot = start + line[start..].find('.').expect("a time has a fraction");
    format!("{}{}", &line[..dot], &line[dot + 10..])
}

/// Panics with the first differences.
#[track_caller]
pub fn assert_same(
    what: &str,
    expected: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) {
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let different: Vec<_> =
        paths.into_iter().filter(|p| expected.get(*p) != found.get(*p)).collect();
    let shown: Vec<_> = different
        .iter()
        .take(20)
        .map(|p| format!("{p:?}\n  {:?}\n  {:?}", expected.get(*p), found.get(*p)))
        .collect();
    assert!(
        different.is_empty(),
        "{what} differ in {} paths:\n{}",
        different.len(),
        shown.join("\n")
    );
    eprintln!("{what}: {} equal", expected.len());
}
