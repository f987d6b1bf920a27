//! A kill at every crash point in turn, and a start: what was acknowledged is there, nothing else is, nothing is stuck.
//!
//! [`Way`] says for each step how a daemon is brought to it. A point that isn't reached fails the test, and a new step
//! doesn't compile before it has a way here.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use thinfs::crashpoint::{Step, names};

use super::book::{Book, State};
use super::{Worker, content_of, file_of, prune, settle};
use crate::harness::proc::run;
use crate::harness::{Client, Daemon, Options, is_thin};

/// Long enough for the guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// What brings a daemon to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The first start on a root.
    First,
    /// Any start.
    Start,
    /// The calls of [`script`].
    Work,
    /// A clean stop.
    Stop,
    /// A start after a power cut that left a metadata snapshot unwritten, on metadata that the kernel wants checked.
    Mend,
    /// The pool of files gets full and grows.
    Grow,
    /// A start that finds a volume gone.
    Lose,
    /// A start on volumes that a new store doesn't know.
    Keep,
    /// A command, once [`set_the_stage`] has run others.
    Command,
    /// A commit of a block device that is mounted: `block::in_guest_a_kill_in_the_commit_of_a_mounted_device…`.
    Block,
    /// A program opens a file, and the mount outlives the daemon:
    /// `survival::a_kill_while_the_kernel_is_told_of_a_file_…`.
    Survive,
}

/// How to get there on native and on thin; `None`: the backend has no such step.
fn ways(step: Step) -> (Option<Way>, Option<Way>) {
    use Step::*;
    let both = |way| (Some(way), Some(way));
    let (native, thin) = (|way| (Some(way), None), |way| (None, Some(way)));
    match step {
        RecordBackend | StoreMigrate => both(Way::First),
        StoreIds | StorePrepare | StoreView | StoreCommit | StoreRemove | StoreLabels
        | StoreForget => both(Way::Work),
        NativeMake | NativeCopy | NativePublish | NativeSync | NativeFlush | NativeTrash
        | NativeRemove => native(Way::Work),
        StoreLost => native(Way::Lose),
        StoreKeep => native(Way::Keep),
        StoreLease | StoreNamespace | StoreCollect | StoreLayer | StoreRepair => both(Way::Command),
        StoreResize | Ballast | WitnessMake => thin(Way::Command),
        Identity | PoolFile | LoopAttach | LedgerAdopt | DmCreate | DmLoad | DmResume => {
            thin(Way::First)
        }
        LoopResize | LedgerMove | LedgerSettle | SetTransactionId | ReserveSnapshot
        | ReleaseSnapshot | WitnessRenew => thin(Way::Start),
        CreateThin | CreateSnap | Delete | Mkfs | EmptyRoot | Mount | GrowFilesystem
        | SealFlush | SealReadOnly | Unmount | Discard | DmRemove | LedgerChange => thin(Way::Work),
        LoopDetach => thin(Way::Stop),
        MendSuperblock | CheckMetadata => thin(Way::Mend),
        DmReload | DmSwap => thin(Way::Grow),
        DmSuspend => thin(Way::Block),
        HoldFile | LetFileGo | TellOpened => native(Way::Survive),
    }
}

fn way(step: Step) -> Option<Way> {
    let (native, thin) = ways(step);
    if is_thin() { thin } else { native }
}

/// The points of all steps that get there in this way: by steps, before and after.
fn points(wanted: Way) -> Vec<String> {
    steps(wanted).into_iter().flat_map(points_of).collect()
}

fn steps(wanted: Way) -> Vec<Step> {
    Step::ALL.iter().copied().filter(|step| way(*step) == Some(wanted)).collect()
}

fn points_of(step: Step) -> Vec<String> {
    let only = std::env::var("THINFS_TEST_POINT").ok();
    let points = ["before", "after"].map(|side| format!("{}.{side}", step.name()));
    points.into_iter().filter(|p| only.as_ref().is_none_or(|only| p.contains(only))).collect()
}

#[test]
fn every_step_has_a_backend_that_makes_it() {
    assert_eq!(names().count(), 2 * Step::ALL.len());
    for step in Step::ALL {
        assert_ne!(ways(*step), (None, None), "{step:?}");
    }
}

#[test]
fn a_kill_at_any_point_of_a_first_start_leaves_a_root_that_starts() {
    for point in points(Way::First) {
        let mut d = Daemon::start_doomed(&point, Options::default());
        d.restart();
        let mut site = Site::new(d);
        site.finish_with_work(&point);
    }
}

