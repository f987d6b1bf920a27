//! Disks that fail below the pool: what was acknowledged is there once they are well again, nothing hangs, and everybody is
//! told.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::SeekFrom;

use crate::harness::{Daemon, Options, errno, eventually, run, work_dir};

/// A block device of a pool that can be made to fail: a loop device below a device-mapper one.
struct Disk {
    name: String,
    file: PathBuf,
    device: String,
    sectors: u64,
}

impl Disk {
    fn new(name: &str, mib: u64) -> Self {
        let name = format!("faulty-{name}-{}", std::process::id());
        let file = work_dir().join(&name);
        File::create(&file).unwrap().set_len(mib << 20).unwrap();
        let device =
            run("losetup", ["-f", "--show", file.to_str().unwrap()]).ok().trim().to_owned();
        let disk = Self { name, file, device, sectors: mib << 11 };
        let table = disk.sound();
        run("dmsetup", ["create", &disk.name, "--table", &table]).ok();
        disk
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn sound(&self) -> String {
        format!("0 {} linear {} 0", self.sectors, self.device)
    }

    /// Every write fails from now on; what was written can be read.
    fn fail_writes(&self) {
        self.become_(&format!(
            "0 {} flakey {} 0 0 1000000 1 error_writes",
            self.sectors, self.device
        ));
    }

    /// Everything fails.
    fn fail(&self) {
        self.become_(&format!("0 {} error", self.sectors));
    }

    /// The places that hold such blocks fail from now on, all others go on. Sectors and their number, for each.
    fn fail_where(&self, is_bad: impl Fn(&[u8]) -> bool) -> usize {
        let bad = self.blocks(is_bad);
        let (mut table, mut at) = (String::new(), 0);
        for block in &bad {
            let sector = block * (BLOCK as u64 / 512);
            if sector > at {
                table += &format!("{at} {} linear {} {at}\n", sector - at, self.device);
            }
            table += &format!("{sector} {} error\n", BLOCK / 512);
            at = sector + BLOCK as u64 / 512;
        }
        table += &format!("{at} {} linear {} {at}\n", self.sectors - at, self.device);
        self.become_(&table);
        bad.len()
    }

    /// Numbers of the blocks on the disk with such content.
    fn blocks(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u64> {
        let file = File::open(&self.file).unwrap();
        let (mut found, mut block, mut at) = (Vec::new(), vec![0; BLOCK], 0);
        // Skips holes, of which most of the file consists.
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let number = data / BLOCK as u64;
            file.read_exact_at(&mut block, number * BLOCK as u64).unwrap();
            found.extend(wanted(&block).then_some(number));
            at = (number + 1) * BLOCK as u64;
        }
        found
    }

    fn heal(&self) {
        self.become_(&self.sound());
    }

    fn become_(&self, table: &str) {
        let file = self.file.with_extension("table");
        fs::write(&file, table).unwrap();
        run("dmsetup", ["suspend", "--noflush", "--nolockfs", &self.name]).ok();
        run("dmsetup", ["load", &self.name, file.to_str().unwrap()]).ok();
        run("dmsetup", ["resume", &self.name]).ok();
        fs::remove_file(&file).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("dmsetup", ["remove", &self.name]);
        run("losetup", ["-d", &self.device]);
        let _ = fs::remove_file(&self.file);
    }
}

/// A daemon on two disks, with a committed snapshot and an active one that has a synced file.
struct Site {
    d: Daemon,
    metadata: Disk,
    data: Disk,
}

impl Site {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(more: &[&str]) -> Self {
        let (metadata, data) = (Disk::new("metadata", 16), Disk::new("data", 512));
        let flags = ["--metadata-device", &metadata.path(), "--data-device", &data.path()];
        let flags = [&flags[..], &["--volume-size", "256M"], more].concat();
        let flags = flags.into_iter().map(str::to_owned).collect();
        let d = Daemon::start_with(Options { flags, ..Options::default() });
        d.cli(&["prepare", "a"]).ok();
        fs::write(d.active("a").join("base"), CONTENT.repeat(1000)).unwrap();
        d.cli(&["commit", "a", "base"]).ok();
        d.cli(&["prepare", "w", "--parent", "base"]).ok();
        write_synced(&d, "w", "kept").unwrap();
        d.cli(&["prepare", "gone", "--parent", "base"]).ok();
        Self { d, metadata, data }
    }

