//! A layer of a real size: import against `tar -x` and against containerd's unpacking, export against `tar -c`; all on
//! the same filesystem, made for this, one after the other in each round, each until its data is on the disk.
//!
//! containerd is started for the measurement alone; its rows are `ctr images import` of an archive whose blobs are in
//! its content store already, so that unpacking is what is left.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::report::{machine, median};

/// What the layer is made of: tens of thousands of files, hundreds of megabytes.
const DEFAULT_TREE: &str =
    "/usr/include /usr/share/perl /usr/lib/python3 /usr/lib/python3.11 /usr/share/go-1.19";
const DEFAULT_ROUNDS: usize = 3;
/// Bytes of the filesystem that everything happens on.
const DISK: u64 = 16 << 30;

struct Row {
    name: &'static str,
    /// Runs in the work directory; `$thinfs`, `$ctr` and `$tree` are set.
    script: &'static str,
    after: &'static str,
}

/// The first is what the others are compared with.
const IMPORT: &[Row] = &[
    Row { name: "tar -x", script: "mkdir x; tar -C x -xf layer.tar; sync -f x", after: "rm -rf x" },
    Row {
        name: "tar -x, sha256sum beside",
        script: "mkdir x; tee >(sha256sum >/dev/null) <layer.tar | tar -C x -xf -; sync -f x",
        after: "rm -rf x",
    },
    Row {
        name: "thinfs layer import",
        script: "$thinfs layer import <layer.tar >chain",
        after: "$thinfs layer rm $(cat chain) >/dev/null; $thinfs gc >/dev/null",
    },
    Row {
        name: "containerd, not unpacked",
        script: "$ctr images import --no-unpack image.tar >/dev/null; sync -f .",
        after: "",
    },
    Row {
        name: "containerd, overlayfs",
        script: "$ctr images import --snapshotter overlayfs image.tar >/dev/null; sync -f .",
        after: "forget overlayfs",
    },
    Row {
        name: "containerd, native",
        script: "$ctr images import --snapshotter native image.tar >/dev/null; sync -f .",
        after: "forget native",
    },
    Row {
        name: "tar -xz",
        script: "mkdir x; tar -C x -xzf layer.tar.gz; sync -f x",
        after: "rm -rf x",
    },
    Row {
        name: "thinfs layer import, .tar.gz",
        script: "$thinfs layer import <layer.tar.gz >chain",
        after: "$thinfs layer rm $(cat chain) >/dev/null; $thinfs gc >/dev/null",
    },
];

const EXPORT: &[Row] = &[
    Row { name: "tar -c of the tree", script: "tar -C kept -c . | cat >/dev/null", after: "" },
    Row {
        name: "thinfs layer export",
        script: "$thinfs layer export $(cat kept.chain) | cat >/dev/null",
        after: "",
    },
    Row {
        name: "thinfs image export",
        script: "$thinfs image export bench:1 | cat >/dev/null",
        after: "",
    },
];

/// Takes an unpacked image from containerd and keeps its blobs; the collector that deletes is waited for.
const FORGET: &str = r#"
forget() {
    $ctr snapshots --snapshotter $1 rm $(cat kept.chain)
    $ctr images tag docker.io/library/bench:1 docker.io/library/bench:2 >/dev/null
    $ctr images rm --sync docker.io/library/bench:2 >/dev/null
}
"#;

/// Runs all rows.
pub fn run() {
    let rounds = std::env::var("THINFS_BENCH_ROUNDS").ok().and_then(|r| r.parse().ok());
    let rounds = rounds.unwrap_or(DEFAULT_ROUNDS);
    let bench = Bench::start();
    println!("{}", machine());
    println!("layer: {}; median of {rounds} rounds, ratio to the first row", bench.describe());
    for (what, rows) in [("import", IMPORT), ("export", EXPORT)] {
        println!("{what:<32} {:>10} {:>8} {:>10} {:>10}", "median", "ratio", "least", "most");
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
        for _ in 0..rounds {
            for (row, times) in rows.iter().zip(&mut times) {
                times.push(bench.timed(row).as_secs_f64());
            }
        }
        let base = median(&mut times[0].clone());
        for (row, times) in rows.iter().zip(&mut times) {
            let middle = median(times);
            let (least, most) = (times[0], times[times.len() - 1]);
            println!(
                "{:<32} {middle:>8.2} s {:>8.2} {least:>8.2} s {most:>8.2} s",
                row.name,
                middle / base
            );
        }
    }
}