#[test]
fn a_kill_at_any_point_of_a_start_or_a_call_loses_nothing_and_leaks_nothing() {
    let mut site = Site::new(Daemon::start());
    let started = Instant::now();
    let mut count = 0;
    for way in [Way::Work, Way::Start, Way::Stop] {
        for point in points(way) {
            site.kill_at(&point, way);
            count += 1;
            eprintln!("{point} at {:?}", started.elapsed());
        }
    }
    // The later times of steps that a first start makes, too: on a thin device instead of the pool.
    let later = ["dm.create.after", "dm.load.before", "dm.load.after", "dm.resume.after"];
    for point in later.iter().filter(|_| is_thin()) {
        site.kill_at(point, Way::Work);
    }
    eprintln!("{count} points in {:?}", started.elapsed());
    site.finish_with_work("all");
}

#[test]
fn a_kill_while_a_volume_is_being_marked_as_lost_leaves_it_lost_until_it_is_back() {
    for point in points(Way::Lose) {
        let mut d = Daemon::start();
        let mut client = Client::connect(&d.socket());
        let snapshot = client.prepare("gone", "").unwrap();
        d.kill();
        let tree = d.root().join("native/volumes").join(snapshot.id.to_string());
        let aside = d.root().join("aside");
        fs::rename(&tree, &aside).unwrap();
        assert!(!d.start_armed(&point), "{point} was not reached");
        d.restart();
        let problems = Client::connect(&d.socket()).check();
        assert_eq!(problems.len(), 1, "{point}: {problems:?}");
        d.kill();
        fs::rename(&aside, &tree).unwrap();
        d.restart();
        assert_eq!(Client::connect(&d.socket()).check(), [""; 0], "{point}");
        d.finish();
    }
}

#[test]
fn a_kill_while_unknown_volumes_are_noted_leaves_them_to_be_kept() {
    for point in points(Way::Keep) {
        let mut d = Daemon::start();
        d.cli(&["prepare", "unknown"]).ok();
        assert_eq!(d.stop(), Some(0));
        let aside = d.root().join("aside");
        fs::rename(d.root().join("meta"), &aside).unwrap();
        assert!(!d.start_armed(&point), "{point} was not reached");
        d.restart();
        let volumes = fs::read_dir(d.root().join("native/volumes")).unwrap();
        assert_eq!(volumes.count(), 1, "{point}: it is kept");
        assert_eq!(d.cli(&["check"]).code, Some(8), "{point}: it is told");
        d.cli(&["check", "--repair"]).ok();
        d.cli(&["check"]).ok();
        d.finish();
    }
}

#[test]
fn a_kill_at_any_point_of_a_command_leaves_it_done_or_to_be_done_again() {
    let points = steps(Way::Command)
        .into_iter()
        .flat_map(|step| points_of(step).into_iter().map(move |point| (step, point)));
    for (step, point) in points {
        let mut d = Daemon::start();
        let command = set_the_stage(step, &mut d);
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        d.kill();
        assert!(d.start_armed(&point), "{point} was reached too early");
        let answer = d.cli(&command);
        assert_ne!(answer.code, Some(0), "{point}: {answer:?}");
        d.wait_for_its_point(&point, PATIENCE);
        d.restart();
        let again = d.cli(&command);
        let (done, gone, there) = (Some(0), Some(3), Some(4));
        assert!([done, gone, there].contains(&again.code), "{point}: {again:?}");
        d.cli(&["gc", "--wait"]).ok();
        d.cli(&["check"]).ok();
        let left = d.json_lines(&["ls"]);
        let one = matches!(step, Step::StoreResize | Step::Ballast | Step::WitnessMake);
        assert_eq!(left.len(), usize::from(one), "{point}: {left:?}");
        d.finish();
    }
}

/// What must be there before; gives the command that comes to the step.
fn set_the_stage(step: Step, d: &mut Daemon) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match step {
        Step::StoreLease => words(&["lease", "create", "--id", "l"]),
        Step::Ballast | Step::WitnessMake => words(&["prepare", "first"]),
        Step::StoreNamespace => words(&["namespace", "create", "n"]),
        Step::StoreCollect => {
            d.cli(&["lease", "create", "--id", "l"]).ok();
            d.cli(&["prepare", "loose", "--lease", "l"]).ok();
            words(&["lease", "rm", "--wait", "l"])
        }
        Step::StoreResize => {
            d.cli(&["prepare", "web", "--size", "64M"]).ok();
            words(&["resize", "web", "256M"])
        }
        Step::StoreLayer => {
            let (tree, tar) = (d.root().join("tree"), d.root().join("layer.tar"));
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("file"), "content").unwrap();
            let (tree, tar) = (tree.to_str().unwrap(), tar.to_str().unwrap());
            run("tar", ["-C", tree, "-cf", tar, "."]).ok();
            d.cli(&["layer", "import", tar]).ok();
            words(&["layer", "import", tar])
        }
        Step::StoreRepair => {
            let (root, backup) = (d.root().to_owned(), d.root().join("backup"));
            let (root, backup) = (root.to_str().unwrap(), backup.to_str().unwrap());
            d.cli(&["backup", backup]).ok();
            d.cli(&["prepare", "later"]).ok();
            assert_eq!(d.stop(), Some(0));
            run(env!("CARGO_BIN_EXE_thinfs"), ["--root", root, "restore", backup]).ok();
            d.restart();
            words(&["check", "--repair"])
        }
        other => unreachable!("no command for {other:?}"),
    }
}

