//! The program itself, on the native backend: the daemon's start and stop, the command line, and
//! containerd's protocol on the socket. Needs root and /dev/fuse, and fails without them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
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
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(root: TempDir) -> Self {
        let log = fs::File::options().create(true).append(true).open(root.path().join("../").join(log_name(&root)));
        let child = thinfs()
            .args(["serve", "--backend", "native", "--root"])
            .arg(root.path())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
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

    fn log_path(&self) -> PathBuf {
        self.root.path().parent().unwrap().join(log_name(&self.root))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
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
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
        }
        let _ = fs::remove_file(self.log_path());
    }
}

/// Beside the root, not inside: a root that holds strange files is refused.
fn log_name(root: &TempDir) -> String {
    format!("{}.log", root.path().file_name().unwrap().to_str().unwrap())
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

    let committed = PathBuf::from(daemon.ok(&["commit", "base-1", "base", "--label", "release=1"]).trim_end());
    assert_eq!(committed, daemon.mount().join("committed/base"));
    assert!(!dir.exists(), "the key is gone");
    assert_eq!(fs::read_to_string(committed.join("etc/motd")).unwrap(), "hello");
    assert_eq!(fs::write(committed.join("etc/motd"), "x").unwrap_err().raw_os_error(), Some(30), "EROFS");

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
    let keys: Vec<_> = list.iter().map(|s| (s["key"].as_str().unwrap(), s["kind"].as_str().unwrap())).collect();
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
    let root = std::mem::replace(&mut daemon.root, tempfile::tempdir().unwrap());
    let daemon = Daemon::start_in(root);
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
    let root = std::mem::replace(&mut daemon.root, tempfile::tempdir().unwrap());
    let daemon = Daemon::start_in(root);
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
    let (code, said) = daemon.fails(&["serve", "--backend", "native"]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("(pid {})", daemon.child.id())), "{said}");
    assert!(said.contains("help: "), "{said}");
    daemon.ok(&["status"]);
}

#[test]
fn a_mount_point_with_files_in_it_is_refused() {
    let (root, mount) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(mount.path(), "precious", "");
    let mut serve = thinfs();
    serve.args(["serve", "--backend", "native", "--root"]).arg(root.path()).arg("--mount").arg(mount.path());
    let output = serve.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not empty"), "{said}");
}

#[test]
fn a_root_that_holds_native_data_refuses_the_thin_backend() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let (code, said) = daemon.fails(&["serve", "--backend", "thin"]);
    assert_eq!(code, 1);
    assert!(said.contains("holds the data of the native backend"), "{said}");
}

#[test]
fn exit_codes_and_messages_say_what_went_wrong_and_what_to_do() {
    let mut daemon = Daemon::start();
    daemon.prepare("k", None);
    daemon.ok(&["commit", "k", "base"]);
    daemon.prepare("child", Some("base"));
    for (args, code, says) in [
        (&["info", "nothing"][..], 3, "thinfs: cannot show \"nothing\": snapshot \"nothing\" not found"),
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
        assert_eq!(got, code, "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert!(daemon.fails(&["info", "child"]).0 == 3, "rm went on after the key that it could not remove");
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
    assert_eq!(daemon.json(&["info", "b"])[0]["labels"], serde_json::json!({"owner": "me", "y": "2"}));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let daemon = Daemon::start();
    daemon.prepare("k", None);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = thinfs().arg("--root").arg(daemon.root.path()).arg("ls").stdout(writer).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_root_and_the_socket_keep_other_users_out() {
    let daemon = Daemon::start();
    let mode = |name: &str| fs::metadata(daemon.root.path().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o711);
    for private in ["meta", "native"] {
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
    containerd::PrepareSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_prepares_mounts_commits_and_removes() {
    let daemon = Daemon::start();
    let mut client = snapshotter(&daemon).await;
    let mounts = client.prepare(prepare_request("default/1/a b", "")).await.unwrap().into_inner().mounts;
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

    let request = containerd::ViewSnapshotRequest { key: "v".into(), parent: "base".into(), ..Default::default() };
    let mounts = client.view(request).await.unwrap().into_inner().mounts;
    assert_eq!(mounts[0].options, ["rbind", "ro"]);
    assert_eq!(fs::read_to_string(Path::new(&mounts[0].source).join("file")).unwrap(), "content");

    let request = containerd::UsageRequest { key: "base".into(), ..Default::default() };
    let usage = client.usage(request).await.unwrap().into_inner();
    assert!(usage.inodes >= 1 && usage.size >= 0, "{usage:?}");

    let remove = |key: &str| containerd::RemoveSnapshotRequest { key: key.into(), ..Default::default() };
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
        assert!(reply.info.iter().all(|info| info.name.starts_with('k') && info.created_at == info.updated_at));
        batches.push(reply.info.len());
    }
    assert_eq!(batches, [100, 100, 50]);
    let filters = vec!["name==k7".to_owned(), "name==k9,kind==view".to_owned()];
    let request = containerd::ListSnapshotsRequest { filters, ..Default::default() };
    let reply = client.list(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(reply.info.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["k7"]);
    let request = containerd::ListSnapshotsRequest { filters: vec!["=".into()], ..Default::default() };
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
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).into()).collect() }),
        ..Default::default()
    };
    let mut update = async |labels: &[(&str, &str)], paths: &[&str]| {
        let info = client.update(request(labels, paths)).await.map(|reply| reply.into_inner().info.unwrap());
        info.map(|info| info.labels.into_iter().collect::<Vec<_>>()).map_err(|status| status.code())
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(update(&[("a", "1"), ("b", "2")], &[]).await, Ok(vec![pair("a", "1"), pair("b", "2")]));
    assert_eq!(update(&[("b", "3")], &["labels.a", "labels.b"]).await, Ok(vec![pair("b", "3")]));
    assert_eq!(update(&[("c", "4")], &["labels"]).await, Ok(vec![pair("c", "4")]));
    assert_eq!(update(&[], &["parent"]).await, Err(Code::InvalidArgument));
}
