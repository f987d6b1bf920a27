//! The collector: what a run costs over many snapshots, and what others feel while ten thousand are collected.

use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thinfs::gc::{Collector, Settings};
use thinfs::grpc::proto::thinfs::admin::v1 as admin;
use thinfs::grpc::proto::thinfs::admin::v1::admin_client::AdminClient;
use thinfs::grpc::proto::thinfs::admin::v1::leases_client::LeasesClient;
use thinfs::meta::{Batch, Store};
use thinfs::snapshot::{LabelUpdate, Snapshots};
use thinfs::types::{Labels, Lease, LeaseId, Leased, Namespace, Snapshot, SnapshotKey};
use thinfs::volume::{NativeBackend, NativeConfig, Volumes};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use super::report::{machine, percentile};

/// Collected while others work.
const MANY: usize = 10_000;
/// Samples of each operation without a collection.
const QUIET: usize = 300;

/// Both parts.
pub fn run() {
    println!("{}", machine());
    costs();
    foreground();
}

fn work_dir() -> tempfile::TempDir {
    let base = std::env::var_os("THINFS_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    std::fs::create_dir_all(&base).unwrap();
    tempfile::Builder::new().prefix("thinfs-bench-").tempdir_in(base).unwrap()
}

fn key(key: impl Into<String>) -> SnapshotKey {
    SnapshotKey::new(key).unwrap()
}

/// The cost of a run by the number of snapshots: views, in the process, native backend. The first run, as after a
/// start, looks at all of them; the next ones follow what has changed.
fn costs() {
    println!(
        "one run, milliseconds: mark + sweep; views of one snapshot, leased but for the garbage; each run after the one before it"
    );
    println!(
        "{:>10} {:>12} {:>12} {:>12} {:>12} {:>14} {:>14} {:>16}",
        "snapshots",
        "first",
        "untouched",
        "1 changed",
        "1 garbage",
        "1 % garbage",
        "all by hand",
        "all garbage"
    );
    for count in [1_000, 10_000, 100_000] {
        let yard = Yard::new();
        yard.fill(count);
        let follow = |collector: &Collector| collector.catch_up().unwrap();
        let whole = |collector: &Collector| collector.collect(false).unwrap();
        let first = yard.timed(0, follow);
        let untouched = yard.timed(0, follow);
        yard.change("view-000000");
        let changed = yard.timed(0, follow);
        yard.let_go("view-000000");
        let one = yard.timed(1, follow);
        yard.end("few");
        let few = yard.timed(count / 100 - 1, follow);
        let clean = yard.timed(0, whole);
        yard.end("many");
        let all = yard.timed(count - count / 100, follow);
        println!(
            "{count:>10} {first:>12} {untouched:>12} {changed:>12} {one:>12} {few:>14} {clean:>14} {all:>16}"
        );
    }
}

struct Yard {
    snapshots: Arc<Snapshots>,
    collector: Arc<Collector>,
    namespace: Namespace,
    _dir: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let dir = work_dir();
        let store = Arc::new(Store::open(&dir.path().join("meta")).unwrap());
        let trees = NativeConfig { dir: dir.path().join("native") };
        let volumes = Volumes::new(Arc::new(NativeBackend::start(trees).unwrap()), 128);
        let (snapshots, _) = Snapshots::start(store, volumes).unwrap();
        let containerds = Namespace::new("containerd").unwrap();
        let collector = Collector::new(snapshots.clone(), containerds, Settings::default());
        let namespace = Namespace::default();
        Self { snapshots, collector, namespace, _dir: dir }
    }

    /// Written straight into the store: making them one by one is not what is measured. One lease holds 1 % of them,
    /// another one the others.
    fn fill(&self, count: usize) {
        let ns = &self.namespace;
        self.snapshots.prepare(ns, &key("b"), None, Labels::new()).unwrap();
        self.snapshots.commit(ns, &key("base"), &key("b"), Labels::new(), None).unwrap();
        let view = self.snapshots.view(ns, &key("v"), Some(&key("base")), Labels::new()).unwrap();
        let mut batch = Batch::default();
        for id in ["few", "many"] {
            let (id, created) = (LeaseId::new(id).unwrap(), SystemTime::now());
            batch.put_lease(ns, &Lease { id, created, labels: Labels::new() });
        }
        for at in 0..count {
            let id = self.snapshots.store().next_snapshot_id().unwrap();
            let name = key(format!("view-{at:06}"));
            let new = Snapshot { id, collectable: true, ..view.snapshot.clone() };
            batch.insert_snapshot(ns, &name, &new);
            let lease = LeaseId::new(if at < count / 100 { "few" } else { "many" }).unwrap();
            batch.hold(ns, &lease, &Leased::snapshot(&name));
        }
        self.snapshots.store().write(batch).unwrap();
    }

    fn change(&self, name: &str) {
        let labels = Labels::from([("changed".to_owned(), "1".to_owned())]);
        self.snapshots.update(&self.namespace, &key(name), LabelUpdate::Merge(labels)).unwrap();
    }

    fn let_go(&self, name: &str) {
        let few = LeaseId::new("few").unwrap();
        self.collector.let_go(&self.namespace, &few, &Leased::snapshot(&key(name))).unwrap();
    }

    fn end(&self, lease: &str) {
        self.collector.delete_lease(&self.namespace, &LeaseId::new(lease).unwrap()).unwrap();
    }

    fn timed(&self, garbage: usize, run: impl Fn(&Collector) -> thinfs::gc::Report) -> String {
        let report = run(&self.collector);
        assert_eq!(report.collected.len(), garbage);
        assert_eq!((report.stayed.len(), report.failed.len()), (0, 0));
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!("{:.2} + {:.1}", ms(report.mark), ms(report.sweep))
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let mut left = 0;
        let count = self.snapshots.store().for_each_snapshot(&self.namespace, &mut |_, _| {
            left += 1;
            ControlFlow::Continue(())
        });
        count.unwrap();
        assert_eq!(left, 2, "all but the base and the view that no lease made");
        self.snapshots.close().unwrap();
        self.snapshots.volumes().stop().unwrap();
    }
}