    /// Everything that was acknowledged is there, and all works.
    fn assert_well(&self) {
        let d = &self.d;
        assert_eq!(d.json(&["check"])["sound"], true, "{}", d.log());
        assert_eq!(
            fs::read_to_string(d.committed("base").join("base")).unwrap(),
            CONTENT.repeat(1000)
        );
        assert_eq!(fs::read_to_string(d.active("w").join("kept")).unwrap(), CONTENT);
        assert_eq!(fs::read_to_string(d.active("w").join("base")).unwrap(), CONTENT.repeat(1000));
        assert!(!d.cli(&["status"]).ok().contains("trouble"), "{}", d.cli(&["status"]).ok());
    }

    fn finish(self) {
        let Self { d, metadata, data } = self;
        d.finish();
        run("thin_check", [metadata.path()]).ok();
        drop((metadata, data));
    }
}

/// Bytes in a block of the volumes' filesystems.
const BLOCK: usize = 4096;
/// What stands where the disk is to fail, and is to be written over.
const OLD: u8 = 0x5a;
const NEW: u8 = 0xa5;

const CONTENT: &str = "what was acknowledged is there\n";

fn write_synced(d: &Daemon, key: &str, name: &str) -> std::io::Result<()> {
    let mut file = File::create(d.active(key).join(name))?;
    file.write_all(CONTENT.as_bytes())?;
    file.sync_all()
}

/// How the metadata's disk fails, and how the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    WritesThenAKill,
    AllThenAStop,
}

/// The kernel stops such a pool. Reading goes on where it can, a removal is noted; all else is refused with the pool's
/// condition and what to do. The next start has the metadata checked and serves everything.
#[test]
fn in_guest_a_pool_whose_metadata_fails_says_so_and_is_whole_at_the_next_start() {
    for fault in [Fault::WritesThenAKill, Fault::AllThenAStop] {
        let mut site = Site::new();
        let writes_only = fault == Fault::WritesThenAKill;
        if writes_only {
            site.metadata.fail_writes()
        } else {
            site.metadata.fail()
        }
        let d = &mut site.d;
        // The first one may be what stops the pool, the others find it stopped.
        for _ in 0..3 {
            let refused = d.cli(&["prepare", "x", "--parent", "base"]);
            assert_ne!(refused.code, Some(0), "{fault:?}: {refused:?}");
            let told = refused.stderr.contains("-pool is") && refused.stderr.contains("thin_check");
            assert!(told, "{fault:?}: {refused:?}");
        }
        let status = d.cli(&["status"]).ok();
        let condition = if writes_only { "ro needs_check" } else { "Fail" };
        assert!(
            status.contains(&format!("pool state: {:14}{condition}", "")),
            "{fault:?}: {status}"
        );
        assert!(status.contains("trouble"), "{fault:?}: {status}");
        if writes_only {
            assert_eq!(fs::read_to_string(d.active("w").join("kept")).unwrap(), CONTENT);
            assert_eq!(
                fs::read(d.committed("base").join("base")).unwrap().len(),
                CONTENT.len() * 1000
            );
        }
        write_synced(d, "w", "later").unwrap_err();
        assert_ne!(d.cli(&["commit", "w", "w2"]).code, Some(0), "{fault:?}");
        d.cli(&["rm", "gone"]).ok();
        assert_eq!(d.cli(&["ls", "--json"]).ok().lines().count(), 2, "{fault:?}");
        let swept = d.cli(&["gc", "--wait"]).ok();
        assert!(swept.contains("1 failed") && swept.contains(condition), "{fault:?}: {swept}");
        site.metadata.heal();
        let d = &mut site.d;
        if writes_only {
            d.kill()
        } else {
            assert_eq!(d.stop(), Some(0), "{}", d.log())
        }
        d.restart();
        if writes_only {
            assert!(d.log().contains("thin_check found the pool's metadata whole"), "{}", d.log());
        }
        site.assert_well();
        let d = &site.d;
        d.cli(&["gc", "--wait"]).ok();
        assert_eq!(d.json_lines(&["ls"]).len(), 2, "{fault:?}");
        d.cli(&["prepare", "x", "--parent", "base"]).ok();
        d.cli(&["commit", "w", "w2"]).ok();
        site.finish();
    }
}

