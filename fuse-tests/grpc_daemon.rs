//! The program itself: the daemon's start and stop, the command line, and containerd's protocol on
//! the socket. Needs root and /dev/fuse, and fails without them.
//!
//! On the native backend, unless THINFS_TEST_BACKEND says `thin`; below the usual directory for
//! temporary files, unless THINFS_TEST_DIR names another. So in the guest:
//! `THINFS_TEST_BACKEND=thin THINFS_TEST_DIR=/mnt/scratch scripts/guest -- TEST-BINARY`.

#![allow(clippy::unwrap_used)] // also outside #[test] functions all of this is test code

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use thinfs::grpc::proto::containerd::services::snapshots::v1 as containerd;
use thinfs::grpc::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon with a root of its own. Dropping it leaves nothing behind, whatever failed.
struct Daemon {
    child: Child,
    root: TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(temporary())
    }

    fn start_in(root: TempDir) -> Self {
        Self::start_with(root, |_| {})
    }

    fn start_with(root: TempDir, more: impl FnOnce(&mut Command)) -> Self {
        let log = fs::File::options().create(true).append(true).open(log_of(&root)).unwrap();
        let mut serve = thinfs();
        serve.args(["serve", "--backend", &backend(), "--root"]).arg(root.path()).stderr(log);
        if backend() == "thin" {
            serve.args(["--pool-size", "512M", "--volume-size", "1G"]);
        }
        more(&mut serve);
        let child = serve.spawn().unwrap();
        let mut daemon = Self { child, root };
        daemon.wait_until_ready();
        daemon
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.run(&["status"]).status.success() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the daemon is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(log_of(&self.root)).unwrap_or_default()
    }

    /// Gives up the root, for a next daemon; this one is done with.
    fn take_root(mut self) -> TempDir {
        std::mem::replace(&mut self.root, temporary())
    }

    fn mount(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    fn run(&self, args: &[&str]) -> Output {
        thinfs().arg("--root").arg(self.root.path()).args(args).output().unwrap()
    }

    /// What a command that succeeds prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and message of a command that fails.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} should fail");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let text = self.ok(&[&["--json"], args].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Prepares an active snapshot and gives its directory.
    fn prepare(&self, key: &str, parent: Option<&str>) -> PathBuf {
        let parent = parent.map(|parent| vec!["--parent", parent]).unwrap_or_default();
        PathBuf::from(self.ok(&[&["prepare", key][..], &parent].concat()).trim_end())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process's end; the exit code.
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the daemon does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&format!(" {} ", self.mount().display()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
        }
        let _ = fs::remove_file(log_of(&self.root));
    }
}

fn backend() -> String {
    std::env::var("THINFS_TEST_BACKEND").unwrap_or_else(|_| "native".to_owned())
}