#[test]
fn a_kill_while_the_metadata_is_mended_leaves_it_to_be_mended() {
    for point in points(Way::Mend) {
        let mut d = Daemon::start();
        assert_eq!(d.stop(), Some(0));
        leave_to_be_mended(&d.root().join("thin/metadata.img"));
        assert!(!d.start_armed(&point), "{point} was not reached");
        d.restart();
        let mut site = Site::new(d);
        site.finish_with_work(&point);
    }
}

/// What a power cut in the middle of `reserve_metadata_snap` leaves (see `thin::metadata::mend`), and the kernel's mark that
/// the metadata needs a check.
fn leave_to_be_mended(path: &std::path::Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, 0).unwrap();
    block[56..64].copy_from_slice(&5000_u64.to_le_bytes());
    block[4] |= 1;
    let sum = crc32c_of(&block[4..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&block, 0).unwrap();
    file.sync_all().unwrap();
}

/// The kernel's checksum of a superblock.
fn crc32c_of(bytes: &[u8]) -> u32 {
    (!crc32c::crc32c(bytes)) ^ 160_774
}

#[test]
fn a_kill_while_the_pool_grows_leaves_a_pool_that_goes_on_growing() {
    for point in points(Way::Grow) {
        let flags = ["--pool-size", "64M", "--pool-max-size", "256M"].map(str::to_owned);
        let options = Options { flags: flags.to_vec(), ..Options::default() };
        let mut d = Daemon::start_with(options);
        d.kill();
        assert!(d.start_armed(&point), "{point} was reached too early");
        let (socket, mount) = (d.socket(), d.mount());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut client = Client::try_connect(&socket)?;
                client.prepare("large", "").ok()?;
                let file = fs::File::create(mount.join("active/large/file")).ok()?;
                let bytes = vec![0x5a; MIB as usize];
                for _ in 0..100 {
                    std::io::Write::write_all(&mut &file, &bytes).ok()?;
                    file.sync_data().ok()?;
                }
                Some(())
            });
            d.wait_for_its_point(&point, PATIENCE);
            d.restart();
        });
        fs::write(d.active("large").join("more"), vec![1; 80 * MIB as usize]).unwrap();
        fs::File::open(d.active("large").join("more")).unwrap().sync_all().unwrap();
        let mut site = Site::new(d);
        site.book.note("large", &[State::Active], &[]);
        site.finish_with_work(&point);
    }
}

/// What a kill leaves that comes between the deletion of spent ballast, in a suspension that hangs
/// (`volume::thin::ballast`), and its record; then each kill in the start that forgets it. The deletion is made from outside,
/// for which suspension will hang is for the kernel to say.
#[test]
fn in_guest_a_kill_after_ballast_was_spent_leaves_a_pool_that_gets_it_anew() {
    for point in points_of(Step::LedgerChange) {
        let mut d = Daemon::start();
        d.cli(&["prepare", "a"]).ok();
        d.kill();
        let pool = format!("{}-pool", prefix_of(&d));
        run("dmsetup", ["message", &pool, "0", "delete 3"]).ok();
        assert!(!d.start_armed(&point), "{point} was not reached by a start");
        d.restart();
        assert_eq!(d.json(&["check"])["sound"], true, "{point}");
        d.cli(&["prepare", "b"]).ok();
        assert_eq!(d.stop(), Some(0));
        let ids = run("thin_ls", ["--no-headers", "-o", "DEV", metadata_of(&d).as_str()]).ok();
        // Four pieces of ballast, the witness, a template, two volumes.
        assert_eq!(ids.lines().count(), 8, "{point}: {ids}");
        d.restart();
        assert_eq!(d.json(&["check"])["sound"], true, "{point}");
        d.finish();
    }
}

