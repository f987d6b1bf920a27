//! What `bench fuse` times: the rows of the table, and the work behind each.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fuse::Side;

/// One row: what is timed, and what is done before each timing.
pub struct Row {
    pub name: &'static str,
    pub prepare: fn(&Side),
    pub run: Run,
    /// Where the ratio should get (issue 5), and what keeps it above that where it is.
    pub target: Option<f64>,
    pub reason: &'static str,
}

/// How a row's number comes about.
pub enum Run {
    /// The time that this takes.
    Timed(fn(&Path)),
    /// The seconds that this answers.
    Measured(fn(&Path) -> f64),
}

const MIB: usize = 1 << 20;
const BIG: usize = 256;

const REQUEST: &str = "an open is a request, and its release another";
const CREATE: &str = "a look-up, a create and a release, with the owner changed to the caller's";
const CHANGE: &str = "one request each, and the kernel asks for the directory's attributes again";
const DIRECT: &str = "the kernel's passthrough takes the inode's lock for each write";
const FIRST: &str = "each name is looked up on both sides; the second side answers in batches";

const fn row(
    name: &'static str,
    prepare: fn(&Side),
    run: Run,
    target: Option<f64>,
    reason: &'static str,
) -> Row {
    Row { name, prepare, run, target, reason }
}

use Run::{Measured, Timed};

pub const ROWS: &[Row] = &[
    row("sequential write 256 MiB, fsync", |s| remove_big(&s.at), Timed(write_big), Some(1.15), ""),
    row("sequential read 256 MiB, cached", |s| need_big(&s.at), Timed(read_big), Some(1.05), ""),
    row(
        "random read 4 KiB × 20,000, cached",
        |s| need_big(&s.at),
        Timed(random_read),
        Some(1.05),
        "",
    ),
    row("random write 4 KiB × 20,000", |s| need_big(&s.at), Timed(random_write), Some(1.15), ""),
    row("mmap read 256 MiB, cached", |s| need_big(&s.at), Timed(map_big), Some(1.05), ""),
    row(
        "4 × O_DIRECT writers, one file",
        |s| need_big(&s.at),
        Timed(direct_writers),
        Some(1.25),
        DIRECT,
    ),
    row("append 100 B × 5,000", |s| remove_log(&s.at), Timed(append), Some(1.2), REQUEST),
    row("lstat warm × 20,000", |s| need_small(&s.at), Timed(stat_small), Some(1.1), ""),
    row(
        "stat of an absent name × 20,000",
        |s| need_small(&s.at),
        Timed(stat_absent),
        Some(1.1),
        "",
    ),
    row("readdir warm × 50", |s| need_small(&s.at), Timed(list_small), Some(1.1), ""),
    row("open+read+close × 5,000", |s| need_small(&s.at), Timed(read_small), Some(1.05), REQUEST),
    row(
        "rw open+write+close × 5,000",
        |s| need_small(&s.at),
        Timed(rewrite_small),
        Some(2.0),
        REQUEST,
    ),
    row("create 4 KiB × 2,000", |s| remove_small(&s.at), Timed(create_small), Some(2.0), CREATE),
    row("rename × 4,000", |s| need_small(&s.at), Timed(rename_small), None, CHANGE),
    row("mkdir × 2,000", |s| remove_dirs(&s.at), Timed(make_dirs), None, CHANGE),
    row("rmdir × 2,000", |s| fresh_dirs(&s.at), Timed(remove_dirs), None, CHANGE),
    row("unlink × 2,000", |s| fresh_small(&s.at), Timed(remove_small), None, CHANGE),
    row("exec of a static binary × 50", |s| need_program(&s.at), Timed(exec), Some(1.03), ""),
    row(
        "exec of a dynamic binary × 50",
        |s| need_program(&s.at),
        Timed(exec_dynamic),
        Some(1.03),
        "",
    ),
    row("untar 3,000 files", |s| need_tar(&s.at), Timed(untar), Some(2.5), CREATE),
    row("find, warm", |s| need_tree(&s.at), Timed(find), Some(1.1), ""),
    row("du, warm", |s| need_tree(&s.at), Timed(du), Some(1.1), ""),
    row("git status, warm", |s| need_repository(&s.at), Timed(git_status), Some(1.1), ""),
    row("first walk, backing warm", names_forgotten, Timed(find), Some(4.0), FIRST),
    row("first walk, disk cold", all_forgotten, Timed(find), Some(1.05), ""),
    row("tar c to /dev/null", |s| need_tree(&s.at), Timed(tar), Some(1.5), REQUEST),
    row("grep -r", |s| need_tree(&s.at), Timed(grep), Some(1.5), REQUEST),
    row("cp -a of the tree", |s| need_tree(&s.at), Timed(copy), Some(3.5), CREATE),
    row("rm -rf of the tree", |s| fresh_tree(&s.at), Timed(remove_tree), Some(1.3), CHANGE),
    row("p99 of open+close", |s| need_small(&s.at), Measured(p99), None, REQUEST),
    row(
        "p99 of open+close, 4 fsync writers",
        |s| need_small(&s.at),
        Measured(p99_in_storm),
        None,
        REQUEST,
    ),
];