fn temporary() -> TempDir {
    match std::env::var_os("THINFS_TEST_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

/// Beside the root, not inside: a root that holds strange files is refused.
fn log_of(root: &TempDir) -> PathBuf {
    root.path().with_extension("log")
}

fn thinfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("THINFS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn write(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_snapshot_is_prepared_filled_committed_seen_by_its_child_and_removed() {
    let mut daemon = Daemon::start();
    let dir = daemon.prepare("base-1", None);
    assert_eq!(dir, daemon.mount().join("active/base-1"));
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    write(&dir, "etc/motd", "hello");
    write(&dir, "bin/tool", "tool");

    let committed =
        PathBuf::from(daemon.ok(&["commit", "base-1", "base", "--label", "release=1"]).trim_end());
    assert_eq!(committed, daemon.mount().join("committed/base"));
    assert!(!dir.exists(), "the key is gone");
    assert_eq!(fs::read_to_string(committed.join("etc/motd")).unwrap(), "hello");
    assert_eq!(
        fs::write(committed.join("etc/motd"), "x").unwrap_err().raw_os_error(),
        Some(30),
        "EROFS"
    );

    let web = daemon.prepare("web", Some("base"));
    assert_eq!(fs::read_to_string(web.join("etc/motd")).unwrap(), "hello");
    write(&web, "etc/motd", "changed");
    write(&web, "etc/new", "new");
    fs::remove_file(web.join("bin/tool")).unwrap();
    assert_eq!(fs::read_to_string(committed.join("etc/motd")).unwrap(), "hello");
    assert_eq!(daemon.ok(&["diff", "base", "web"]), "D bin/tool\nM etc/motd\nA etc/new\n");

    let look = PathBuf::from(daemon.ok(&["view", "look", "--parent", "base"]).trim_end());
    assert_eq!(fs::read_to_string(look.join("bin/tool")).unwrap(), "tool");

    let list = daemon.json(&["ls"]);
    let keys: Vec<_> =
        list.iter().map(|s| (s["key"].as_str().unwrap(), s["kind"].as_str().unwrap())).collect();
    assert_eq!(keys, [("base", "committed"), ("look", "view"), ("web", "active")]);
    assert_eq!(list[0]["labels"]["release"], "1");
    let tree = daemon.ok(&["tree"]);
    let drawn: Vec<_> = tree.lines().skip(1).map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(drawn, ["base", "├── look", "└── web"]);
    assert!(daemon.json(&["usage", "base"])[0]["inodes"].as_u64().unwrap() >= 4);

    daemon.ok(&["rm", "web", "look"]);
    daemon.ok(&["rm", "base"]);
    let gc = &daemon.json(&["gc"])[0];
    assert_eq!((&gc["waiting"], gc["failed"].as_array().unwrap().len()), (&Value::from(0), 0));
    assert_eq!(daemon.ok(&["ls"]), "");
    assert_eq!(fs::read_dir(daemon.mount().join("committed")).unwrap().count(), 0);
    assert_eq!(daemon.ok(&["check"]), "sound: the store and the backend agree\n");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_stopped_daemon_leaves_no_mount_and_no_socket_and_finds_its_snapshots_again() {
    let mut daemon = Daemon::start();
    write(&daemon.prepare("a/b c", None), "file", "content");
    assert!(daemon.is_mounted());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(!daemon.is_mounted());
    assert!(!daemon.root.path().join("thinfs.sock").exists());
    let daemon = Daemon::start_in(daemon.take_root());
    assert_eq!(fs::read_to_string(daemon.mount().join("active/a%2Fb c/file")).unwrap(), "content");
}

#[test]
fn a_killed_daemon_is_followed_by_one_that_clears_its_mount_and_keeps_what_was_committed() {
    let mut daemon = Daemon::start();
    write(&daemon.prepare("k", None), "file", "content");
    daemon.ok(&["commit", "k", "base"]);
    daemon.prepare("half", Some("base"));
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(daemon.is_mounted(), "a killed daemon can't unmount");
    let daemon = Daemon::start_in(daemon.take_root());
    assert_eq!(fs::read_to_string(daemon.mount().join("committed/base/file")).unwrap(), "content");
    assert_eq!(fs::read_to_string(daemon.mount().join("active/half/file")).unwrap(), "content");
    assert_eq!(daemon.ok(&["check"]), "sound: the store and the backend agree\n");
}

#[test]
fn a_file_that_stays_open_does_not_keep_the_daemon_from_stopping() {
    let mut daemon = Daemon::start();
    let dir = daemon.prepare("k", None);
    write(&dir, "file", "content");
    let mut open = fs::File::open(dir.join("file")).unwrap();
    daemon.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    // A second signal hurries; it may find the daemon gone already.
    let _ = kill_process(Pid::from_child(&daemon.child), Signal::TERM);
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert!(!daemon.is_mounted());
    // Whether the kernel still has the page is its business; the read ends in any case.
    let _ = open.read(&mut [0; 8]);
}

#[test]
fn a_second_daemon_on_the_root_is_refused_with_the_pid_of_the_first() {
    let daemon = Daemon::start();
    let (code, said) = daemon.fails(&["serve", "--backend", &backend()]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("(pid {})", daemon.child.id())), "{said}");
    assert!(said.contains("help: "), "{said}");
    daemon.ok(&["status"]);
}

#[test]
fn a_mount_point_with_files_in_it_is_refused() {
    let (root, mount) = (temporary(), temporary());
    write(mount.path(), "precious", "");
    let mut serve = thinfs();
    serve
        .args(["serve", "--backend", "native", "--root"])
        .arg(root.path())
        .arg("--mount")
        .arg(mount.path());
    let output = serve.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not empty"), "{said}");
}

#[test]
fn a_root_that_holds_data_of_one_backend_refuses_the_other() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let other = if backend() == "thin" { "native" } else { "thin" };
    let (code, said) = daemon.fails(&["serve", "--backend", other]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("holds the data of the {} backend", backend())), "{said}");
}