/// What a client of the daemon waits for, before and while ten thousand snapshots with a volume each are collected.
fn foreground() {
    let dir = work_dir();
    let mut daemon = Daemon::start(dir.path());
    daemon.fill();
    println!(
        "foreground operations of one client, milliseconds, p50 / p99 / most; {MANY} snapshots"
    );
    let mut quiet = Samples::default();
    for at in 0..QUIET {
        daemon.round(&format!("quiet-{at}"), &mut quiet);
    }
    daemon.prune();
    let started = Instant::now();
    daemon.end_lease();
    let (mut busy, mut at, mut collected) = (Samples::default(), 0, None);
    loop {
        daemon.round(&format!("busy-{at}"), &mut busy);
        at += 1;
        if at % 20 != 0 {
            continue; // asking for the status counts all snapshots
        }
        let status = daemon.status();
        let gone = status.gc.unwrap_or_default().collected.get("snapshot").copied().unwrap_or(0);
        if gone >= MANY as u64 && collected.is_none() {
            collected = Some(started.elapsed());
        }
        // What the rounds themselves removed is destroyed with the rest.
        if collected.is_some() && status.pending < 8 {
            break;
        }
    }
    println!(
        "collected after {:.1} s, destroyed after {:.1} s, {at} rounds meanwhile",
        collected.unwrap_or_default().as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    quiet.print("before");
    busy.print("meanwhile");
    daemon.stop();
}

#[derive(Default)]
struct Samples([Vec<Duration>; 5]);

const OPERATIONS: [&str; 5] = ["prepare", "stat", "list (by kind)", "mounts", "remove"];

impl Samples {
    fn print(&mut self, when: &str) {
        for (name, samples) in OPERATIONS.iter().zip(&mut self.0) {
            let mut at = |percent| percentile(samples, percent) / 1e3;
            let (p50, p99, most) = (at(50), at(99), at(100));
            println!("{when:<10} {name:<16} {p50:>8.2} / {p99:>8.2} / {most:>8.2}");
        }
    }
}

struct Daemon {
    child: Child,
    runtime: Runtime,
    admin: AdminClient<Channel>,
    leases: LeasesClient<Channel>,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("mnt")).unwrap();
        let socket = root.join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
        command.args(["serve", "--backend", "native", "--root"]).arg(&root).arg("--socket");
        let child = command.arg(&socket).env("RUST_LOG", "warn").stdin(Stdio::null()).spawn();
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(channel(&socket));
        let (admin, leases) = (AdminClient::new(channel.clone()), LeasesClient::new(channel));
        Self { child: child.unwrap(), runtime, admin, leases, socket }
    }

    /// Ten thousand active snapshots under one lease, each with a tree of its own.
    fn fill(&mut self) {
        let lease = admin::CreateLeaseRequest { id: "bench".into(), ..Default::default() };
        self.runtime.block_on(self.leases.create(lease)).unwrap();
        self.prepare("b", "", "");
        let commit =
            admin::CommitRequest { key: "b".into(), name: "base".into(), ..Default::default() };
        self.runtime.block_on(self.admin.commit(commit)).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let socket = &self.socket;
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let mut admin = AdminClient::new(runtime.block_on(channel(socket)));
                    for at in (worker..MANY).step_by(8) {
                        let request = prepare(&format!("many-{at:05}"), "base", "bench");
                        runtime.block_on(admin.prepare(request)).unwrap();
                    }
                });
            }
        });
    }

    fn prepare(&mut self, key: &str, parent: &str, lease: &str) {
        self.runtime.block_on(self.admin.prepare(prepare(key, parent, lease))).unwrap();
    }

    /// Each operation once.
    fn round(&mut self, name: &str, samples: &mut Samples) {
        let [prepared, stated, listed, mounted, removed] = &mut samples.0;
        let key = || name.to_owned();
        let (runtime, admin) = (&self.runtime, &mut self.admin);
        timed(prepared, || runtime.block_on(admin.prepare(prepare(name, "base", ""))).map(drop));
        let request = admin::StatRequest { key: key(), ..Default::default() };
        timed(stated, || runtime.block_on(admin.stat(request)).map(drop));
        let filters = vec!["kind==committed".to_owned()];
        let request = admin::ListRequest { filters, ..Default::default() };
        timed(listed, || {
            runtime.block_on(async {
                let mut stream = admin.list(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(())
            })
        });
        let request = admin::MountsRequest { key: key(), ..Default::default() };
        timed(mounted, || runtime.block_on(admin.mounts(request)).map(drop));
        let request = admin::RemoveRequest { key: key(), ..Default::default() };
        timed(removed, || runtime.block_on(admin.remove(request)).map(drop));
    }

    /// Until the reaper has nothing left of what the rounds removed.
    fn prune(&mut self) {
        let request = admin::GcRequest { wait: true, ..Default::default() };
        self.runtime.block_on(self.admin.gc(request)).unwrap();
    }

    fn end_lease(&mut self) {
        let request = admin::DeleteLeaseRequest { id: "bench".into(), ..Default::default() };
        self.runtime.block_on(self.leases.delete(request)).unwrap();
    }

    fn status(&mut self) -> admin::StatusReply {
        self.runtime.block_on(self.admin.status(admin::StatusRequest {})).unwrap().into_inner()
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

async fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect().await.unwrap()
}

fn prepare(key: &str, parent: &str, lease: &str) -> admin::PrepareRequest {
    admin::PrepareRequest {
        key: key.into(),
        parent: parent.into(),
        lease: lease.into(),
        ..Default::default()
    }
}

fn timed(samples: &mut Vec<Duration>, run: impl FnOnce() -> Result<(), tonic::Status>) {
    let started = Instant::now();
    run().unwrap();
    samples.push(started.elapsed());
}
