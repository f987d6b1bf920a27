//! The power goes at each flush of a disk in turn.
//!
//! Pool and store lie on one disk, and dm-log-writes keeps every write to it in the order in which flushes made them
//! durable. A run of calls is logged; then the disk is brought back to what it held at a flush, a daemon is started on that,
//! and its snapshots are compared with what was known at that moment: all that was acknowledged, nothing that nobody
//! asked for. A kill of a guest loses what the guest's kernel had not sent; this loses all that no flush had asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::book::{Book, Keys};
use super::points::script;
use super::settle;
use crate::harness::{Client, Daemon, Options, run, work_dir};

/// How many flushes are looked at, evenly spread; `THINFS_TEST_REPLAYS` changes it, and `all` takes each of them.
const REPLAYS: usize = 8;

const SECTOR: usize = 512;
/// Sectors of the disk, and where on it store, metadata and data begin.
const SIZE: u64 = 512 << 11;
const METADATA: u64 = 128 << 11;
const DATA: u64 = 144 << 11;

/// The mark after a clean stop.
const END: &str = "end";

/// Flags of an entry of the log.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

#[test]
#[ignore = "starts many daemons in the guest: run by `scripts/test power`"]
fn in_guest_a_power_cut_at_any_flush_loses_nothing_acknowledged_and_leaks_nothing() {
    let dir = tempfile::Builder::new().prefix("replay-").tempdir_in(work_dir()).unwrap();
    let (log, states) = record(dir.path());
    let cuts = cuts(&log);
    let wanted = match std::env::var("THINFS_TEST_REPLAYS").as_deref() {
        Ok("all") => cuts.len(),
        Ok(count) => count.parse().expect("a number, or all"),
        Err(_) => REPLAYS,
    };
    eprintln!("{} writes, {} flushes, {} states", log.len(), cuts.len(), states.len());
    assert!(cuts.len() > 100 && states.len() > 20, "too little happened");
    let step = cuts.len().div_ceil(wanted).max(1);
    // Not always the same ones.
    for (at, state) in cuts.iter().skip(fastrand::usize(0..step)).step_by(step) {
        eprintln!("the power goes at {at}, with state {state}");
        replay(dir.path(), &log[..=*at], &states[*state], *at);
    }
}

/// Has a daemon work on a disk whose writes are logged.
fn record(dir: &Path) -> (Vec<Entry>, Vec<Keys>) {
    let (disk, log) = (Loop::new(&dir.join("disk"), SIZE), Loop::new(&dir.join("log"), 8 * SIZE));
    let logged = format!("replay-log-{}", std::process::id());
    let table = format!("0 {SIZE} log-writes {} {}", disk.device, log.device);
    let layer = Mapped::new(&logged, &table);
    let slices = Slices::on(&layer.path());
    run("mkfs.ext4", ["-q", "-J", "size=4", &slices.root.path()]).ok();
    let mount = Mount::new(&slices.root, &dir.join("mnt"));
    let (mark, end) = (logged.clone(), logged.clone());
    let note =
        |log: &str, text: &str| drop(run("dmsetup", ["message", log, "0", "mark", text]).ok());
    let tell = move |state: usize| note(&mark, &state.to_string());
    let book = Book::with_history(tell);
    let mut d = Daemon::start_at(mount.0.join("root"), slices.options());
    let mut client = Client::connect(&d.socket());
    for round in 0..2 {
        script(&book, &mut client, d.mount(), round).expect("nothing is in its way");
    }
    drop(client);
    assert_eq!(d.stop(), Some(0));
    note(&end, END);
    // Removes the root, which is no cut's concern.
    d.finish();
    drop((mount, slices));
    drop(layer);
    (entries(&log.file), book.into_states())
}

/// Brings a disk to what is durable after these writes, starts a daemon on it and compares.
fn replay(dir: &Path, log: &[Entry], state: &Keys, at: usize) {
    let file = dir.join("replayed");
    write_image(&file, log);
    let disk = Loop::new(&file, SIZE);
    let slices = Slices::on(&disk.device);
    // The superblock is written with the first start.
    if std::fs::read(&file).unwrap()[(METADATA as usize) * SECTOR..][..4096].iter().any(|&b| b != 0)
    {
        run("thin_check", [slices.metadata.path()]).ok();
    }
    let mount = Mount::new(&slices.root, &dir.join("mnt"));
    let d = Daemon::start_at(mount.0.join("root"), slices.options());
    let mut client = Client::connect(&d.socket());
    settle(&d, &mut client, &Book::of(state.clone()), at);
    let reply = client.gc();
    assert_eq!((reply.waiting, reply.failed), (0, vec![]), "the power went at {at}");
    assert_eq!(client.check(), [""; 0], "the power went at {at}");
    // It works.
    script(&Book::default(), &mut client, d.mount(), 9).expect("it works");
    drop(client);
    d.finish();
    run("thin_check", [slices.metadata.path()]).ok();
    drop(mount);
    run("e2fsck", ["-fn", &slices.root.path()]).ok();
    drop((slices, disk));
    std::fs::remove_file(&file).unwrap();
}

