//! Layers of a real size: import against `tar -x` and against containerd's unpacking, export against `tar -c`; all on
//! the same filesystem, one after the other in each round, each until its data is on the disk.
//!
//! containerd is started for the measurement alone; its rows are `ctr images import` of an archive whose blobs are in
//! its content store already, so that unpacking is what is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::report::{machine, median};

/// What the layer is made of: tens of thousands of files, hundreds of megabytes.
const DEFAULT_TREE: &str = "/usr/include /usr/share/doc /usr/share/locale /usr/share/perl /usr/lib/python3 /usr/lib/git-core";
const DEFAULT_ROUNDS: usize = 5;

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
        name: "thinfs layer import, .tar.gz",
        script: "$thinfs layer import <layer.tar.gz >chain",
        after: "$thinfs layer rm $(cat chain) >/dev/null; $thinfs gc >/dev/null",
    },
    Row {
        name: "containerd, overlayfs",
        script: "$ctr images import --snapshotter overlayfs image.tar >/dev/null; sync -f .",
        after: "$ctr images rm --sync docker.io/library/bench:1 >/dev/null; $ctr images import --no-unpack image.tar >/dev/null; sync -f .",
    },
    Row {
        name: "containerd, native",
        script: "$ctr images import --snapshotter native image.tar >/dev/null; sync -f .",
        after: "$ctr images rm --sync docker.io/library/bench:1 >/dev/null; $ctr images import --no-unpack image.tar >/dev/null; sync -f .",
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
        script: "$thinfs image export docker.io/library/bench:1 | cat >/dev/null",
        after: "",
    },
];

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
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Bench {
    fn start() -> Self {
        let base = std::env::var_os("THINFS_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        std::fs::create_dir_all(&base).unwrap();
        let dir = tempfile::Builder::new().prefix("layer-bench-").tempdir_in(base).unwrap();
        let mut bench = Bench { dir, daemons: Vec::new() };
        let path = bench.dir.path().to_owned();
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
        bench.sh("tar -C / --one-file-system -cf layer.tar $(printf '%s\\n' $tree | sed 's|^/||')");
        bench.sh("gzip -1 -k layer.tar; mkdir kept; tar -C kept -xf layer.tar");
        bench.sh(MAKE_IMAGE);
        bench.sh("$thinfs image import image.tar >/dev/null; $thinfs --json image ls | sed 's/.*\"chain_id\":\"\\([^\"]*\\).*/\\1/' >kept.chain");
        // Twice the same chain would make the second import find the first.
        bench.sh("$thinfs layer get $(cat kept.chain); mkdir one; echo 1 >one/differs; cp layer.tar other.tar; tar -rf other.tar -C one differs; mv other.tar layer.tar; gzip -1 -kf layer.tar");
        bench.sh("$ctr images import --no-unpack image.tar >/dev/null; sync -f .");
        bench
    }

    fn daemon(&mut self, program: &str, arguments: &[&str]) {
        let log = std::fs::File::create(self.dir.path().join("daemons.log")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.push(command.spawn().unwrap_or_else(|e| panic!("start {program}: {e}")));
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.dir.path());
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
        time
    }

    fn describe(&self) -> String {
        let tar = self.dir.path().join("layer.tar");
        let files = Command::new("tar").arg("-tf").arg(&tar).output().unwrap().stdout;
        let entries = files.iter().filter(|byte| **byte == b'\n').count();
        format!("{} MB, {entries} entries", size(&tar) / 1_000_000)
    }
}

/// A docker archive around the layer.
const MAKE_IMAGE: &str = r#"
id=$(sha256sum layer.tar | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $id >config.json
config=$(sha256sum config.json | cut -d' ' -f1)
mv config.json $config.json
printf '[{"Config":"%s.json","RepoTags":["bench:1"],"Layers":["layer.tar"]}]' $config >manifest.json
tar -cf image.tar manifest.json $config.json layer.tar"#;

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in &mut self.daemons {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}