#[test]
fn open_files_and_bind_mounts_are_cut_off_at_the_stop() {
    let mut daemon = Daemon::start();
    let dir = daemon.prepare("k", None);
    write(&dir, "file", "content");
    let elsewhere = temporary();
    let bound = Bound::mount(&dir, elsewhere.path());
    let open = fs::File::open(elsewhere.path().join("file")).unwrap();
    daemon.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    // It may be gone already; if not, this hurries it.
    let _ = kill_process(Pid::from_child(&daemon.child), Signal::INT);
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert!(!daemon.is_mounted());
    let dead = fs::metadata(elsewhere.path().join("another")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(107), "ENOTCONN");
    drop((open, bound));
    let daemon = Daemon::start_in(daemon.take_root());
    assert_eq!(fs::read_to_string(daemon.mount().join("active/k/file")).unwrap(), "content");
}

/// A bind mount, for its life.
struct Bound(PathBuf);

impl Bound {
    fn mount(from: &Path, to: &Path) -> Self {
        assert!(Command::new("mount").arg("--bind").args([from, to]).status().unwrap().success());
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_daemon_whose_mount_somebody_takes_away_stops_with_an_error() {
    let mut daemon = Daemon::start();
    assert!(Command::new("umount").arg(daemon.mount()).status().unwrap().success());
    assert_eq!(daemon.wait(), Some(1));
    assert!(daemon.log().contains("was unmounted by somebody else"), "{}", daemon.log());
    assert!(!daemon.root.path().join("thinfs.sock").exists());
}

#[test]
fn the_service_manager_is_told_and_the_log_can_be_json() {
    let notices = temporary();
    let socket = UnixDatagram::bind(notices.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = Daemon::start_with(temporary(), |serve| {
        serve.args(["--log-format", "json"]).env("NOTIFY_SOCKET", notices.path().join("notify"));
    });
    // The mount's descriptor is given to the service manager to keep, and taken back: `survival` tests that.
    let heard = || loop {
        let mut notice = [0; 64];
        let len = socket.recv(&mut notice).unwrap();
        let notice = String::from_utf8_lossy(&notice[..len]).trim_end().to_owned();
        if !notice.starts_with("FDSTORE") {
            break notice;
        }
    };
    assert_eq!(heard(), "READY=1");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(heard(), "STOPPING=1");
    let lines: Vec<Value> =
        daemon.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let chosen = format!("backend {}: asked for", backend());
    assert_eq!(lines.iter().filter(|line| line["fields"]["message"] == chosen.as_str()).count(), 1);
}

#[test]
fn exit_codes_and_messages_say_what_went_wrong_and_what_to_do() {
    let mut daemon = Daemon::start();
    daemon.prepare("k", None);
    daemon.ok(&["commit", "k", "base"]);
    daemon.prepare("child", Some("base"));
    for (args, code, says) in [
        (
            &["info", "nothing"][..],
            3,
            "thinfs: cannot show \"nothing\": snapshot \"nothing\" not found",
        ),
        (&["prepare", "x", "--parent", "nothing"], 3, "parent snapshot \"nothing\" not found"),
        (&["prepare", "child"], 4, "already exists"),
        (&["prepare", "x", "--parent", "child"], 2, "only a committed snapshot can be a parent"),
        (&["rm", "base"], 5, "remove"),
        (&["mounts", "base"], 5, "committed"),
        (&["commit", "base", "again"], 5, "base"),
        (&["ls", "--filter", "kind=!x"], 2, "filter"),
        (&["ls", "--namespace", "a/b"], 2, "namespace"),
        (&["rm", "nothing", "child", "neither"], 3, "2 of 3 could not be removed"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let (got, said) = daemon.fails(args);
        assert_eq!(got, code, "{args:?}: {said}\n{}", daemon.log());
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert!(
        daemon.fails(&["info", "child"]).0 == 3,
        "rm went on after the key that it could not remove"
    );
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let (code, said) = daemon.fails(&["ls"]);
    assert_eq!(code, 6);
    assert!(said.contains("start it with `thinfs serve`"), "{said}");
}

#[test]
fn filters_labels_and_namespaces_reach_the_rules() {
    let daemon = Daemon::start();
    daemon.ok(&["prepare", "a", "--label", "owner=ci"]);
    daemon.ok(&["prepare", "b", "--label", "owner=me", "--label", "x=1"]);
    daemon.ok(&["prepare", "a", "--namespace", "other"]);
    let keys = |args: &[&str]| -> Vec<String> {
        daemon.json(args).iter().map(|s| s["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["ls", "--filter", "labels.\"owner\"==ci"]), ["a"]);
    assert_eq!(keys(&["ls", "--filter", "name~=^[ab]$", "--kind", "active"]), ["a", "b"]);
    assert_eq!(keys(&["ls", "--kind", "committed"]), [""; 0]);
    assert_eq!(keys(&["ls", "--namespace", "other"]), ["a"]);
    assert!(daemon.mount().join(".ns/other/active/a").is_dir());
    daemon.ok(&["label", "b", "x=", "y=2"]);
    assert_eq!(
        daemon.json(&["info", "b"])[0]["labels"],
        serde_json::json!({"owner": "me", "y": "2"})
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let daemon = Daemon::start();
    daemon.prepare("k", None);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status =
        thinfs().arg("--root").arg(daemon.root.path()).arg("ls").stdout(writer).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_root_and_the_socket_keep_other_users_out() {
    let daemon = Daemon::start();
    let mode = |name: &str| {
        fs::metadata(daemon.root.path().join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode(""), 0o711);
    for private in ["meta", &backend()] {
        assert_eq!(mode(private), 0o700, "{private}");
    }
    assert_eq!(mode("thinfs.sock"), 0o600);
    assert_eq!(mode("thinfs.lock"), 0o600);
}

/// A client of containerd's protocol.
async fn snapshotter(daemon: &Daemon) -> SnapshotsClient<Channel> {
    let socket = daemon.root.path().join("thinfs.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    SnapshotsClient::new(endpoint.connect().await.unwrap())
}

fn prepare_request(key: &str, parent: &str) -> containerd::PrepareSnapshotRequest {
    containerd::PrepareSnapshotRequest {
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_prepares_mounts_commits_and_removes() {
    let daemon = Daemon::start();
    let mut client = snapshotter(&daemon).await;
    let mounts =
        client.prepare(prepare_request("default/1/a b", "")).await.unwrap().into_inner().mounts;
    assert_eq!(mounts.len(), 1);
    let dir = daemon.mount().join(".ns/containerd/active/default%2F1%2Fa b");
    assert_eq!((mounts[0].r#type.as_str(), Path::new(&mounts[0].source)), ("bind", dir.as_path()));
    assert_eq!(mounts[0].options, ["rbind", "rw"]);
    write(&dir, "file", "content");

    let commit = containerd::CommitSnapshotRequest {
        name: "base".into(),
        key: "default/1/a b".into(),
        ..Default::default()
    };
    client.commit(commit).await.unwrap();
    let request = containerd::MountsRequest { key: "base".into(), ..Default::default() };
    assert_eq!(client.mounts(request).await.unwrap_err().code(), Code::FailedPrecondition);

    let request = containerd::ViewSnapshotRequest {
        key: "v".into(),
        parent: "base".into(),
        ..Default::default()
    };
    let mounts = client.view(request).await.unwrap().into_inner().mounts;
    assert_eq!(mounts[0].options, ["rbind", "ro"]);
    assert_eq!(fs::read_to_string(Path::new(&mounts[0].source).join("file")).unwrap(), "content");

    let request = containerd::UsageRequest { key: "base".into(), ..Default::default() };
    let usage = client.usage(request).await.unwrap().into_inner();
    assert!(usage.inodes >= 1 && usage.size >= 0, "{usage:?}");

    let remove =
        |key: &str| containerd::RemoveSnapshotRequest { key: key.into(), ..Default::default() };
    let refused = client.remove(remove("base")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove"), "{refused}");
    client.remove(remove("v")).await.unwrap();
    client.remove(remove("base")).await.unwrap();
    assert_eq!(client.remove(remove("base")).await.unwrap_err().code(), Code::NotFound);
    client.cleanup(containerd::CleanupRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_lists_in_batches_of_a_hundred_and_sees_its_own_namespace_only() {
    let daemon = Daemon::start();
    daemon.prepare("of-the-command-line", None);
    let mut client = snapshotter(&daemon).await;
    for i in 0..250 {
        client.prepare(prepare_request(&format!("k{i}"), "")).await.unwrap();
    }
    let request = containerd::ListSnapshotsRequest::default();
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut batches = Vec::new();
    while let Some(reply) = stream.message().await.unwrap() {
        assert!(
            reply
                .info
                .iter()
                .all(|info| info.name.starts_with('k') && info.created_at == info.updated_at)
        );
        batches.push(reply.info.len());
    }
    assert_eq!(batches, [100, 100, 50]);
    let filters = vec!["name==k7".to_owned(), "name==k9,kind==view".to_owned()];
    let request = containerd::ListSnapshotsRequest { filters, ..Default::default() };
    let reply = client.list(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(reply.info.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["k7"]);
    let request =
        containerd::ListSnapshotsRequest { filters: vec!["=".into()], ..Default::default() };
    let refused = client.list(request).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_updates_labels_by_mask() {
    let daemon = Daemon::start();
    let mut client = snapshotter(&daemon).await;
    client.prepare(prepare_request("k", "")).await.unwrap();
    let request = |labels: &[(&str, &str)], paths: &[&str]| containerd::UpdateSnapshotRequest {
        info: Some(containerd::Info {
            name: "k".into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|p| (*p).into()).collect(),
        }),
        ..Default::default()
    };
    let mut update = async |labels: &[(&str, &str)], paths: &[&str]| {
        let info = client
            .update(request(labels, paths))
            .await
            .map(|reply| reply.into_inner().info.unwrap());
        info.map(|info| info.labels.into_iter().collect::<Vec<_>>()).map_err(|status| status.code())
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(
        update(&[("a", "1"), ("b", "2")], &[]).await,
        Ok(vec![pair("a", "1"), pair("b", "2")])
    );
    assert_eq!(update(&[("b", "3")], &["labels.a", "labels.b"]).await, Ok(vec![pair("b", "3")]));
    assert_eq!(update(&[("c", "4")], &["labels"]).await, Ok(vec![pair("c", "4")]));
    assert_eq!(update(&[], &["parent"]).await, Err(Code::InvalidArgument));
}
