//! Requests counted: what a warm cache answers costs the daemon nothing, the rest as few requests as the protocol lets.
//!
//! Counts have no noise, so they are asserted exactly where the kernel's answer is always the same. A request costs
//! some 13 µs on one core and up to 46 across two, which makes these numbers the speed of small operations.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use super::caches;
use crate::harness::{Client, Daemon, sh};

/// Requests by name that somebody waited for.
type Counts = BTreeMap<String, u64>;

fn counts(client: &mut Client) -> Counts {
    let fuse = client.status().fuse.expect("this daemon counts");
    let waited_for =
        fuse.requests.into_iter().filter(|r| r.name != "forget" && r.name != "release");
    waited_for.map(|request| (request.name, request.count)).collect()
}

/// What the kernel asks for while `work` runs.
fn asked(client: &mut Client, work: impl FnOnce()) -> Counts {
    let before = counts(client);
    work();
    let after = counts(client);
    let since = after.into_iter().map(|(name, count)| {
        let earlier = before.get(&name).copied().unwrap_or(0);
        (name, count - earlier)
    });
    since.filter(|(_, count)| *count > 0).collect()
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

const FILES: usize = 200;

fn path(at: &Path, n: usize) -> std::path::PathBuf {
    at.join(format!("dir/f{n}"))
}

fn each(at: &Path, work: impl Fn(&Path)) {
    (0..FILES).for_each(|n| work(&path(at, n)));
}

fn read(file: &Path) {
    assert_eq!(File::open(file).unwrap().read(&mut [0; 8192]).unwrap(), 4096);
}

/// As most programs do it: the length is asked for first, and after an earlier read the kernel no longer knows the
/// access time that comes with it.
fn read_knowing_the_length(file: &Path) {
    assert_eq!(fs::read(file).unwrap().len(), 4096);
}

fn create(file: &Path) {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(file)
        .unwrap()
        .write_all(&[1; 4096])
        .unwrap();
}

/// An operation on each of the files, and the most requests that each may cost. `warm`: done before it is counted.
///
/// A file open for both may be mapped and change without a request, so its attributes hold for no time: the open's own
/// check of permissions asks for them.
struct Row {
    name: &'static str,
    warm: bool,
    most: f64,
    run: fn(&Path),
}

const ROWS: &[Row] = &[
    Row {
        name: "lstat",
        warm: true,
        most: 0.0,
        run: |at| each(at, |f| _ = fs::symlink_metadata(f).unwrap()),
    },
    Row {
        name: "absent name",
        warm: true,
        most: 0.0,
        run: |at| each(at, |f| assert!(f.with_extension("absent").symlink_metadata().is_err())),
    },
    Row {
        name: "readdir",
        warm: true,
        most: 0.0,
        run: |at| assert_eq!(fs::read_dir(at.join("dir")).unwrap().count(), FILES),
    },
    Row { name: "open, read, close", warm: true, most: 1.0, run: |at| each(at, read) },
    Row {
        name: "open, fstat, read, close",
        warm: true,
        most: 2.0,
        run: |at| each(at, read_knowing_the_length),
    },
    Row {
        name: "open for writing, write, close",
        warm: true,
        most: 1.0,
        run: |at| {
            each(at, |f| {
                OpenOptions::new().write(true).open(f).unwrap().write_all(&[2; 4096]).unwrap()
            })
        },
    },
    Row {
        name: "open for both, read, close",
        warm: true,
        most: 2.0,
        run: |at| {
            each(at, |f| {
                let mut file = OpenOptions::new().read(true).write(true).open(f).unwrap();
                assert_eq!(file.read(&mut [0; 64]).unwrap(), 64);
            })
        },
    },
    Row {
        name: "append 100 B to an open file",
        warm: true,
        most: 0.02,
        run: |at| {
            let mut file =
                OpenOptions::new().append(true).create(true).open(at.join("log")).unwrap();
            (0..FILES).for_each(|_| file.write_all(&[b'x'; 100]).unwrap());
        },
    },
    Row {
        name: "unlink",
        warm: false,
        most: 2.0,
        run: |at| each(at, |f| fs::remove_file(f).unwrap()),
    },
    Row { name: "create 4 KiB", warm: false, most: 4.0, run: |at| each(at, create) },
    Row {
        name: "rename there and back",
        warm: true,
        most: 6.0,
        run: |at| {
            each(at, |f| {
                let other = f.with_extension("other");
                fs::rename(f, &other).unwrap();
                fs::rename(&other, f).unwrap();
            })
        },
    },
    Row {
        name: "mkdir, rmdir",
        warm: false,
        most: 5.0,
        run: |at| {
            each(at, |f| {
                fs::create_dir(f.with_extension("d")).unwrap();
                fs::remove_dir(f.with_extension("d")).unwrap();
            })
        },
    },
    Row { name: "chmod", warm: true, most: 1.0, run: |at| each(at, sh_chmod) },
];

fn sh_chmod(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
}

#[test]
fn operations_cost_no_more_requests_than_they_must() {
    let _caches = caches();
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("r", "").unwrap();
    let at = d.active("r");
    fs::create_dir(at.join("dir")).unwrap();
    each(&at, create);
    let mut over = Vec::new();
    for row in ROWS {
        if row.warm {
            // Twice: the first listing of a directory changes its access time, which the second asks for.
            (row.run)(&at);
            (row.run)(&at);
        }
        let seen = asked(&mut client, || (row.run)(&at));
        let each = total(&seen) as f64 / FILES as f64;
        eprintln!("{:<32} {each:>6.3} requests each (at most {}): {seen:?}", row.name, row.most);
        if each > row.most {
            over.push(row.name);
        }
    }
    assert!(over.is_empty(), "these cost more: {over:?}");
    d.finish();
}

/// Names come with their attributes: a walk asks once for some dozens of them.
#[test]
fn a_first_walk_asks_for_whole_directories() {
    let _caches = caches();
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("r", "").unwrap();
    sh(&format!(
        "cd '{}' && mkdir d{{0..9}} && for d in d*; do touch $d/f{{0..99}}; done",
        d.active("r").display()
    ))
    .ok();
    client.commit("r", "base").unwrap();
    client.prepare("walked", "base").unwrap();
    let walk = format!("find '{}' -size +1 | wc -l", d.active("walked").display());
    let cold = asked(&mut client, || drop(sh(&walk).ok()));
    eprintln!("1010 names, cold: {cold:?}");
    assert!(total(&cold) < 200, "a request for five names at least: {cold:?}");
    sh(&walk).ok();
    let mut warm = asked(&mut client, || drop(sh(&walk).ok()));
    assert_eq!(warm.remove("statfs"), Some(1), "find itself asks what filesystem it is on");
    assert_eq!(total(&warm), 0, "warm: {warm:?}");
    d.finish();
}

#[test]
fn git_status_asks_nothing_that_it_has_asked_before() {
    let _caches = caches();
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("tree", "").unwrap();
    let outside = d.root().join("git");
    let tree = d.active("tree");
    let git = |arguments: &str| {
        let (outside, tree) = (outside.display(), tree.display());
        sh(&format!(
            "git -c user.name=x -c user.email=x@x --no-optional-locks --git-dir='{outside}' --work-tree='{tree}' {arguments}"
        ))
        .ok()
    };
    sh(&format!("cd '{}' && mkdir -p {{a..e}}/{{a..e}} && for d in */*; do for n in {{0..9}}; do echo $d$n > $d/$n; done; done", tree.display())).ok();
    git("init -q");
    git("add .");
    git("commit -q -m all");
    // Past the second of the last change, for git looks into files that it can't tell from changed ones.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    sh(&format!("git --git-dir='{}' --work-tree='{}' status", outside.display(), tree.display()))
        .ok();
    assert_eq!(git("status --porcelain"), "");
    let asked = asked(&mut client, || assert_eq!(git("status --porcelain"), ""));
    assert_eq!(total(&asked), 0, "{asked:?}");
    d.finish();
}

/// A repository inside the snapshot: git reads its own files too, each of which is an open.
#[test]
fn git_status_in_a_repository_asks_to_open_its_files_only() {
    let _caches = caches();
    let d = Daemon::start();
    let mut client = Client::connect(&d.socket());
    client.prepare("repo", "").unwrap();
    let at = d.active("repo").display().to_string();
    sh(&format!("cd '{at}' && git init -q && mkdir a b && echo 1 > a/1 && echo 2 > b/2 && git add . && git -c user.name=x -c user.email=x@x commit -q -m x && sleep 1.1 && git status && git status")).ok();
    let status =
        || drop(sh(&format!("cd '{at}' && git --no-optional-locks status --porcelain")).ok());
    status();
    let mut asked = asked(&mut client, status);
    eprintln!("{asked:?}");
    // git asks for the length of each file that it reads, and each read has changed an access time.
    let opens = asked.remove("open").unwrap_or(0);
    assert!(
        asked.remove("getattr").unwrap_or(0) <= opens,
        "more than one for each of {opens} opens"
    );
    assert_eq!(total(&asked), 0, "besides: {asked:?}");
    d.finish();
}

#[test]
fn status_fuse_tells_what_the_kernel_asked() {
    let _caches = caches();
    let d = Daemon::start();
    d.cli(&["prepare", "x"]).ok();
    fs::create_dir(d.active("x").join("d")).unwrap();
    let json = d.json(&["status", "--fuse"]);
    assert_eq!(json["requests"]["mkdir"], 1, "{json}");
    assert!(json["synchronous"].as_u64().unwrap() > 1, "{json}");
    assert!(d.cli(&["status", "--fuse"]).ok().contains("mkdir"));
    d.finish();
}