/// One write, discard or mark.
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Of a write.
    data: Vec<u8>,
    /// Of a mark.
    text: String,
}

/// Reads a log: a superblock in the first sector; then, for each entry, a sector that describes it and its data.
fn entries(path: &Path) -> Vec<Entry> {
    let file = File::open(path).unwrap();
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at * SECTOR as u64).unwrap();
        bytes
    };
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let superblock = read(0, SECTOR);
    assert_eq!(number(&superblock, 0), 0x6a_7366_7773_6872, "no log");
    assert_eq!(superblock[24..28], (SECTOR as u32).to_le_bytes(), "sectors of another size");
    let mut at = 1;
    let mut entries = Vec::new();
    for _ in 0..number(&superblock, 16) {
        let head = read(at, SECTOR);
        let (sector, sectors, flags) = (number(&head, 0), number(&head, 8), number(&head, 16));
        let text = match flags & MARK {
            0 => String::new(),
            _ => String::from_utf8_lossy(&head[32..][..number(&head, 24) as usize]).into_owned(),
        };
        let has_data = flags & (DISCARD | MARK) == 0;
        let data = if has_data { read(at + 1, sectors as usize * SECTOR) } else { Vec::new() };
        at += 1 + (data.len() / SECTOR) as u64;
        entries.push(Entry { sector, sectors, flags, data, text });
    }
    entries
}

/// Where the power may go: at a flush, or a write that is one. With the state that the book had then.
fn cuts(log: &[Entry]) -> Vec<(usize, usize)> {
    let mut state = None;
    let mut cuts = Vec::new();
    for (at, entry) in log.iter().enumerate() {
        if entry.flags & MARK != 0 && entry.text.starts_with(END) {
            break;
        } else if entry.flags & MARK != 0 {
            state = entry.text.trim_end_matches('\0').parse().ok().or(state);
        } else if let Some(state) = state
            && entry.flags & (FLUSH | FUA) != 0
        {
            cuts.push((at, state));
        }
    }
    cuts
}

fn write_image(path: &Path, log: &[Entry]) {
    let mut sectors: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry.flags & MARK == 0) {
        let range = entry.sector..entry.sector + entry.sectors;
        if entry.flags & DISCARD != 0 {
            sectors.retain(|sector, _| !range.contains(sector));
        } else {
            sectors.extend(range.zip(entry.data.chunks(SECTOR)));
        }
    }
    let file = File::create(path).unwrap();
    file.set_len(SIZE * SECTOR as u64).unwrap();
    // In runs, for each call costs the guest some 20 us.
    let mut run: (u64, Vec<u8>) = (0, Vec::new());
    let write =
        |(start, bytes): &(u64, Vec<u8>)| file.write_all_at(bytes, start * SECTOR as u64).unwrap();
    for (sector, bytes) in sectors {
        if run.0 + (run.1.len() / SECTOR) as u64 != sector {
            write(&run);
            run = (sector, Vec::new());
        }
        run.1.extend_from_slice(bytes);
    }
    write(&run);
}

/// A file on a loop device.
struct Loop {
    file: PathBuf,
    device: String,
}

impl Loop {
    fn new(file: &Path, sectors: u64) -> Self {
        let made = File::options().create(true).append(true).open(file).unwrap();
        made.set_len(sectors * SECTOR as u64).unwrap();
        let device = run("losetup", ["-f", "--show", file.to_str().unwrap()]).ok();
        Self { file: file.to_owned(), device: device.trim().to_owned() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", ["-d", &self.device]);
    }
}

/// A device-mapper device.
struct Mapped(String);

impl Mapped {
    fn new(name: &str, table: &str) -> Self {
        run("dmsetup", ["create", name, "--table", table]).ok();
        Self(name.to_owned())
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.0)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        run("dmsetup", ["remove", "--retry", &self.0]);
    }
}

/// The parts of a disk: a filesystem for the root, metadata and data of the pool. Named as they were before.
struct Slices {
    root: Mapped,
    metadata: Mapped,
    data: Mapped,
}

impl Slices {
    fn on(device: &str) -> Self {
        let slice = |name: &str, start: u64, end: u64| {
            let table = format!("0 {} linear {device} {start}", end - start);
            Mapped::new(&format!("replay-{name}-{}", std::process::id()), &table)
        };
        Self {
            root: slice("root", 0, METADATA),
            metadata: slice("metadata", METADATA, DATA),
            data: slice("data", DATA, SIZE),
        }
    }

    fn options(&self) -> Options {
        let (metadata, data) = (self.metadata.path(), self.data.path());
        let flags = ["--metadata-device", &metadata, "--data-device", &data];
        Options { flags: flags.map(str::to_owned).to_vec(), ..Options::default() }
    }
}

struct Mount(PathBuf);

impl Mount {
    fn new(device: &Mapped, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", [device.path().as_str(), at.to_str().unwrap()]).ok();
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", [&self.0]);
    }
}