struct Bench {
    // Before the disk: they have it open.
    daemons: Daemons,
    disk: Disk,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
struct Daemons(Vec<Child>);

impl Bench {
    fn start() -> Self {
        let base = std::env::var_os("THINFS_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        std::fs::create_dir_all(&base).unwrap();
        let dir = tempfile::Builder::new().prefix("layer-bench-").tempdir_in(base).unwrap();
        let disk = Disk::new(dir.path(), DISK);
        let mut bench = Bench { daemons: Daemons::default(), disk, _dir: dir };
        let path = bench.disk.path().to_owned();
        std::fs::create_dir_all(path.join("root/mnt")).unwrap();
        let thinfs = env!("CARGO_BIN_EXE_thinfs");
        bench.daemon(thinfs, &["serve", "--backend", "native", "--root", "root"]);
        bench.eventually("$thinfs status");
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        std::fs::write(path.join("containerd.toml"), config).unwrap();
        bench.daemon(
            "containerd",
            &["-c", "containerd.toml", "--root", "ctd", "--state", "ctd.state", "-a", "ctd.sock"],
        );
        bench.eventually("$ctr version");
        bench.sh(PREPARE);
        bench.sh(MAKE_IMAGE);
        bench.sh(KEEP);
        bench
    }

    fn daemon(&mut self, program: &str, arguments: &[&str]) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.disk.path().join("daemons.log"))
            .unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.disk.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.0.push(command.spawn().unwrap_or_else(|e| panic!("start {program}: {e}")));
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        let script = format!("{FORGET}{script}");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.disk.path());
        let thinfs = format!("{} --socket root/thinfs.sock", env!("CARGO_BIN_EXE_thinfs"));
        command.env("thinfs", thinfs).env("ctr", "ctr -a ctd.sock");
        let tree = std::env::var("THINFS_BENCH_TREE").unwrap_or_else(|_| DEFAULT_TREE.to_owned());
        command.env("tree", tree);
        command
    }

    fn sh(&self, script: &str) {
        let status = self.command(script).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    }

    fn eventually(&self, script: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut command = self.command(script);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            if command.status().unwrap().success() {
                return;
            }
            assert!(Instant::now() < deadline, "never worked: {script}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn timed(&self, row: &Row) -> Duration {
        let started = Instant::now();
        self.sh(row.script);
        let time = started.elapsed();
        self.sh(row.after);
        // What one has left to be written is not the next one's.
        self.sh("sync -f .");
        time
    }

    fn describe(&self) -> String {
        let tar = self.disk.path().join("layer.tar");
        let files = Command::new("tar").arg("-tf").arg(&tar).output().unwrap().stdout;
        let entries = files.iter().filter(|byte| **byte == b'\n').count();
        let bytes = std::fs::metadata(&tar).unwrap().len();
        format!("{} MB, {entries} entries", bytes / 1_000_000)
    }
}

/// The layer, and a tree of it for `tar -c`. What this machine doesn't have of the tree is left out.
const PREPARE: &str = r#"
(cd / && ls -d $tree 2>/dev/null || true) | sed 's|^/||' >names
tar -C / --one-file-system -T names -cf layer.tar
mkdir kept
tar -C kept -xf layer.tar"#;

/// An OCI archive around the layer.
const MAKE_IMAGE: &str = r#"
mkdir -p image/blobs/sha256
blob() { local id=$(sha256sum <$1 | cut -d' ' -f1); mv $1 image/blobs/sha256/$id; echo $id; }
cp layer.tar blob; layer=$(blob blob)
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $layer >config
size=$(stat -c %s config); config=$(blob config)
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    $type $type $config $size $type $layer $(stat -c %s layer.tar) >manifest
size=$(stat -c %s manifest); manifest=$(blob manifest)
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"docker.io/library/bench:1"}}]}' \
    $type $manifest $size >image/index.json
echo '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
tar -C image -cf image.tar oci-layout index.json blobs
rm -r image"#;

/// One image in each store. The layer that is imported later differs by a file: twice the same would find the first.
const KEEP: &str = r#"
$thinfs image import --name bench:1 image.tar >/dev/null
$thinfs --json image ls | sed 's/.*"chain_id":"\([^"]*\).*/\1/' >kept.chain
mkdir one
echo 1 >one/differs
tar -rf layer.tar -C one differs
gzip -1 -k layer.tar
$ctr images import --no-unpack image.tar >/dev/null
sync -f ."#;

impl Drop for Daemons {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}