fn command(line: &str, at: &Path) {
    let status = Command::new("bash")
        .args(["-c", line])
        .current_dir(at)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{line}");
}

fn remove_big(at: &Path) {
    let _ = fs::remove_file(at.join("big"));
}

fn write_big(at: &Path) {
    let mut file = File::create(at.join("big")).unwrap();
    let block = vec![7u8; MIB];
    for _ in 0..BIG {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn need_big(at: &Path) {
    if !at.join("big").exists() {
        write_big(at);
    }
    read_big(at);
}

fn read_big(at: &Path) {
    let mut file = File::open(at.join("big")).unwrap();
    let mut block = vec![0u8; MIB];
    while file.read(&mut block).unwrap() > 0 {}
}

/// The same pseudo-random offsets on both sides.
fn offsets() -> impl Iterator<Item = u64> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..20_000).map(move |_| random.u64(0..(BIG * MIB / 4096) as u64) * 4096)
}

fn random_read(at: &Path) {
    let file = File::open(at.join("big")).unwrap();
    let mut block = [0u8; 4096];
    offsets().for_each(|offset| file.read_exact_at(&mut block, offset).unwrap());
}

fn random_write(at: &Path) {
    let file = OpenOptions::new().write(true).open(at.join("big")).unwrap();
    offsets().for_each(|offset| file.write_all_at(&[9u8; 4096], offset).unwrap());
}

fn remove_log(at: &Path) {
    let _ = fs::remove_file(at.join("log"));
}

fn append(at: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(at.join("log")).unwrap();
    (0..5_000).for_each(|_| file.write_all(&[b'x'; 100]).unwrap());
}

/// By one page in a mapping after the other.
fn map_big(at: &Path) {
    let script = "import mmap; f=open('big','rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); print(sum(m[i] for i in range(0,len(m),4096)))";
    command(&format!("python3 -c \"{script}\""), at);
}

/// Aligned as O_DIRECT wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn direct_writers(at: &Path) {
    let file =
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(at.join("big")).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let file = &file;
            scope.spawn(move || {
                let page = Box::new(Page([writer as u8; 4096]));
                for n in 0..1_000 {
                    file.write_all_at(&page.0, (n * 4 + writer) * 4096).unwrap();
                }
            });
        }
    });
}

const SMALL: usize = 2_000;

fn small(at: &Path, n: usize) -> PathBuf {
    at.join(format!("small/f{n}"))
}

fn create_small(at: &Path) {
    fs::create_dir_all(at.join("small")).unwrap();
    (0..SMALL).for_each(|n| {
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .custom_flags(0)
            .open(small(at, n))
            .unwrap()
            .write_all(&[1u8; 4096])
            .unwrap()
    });
}

fn need_small(at: &Path) {
    if !small(at, 0).exists() {
        fresh_small(at);
    }
    (0..SMALL).for_each(|n| _ = fs::symlink_metadata(small(at, n)).unwrap());
}

fn fresh_small(at: &Path) {
    remove_small(at);
    create_small(at);
}

fn remove_small(at: &Path) {
    for n in 0..SMALL {
        let _ = fs::remove_file(small(at, n));
    }
}

fn stat_small(at: &Path) {
    for round in 0..10 {
        (0..SMALL).for_each(|n| {
            _ = fs::symlink_metadata(small(at, n)).unwrap_or_else(|e| panic!("round {round}: {e}"));
        });
    }
}

fn stat_absent(at: &Path) {
    for _ in 0..10 {
        (0..SMALL).for_each(|n| {
            assert!(fs::symlink_metadata(at.join(format!("small/absent{n}"))).is_err())
        });
    }
}

fn read_small(at: &Path) {
    let mut block = [0u8; 4096];
    for n in 0..5_000 {
        File::open(small(at, n % SMALL)).unwrap().read_exact(&mut block).unwrap();
    }
}

fn rename_small(at: &Path) {
    for n in 0..SMALL {
        fs::rename(small(at, n), at.join("small/other")).unwrap();
        fs::rename(at.join("small/other"), small(at, n)).unwrap();
    }
}

fn need_program(at: &Path) {
    if !at.join("busybox").exists() {
        fs::copy("/bin/busybox", at.join("busybox")).unwrap();
    }
}

