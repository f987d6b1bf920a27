//! Sizes and space, as an operator meets them.

use std::fs;

use crate::harness::{Daemon, Options, eventually, is_thin, run, work_dir};

/// Bytes that `df` shows for a directory.
fn total(path: &std::path::Path) -> u64 {
    let fs = rustix::fs::statvfs(path).unwrap();
    fs.f_blocks * fs.f_frsize
}

#[test]
fn a_snapshot_grows_while_it_is_used_and_where_nothing_has_a_size_that_is_said() {
    let d = Daemon::start();
    d.cli(&["prepare", "web", "--size", "64M"]).ok();
    let file = fs::File::create(d.active("web").join("open")).unwrap();
    let resized = d.cli(&["resize", "web", "256M"]);
    if !is_thin() {
        assert_eq!(resized.code, Some(5), "{resized:?}");
        assert!(resized.stderr.contains("has no size"), "{resized:?}");
    } else {
        resized.ok();
        assert!(total(&d.active("web")) > 200 << 20, "{}", total(&d.active("web")));
        fs::write(d.active("web").join("big"), vec![7; 100 << 20]).unwrap();
        let refused = d.cli(&["resize", "web", "64M"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("cannot shrink"), "{refused:?}");
        drop(file);
        d.cli(&["commit", "web", "base"]).ok();
        assert_eq!(d.cli(&["resize", "base", "1G"]).code, Some(5), "committed");
        d.cli(&["prepare", "child", "--parent", "base", "--size", "512M"]).ok();
        assert!(total(&d.active("child")) > 450 << 20, "a child may be larger");
        assert_eq!(fs::read(d.active("child").join("big")).unwrap().len(), 100 << 20);
    }
    d.finish();
}

#[test]
fn usage_adds_up_and_trim_gives_back() {
    let d = Daemon::start();
    d.cli(&["prepare", "a"]).ok();
    fs::write(d.active("a").join("f"), vec![7; 20 << 20]).unwrap();
    d.cli(&["commit", "a", "base"]).ok();
    d.cli(&["prepare", "b", "--parent", "base"]).ok();
    fs::write(d.active("b").join("g"), vec![8; 8 << 20]).unwrap();
    // What is in the page cache only has no blocks yet.
    fs::File::open(d.active("b").join("g")).unwrap().sync_all().unwrap();
    let usages = d.json_lines(&["usage"]);
    let of = |key: &str| usages.iter().find(|u| u["key"] == key).unwrap().clone();
    if is_thin() {
        assert!(of("b")["exclusive"].as_u64().unwrap() >= 8 << 20, "{usages:?}");
        assert!(of("b")["shared"].as_u64().unwrap() >= 20 << 20, "{usages:?}");
        assert!(of("base")["shared"].as_u64().unwrap() >= 20 << 20, "{usages:?}");
        assert!(d.cli(&["usage"]).ok().contains("others"));
        fs::remove_file(d.active("b").join("g")).unwrap();
        // The kernel tells of the last close a moment after the fact.
        let mut back = 0;
        eventually("a trim gives the removed file's blocks back", || {
            back += d.json(&["trim", "b"])["bytes"].as_u64().unwrap();
            back >= 7 << 20
        });
        let capacity = &d.json(&["status"])["capacity"];
        assert!(capacity["most"].as_u64() >= capacity["total"].as_u64(), "{capacity}");
    } else {
        assert!(of("b")["exclusive"].is_null(), "{usages:?}");
        assert_eq!(d.json(&["trim", "b"])["bytes"], 0);
    }
    d.finish();
}

/// A filesystem of 256 MiB for the native backend, which has no pool but the filesystem that it lies on.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("small-").tempdir_in(work_dir()).unwrap().keep();
        let (image, mount) = (dir.join("image"), dir.join("mnt"));
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]).ok();
        run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount.as_os_str()]).ok();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", [self.0.join("mnt")]);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A pool (or a filesystem) of 256 MiB that may not grow: whoever writes gets ENOSPC, whoever prepares is told why, and once something is
/// removed both go on, with the daemon that they had.
#[test]
fn a_full_pool_refuses_what_needs_room_and_nothing_else() {
    let disk = (!is_thin()).then(SmallDisk::new);
    let d = match &disk {
        Some(disk) => Daemon::start_at(disk.0.join("mnt/root"), Options::default()),
        None => {
            let flags = ["--pool-size", "256M", "--volume-size", "1G"].map(str::to_owned).into();
            Daemon::start_with(Options { flags, ..Options::default() })
        }
    };
    d.cli(&["prepare", "small"]).ok();
    fs::write(d.active("small").join("kept"), b"kept").unwrap();
    d.cli(&["prepare", "big"]).ok();
    let filled = (0..400).find_map(|n| {
        let path = d.active("big").join(n.to_string());
        let written = fs::write(&path, vec![7; 1 << 20]);
        written.and_then(|()| fs::File::open(&path)?.sync_all()).err()
    });
    let errno = filled.expect("256 MiB don't hold 400").raw_os_error();
    assert!(matches!(errno, Some(libc::ENOSPC)), "{errno:?}");
    let status = d.cli(&["status"]).ok();
    assert_eq!(status.contains("trouble:"), is_thin(), "{status}");
    let refused = d.cli(&["prepare", "more"]);
    if refused.code != Some(0) {
        assert_eq!(refused.code, Some(7), "{refused:?}");
        assert!(refused.stderr.contains("remove snapshots"), "{refused:?}");
    }
    assert_eq!(fs::read(d.active("small").join("kept")).unwrap(), b"kept");
    assert!(d.cli(&["ls"]).ok().contains("big"));
    d.cli(&["rm", "big"]).ok();
    d.cli(&["gc"]).ok();
    eventually("the pool has room again", || !d.cli(&["status"]).ok().contains("trouble:"));
    d.cli(&["prepare", "again"]).ok();
    fs::write(d.active("again").join("f"), vec![7; 64 << 20]).unwrap();
    assert_eq!(d.log().contains("the pool has room again"), is_thin(), "{}", d.log());
    // The keeper tells of what it saw a moment after it.
    let told = || {
        let events = d.json_lines(&["events", "--since", "0", "--no-wait"]);
        let topics = events.iter().map(|event| event["topic"].as_str().unwrap().to_owned());
        topics.filter(|topic| topic.starts_with("/pool/")).collect::<Vec<_>>()
    };
    eventually("the recovery is told", || {
        told().last().is_some_and(|topic| topic == "/pool/recover") == is_thin()
    });
    let told = told();
    assert_eq!(told.contains(&"/pool/full".to_owned()), is_thin(), "{told:?}");
    assert_eq!(told.contains(&"/pool/low".to_owned()), is_thin(), "{told:?}");
    d.finish();
}