/// What was not synced is lost, who syncs is told, and nothing that has lost something is committed, also when the disk is
/// well again: the kernel tells of a lost write once.
#[test]
fn in_guest_a_volume_that_lost_writes_is_not_committed_and_keeps_what_was_synced() {
    let mut site = Site::new();
    let d = &site.d;
    // Fresh in the page cache when the disk fails, without anybody who syncs.
    fs::write(d.active("w").join("unsynced"), vec![7; 100_000]).unwrap();
    fs::write(d.active("gone").join("unsynced"), vec![7; 100_000]).unwrap();
    site.data.fail();
    write_synced(d, "w", "later").unwrap_err();
    for key in ["w", "gone"] {
        let refused = d.cli(&["commit", key, "new"]);
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert!(refused.stderr.contains("Input/output error"), "{refused:?}");
    }
    // Others are not concerned.
    d.cli(&["prepare", "x", "--parent", "base"]).ok();
    assert!(
        d.cli(&["status"]).ok().contains("thin ids that lost writes"),
        "{}",
        d.cli(&["status"]).ok()
    );
    site.data.heal();
    for key in ["w", "gone"] {
        let refused = d.cli(&["commit", key, "new"]);
        assert_ne!(refused.code, Some(0), "{key}: {refused:?}");
    }
    assert_eq!(fs::read_to_string(d.active("w").join("kept")).unwrap(), CONTENT);
    write_synced(d, "x", "works").unwrap();
    d.cli(&["commit", "x", "x2"]).ok();
    d.cli(&["rm", "gone"]).ok();
    site.d.kill();
    site.d.restart();
    site.assert_well();
    let d = &site.d;
    assert_eq!(fs::read_to_string(d.committed("x2").join("works")).unwrap(), CONTENT);
    write_synced(d, "w", "again").unwrap();
    d.cli(&["commit", "w", "w2"]).ok();
    assert_eq!(fs::read_to_string(d.committed("w2").join("again")).unwrap(), CONTENT);
    site.finish();
}

/// Some sectors fail while others go on: the filesystem notices nothing that it would stop for, the page cache holds
/// what the disk has not got, and by the time of the commit the disk is well again.
#[test]
fn in_guest_a_write_lost_on_a_filesystem_that_goes_on_is_told_to_who_syncs_and_never_committed() {
    for evicted in [false, true] {
        let mut site = Site::with(if evicted { &["--max-active", "1"] } else { &[] });
        let d = &site.d;
        let victim = d.active("w").join("victim");
        fs::write(&victim, vec![OLD; 64 * BLOCK]).unwrap();
        let file = File::options().write(true).open(&victim).unwrap();
        file.sync_all().unwrap();
        let failing = site.data.fail_where(|block| block.iter().all(|&byte| byte == OLD));
        assert_eq!(failing, 64, "each block of the file was found on the disk once");
        // Nobody syncs the file: the kernel writes it back by itself, some time.
        file.write_all_at(&[NEW; 64 * BLOCK], 0).unwrap();
        // An open file keeps its volume.
        let open = (!evicted).then_some(file);
        if evicted {
            write_synced(d, "gone", "of another volume").unwrap();
            let lost = "a volume could not be flushed when it was deactivated";
            eventually("the volume is deactivated", || d.log().contains(lost));
        } else {
            rustix::fs::sync();
            // What is synced by itself is safe: the filesystem has not stopped.
            write_synced(d, "w", "later").unwrap();
        }
        site.data.heal();
        write_synced(d, "w", "healed").unwrap();
        if let Some(file) = open {
            assert_eq!(fs::read(&victim).unwrap(), [NEW; 64 * BLOCK], "as if nothing had been");
            assert_eq!(errno(file.sync_all()), libc::EIO);
        }
        for _ in 0..2 {
            let refused = d.cli(&["commit", "w", "new"]);
            assert_ne!(refused.code, Some(0), "evicted: {evicted}: {refused:?}");
            assert!(refused.stderr.contains("Input/output error"), "{refused:?}");
        }
        assert!(d.cli(&["status"]).ok().contains("thin ids that lost writes"));
        d.cli(&["commit", "gone", "not concerned"]).ok();
        // The way out that the message names: look at what is there, then start anew.
        site.d.kill();
        site.d.restart();
        site.assert_well();
        let d = &site.d;
        assert_eq!(fs::read(&victim).unwrap(), [OLD; 64 * BLOCK]);
        assert_eq!(fs::read_to_string(d.active("w").join("healed")).unwrap(), CONTENT);
        d.cli(&["commit", "w", "w2"]).ok();
        site.finish();
    }
}