fn exec(at: &Path) {
    for _ in 0..50 {
        assert!(Command::new(at.join("busybox")).arg("true").status().unwrap().success());
    }
}

/// A source tree of this machine: 3,000 files of a few KiB.
fn need_tar(at: &Path) {
    let tar = at.join("tree.tar");
    if !tar.exists() {
        let files = "find /usr/include /usr/share/perl /usr/lib/python3 -type f -size -64k 2>/dev/null | head -n 3000";
        command(&format!("{files} | tar -cf tree.tar -T - 2>/dev/null"), at);
    }
    let _ = fs::remove_dir_all(at.join("tree"));
    fs::create_dir(at.join("tree")).unwrap();
}

fn untar(at: &Path) {
    command("tar -C tree -xf tree.tar", at);
}

fn need_tree(at: &Path) {
    let _ = fs::remove_dir_all(at.join("copy"));
    if !at.join("tree/usr").exists() {
        fresh_tree(at);
    }
    find(at);
}

fn fresh_tree(at: &Path) {
    need_tar(at);
    untar(at);
}

fn find(at: &Path) {
    command("find tree -newer tree.tar -size +1000 >/dev/null", at);
}

fn tar(at: &Path) {
    command("tar -cf - tree | cat >/dev/null", at);
}

fn grep(at: &Path) {
    command("grep -r 'no such text anywhere' tree || true", at);
}

fn copy(at: &Path) {
    command("cp -a tree copy", at);
}

fn remove_tree(at: &Path) {
    command("rm -rf tree", at);
}

fn list_small(at: &Path) {
    (0..50).for_each(|_| assert_eq!(fs::read_dir(at.join("small")).unwrap().count(), SMALL));
}

fn rewrite_small(at: &Path) {
    for n in 0..5_000 {
        let mut file =
            OpenOptions::new().read(true).write(true).open(small(at, n % SMALL)).unwrap();
        file.write_all(&[3; 512]).unwrap();
    }
}

fn made(at: &Path, n: usize) -> PathBuf {
    at.join(format!("made-{n}"))
}

fn make_dirs(at: &Path) {
    (0..SMALL).for_each(|n| fs::create_dir(made(at, n)).unwrap());
}

fn remove_dirs(at: &Path) {
    for n in 0..SMALL {
        let _ = fs::remove_dir(made(at, n));
    }
}

fn fresh_dirs(at: &Path) {
    remove_dirs(at);
    make_dirs(at);
}

/// With its libraries beside it, so that the loader's opens count too.
fn exec_dynamic(at: &Path) {
    if !at.join("ls").exists() {
        command(
            "cp -L /bin/ls . && mkdir -p lib && ldd /bin/ls | grep -o '/[^ ]*' | xargs -I@ cp -L @ lib/",
            at,
        );
    }
    for _ in 0..50 {
        let mut ls = Command::new(at.join("ls"));
        ls.env("LD_LIBRARY_PATH", at.join("lib")).arg("/proc/self/fd").stdout(Stdio::null());
        assert!(ls.status().unwrap().success());
    }
}

fn du(at: &Path) {
    command("du -s tree", at);
}

fn need_repository(at: &Path) {
    need_tree(at);
    if !at.join("tree/.git").exists() {
        command(
            "cd tree && git init -q && git add -A && git -c user.name=x -c user.email=x@x commit -q -m x && sleep 1.1 && git status",
            at,
        );
    }
    git_status(at);
}

fn git_status(at: &Path) {
    command("git -C tree --no-optional-locks status --porcelain", at);
}

/// The names are in the backing filesystem's cache, but not in ours.
fn names_forgotten(side: &Side) {
    need_tree(&side.at);
    forget(2);
    find(&side.backing);
}

fn all_forgotten(side: &Side) {
    need_tree(&side.at);
    forget(3);
}

fn forget(what: u8) {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", what.to_string()).unwrap();
}

fn p99(at: &Path) -> f64 {
    let mut times: Vec<Duration> = (0..4_000)
        .map(|n| {
            let started = Instant::now();
            drop(OpenOptions::new().append(true).open(small(at, n % SMALL)).unwrap());
            started.elapsed()
        })
        .collect();
    super::report::percentile(&mut times, 99) / 1e6
}

fn p99_in_storm(at: &Path) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (stop, at) = (&stop, at.join(format!("synced-{writer}")));
            scope.spawn(move || {
                let mut file = File::create(at).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    file.write_all(&[1; 4096]).unwrap();
                    file.sync_all().unwrap();
                }
            });
        }
        let measured = p99(at);
        stop.store(true, Ordering::Relaxed);
        measured
    })
}