fn prefix_of(d: &Daemon) -> String {
    let identity = fs::read_to_string(d.root().join("thin/identity")).unwrap();
    format!("thinfs-{}", identity.trim())
}

fn metadata_of(d: &Daemon) -> String {
    d.root().join("thin/metadata.img").display().to_string()
}

/// A root that goes through one kill after the other.
struct Site {
    d: Daemon,
    book: Book,
    rounds: u64,
}

impl Site {
    fn new(d: Daemon) -> Self {
        Self { d, book: Book::default(), rounds: 0 }
    }

    /// Starts a daemon that dies at the point, has it work or stop until it does, starts the next
    /// one and compares.
    fn kill_at(&mut self, point: &str, way: Way) {
        self.rounds += 1;
        self.d.kill();
        let alive = self.d.start_armed(point);
        match (way, alive) {
            (Way::Start, true) => panic!("{point} was not reached by a start"),
            (_, false) => self.d.restart(),
            (_, true) => self.work_until_it_dies(point, way == Way::Stop),
        }
        self.settle();
    }

    fn work_until_it_dies(&mut self, point: &str, stop: bool) {
        let (socket, mount, rounds) = (self.d.socket(), self.d.mount(), self.rounds);
        let (book, d) = (&self.book, &mut self.d);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut client = Client::try_connect(&socket)?;
                script(book, &mut client, mount, rounds)
            });
            if stop {
                d.terminate();
            }
            d.wait_for_its_point(point, PATIENCE);
            d.restart();
        });
    }

    fn settle(&mut self) {
        let mut client = Client::connect(&self.d.socket());
        let reply = client.gc();
        assert_eq!((reply.waiting, reply.failed), (0, vec![]));
        settle(&self.d, &mut client, &self.book, self.rounds as usize);
        prune(&mut client, &self.book);
    }

    /// Unharmed, everything works; then everything is removed and nothing is left.
    fn finish_with_work(&mut self, point: &str) {
        self.rounds += 1;
        let mut client = Client::connect(&self.d.socket());
        let done = script(&self.book, &mut client, self.d.mount(), self.rounds);
        assert!(done.is_some(), "{point}: the script came to an end\n{}", self.d.log());
        self.settle();
        let d = std::mem::replace(&mut self.d, Daemon::nobody());
        d.finish();
    }
}

/// The calls that make every step of [`Way::Work`]. `None`: a call failed, for the daemon is gone.
pub(super) fn script(
    book: &Book,
    client: &mut Client,
    mount: std::path::PathBuf,
    round: u64,
) -> Option<()> {
    let (killed, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let random = fastrand::Rng::with_seed(round);
    let mut w =
        Worker { name: "s".to_owned(), random, book, mount, killed: &killed, calls: &calls };
    let key = |name: &str| format!("s/{round}-{name}");
    // 1. An empty one of a size of its own: on thin, a template is made for it.
    let (base, top) = (key("base"), key("top"));
    let size = (64 + 4 * round) * MIB;
    let (first, second) = (key("first"), key("second"));
    w.call(&first, State::Absent, State::Active, &[], || client.prepare_sized(&first, "", size))?;
    commit_layer(&mut w, client, &first, &base, &[])?;
    // 2. A child that is larger than its parent.
    let chain = [base.clone()];
    let grown = size + 64 * MIB;
    w.call(&second, State::Absent, State::Active, &chain, || {
        client.prepare_sized(&second, &base, grown)
    })?;
    client.label(&second, "round", &round.to_string()).ok()?;
    commit_layer(&mut w, client, &second, &top, &chain)?;
    // 3. A look at it, and the end of both.
    let chain = [top.clone(), base.clone()];
    let look = key("look");
    w.call(&look, State::Absent, State::View, &chain, || client.view(&look, &top))?;
    w.call(&look, State::View, State::Absent, &chain, || client.remove(&look))?;
    w.call(&top, State::Committed, State::Absent, &chain[1..], || client.remove(&top))?;
    // 4. What the background does.
    client.try_gc().ok().map(drop)
}

fn commit_layer(
    w: &mut Worker<'_>,
    client: &mut Client,
    key: &str,
    name: &str,
    chain: &[String],
) -> Option<()> {
    let dir = w.mount.join("active").join(key.replace('/', "%2F"));
    fs::write(dir.join(file_of(name)), content_of(name)).ok()?;
    w.note(name, &[State::Absent, State::Committed], chain);
    w.call(key, State::Active, State::Absent, chain, || client.commit(key, name))?;
    w.note(name, &[State::Committed], chain);
    Some(())
}
