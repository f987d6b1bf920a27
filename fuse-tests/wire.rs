//! containerd's protocol, byte for byte: requests as the protos of containerd 1.6, 1.7 and 2 have them, written down here
//! once more by field number, so that a slip in our own protos can't hide itself.

use std::collections::BTreeMap;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::harness::Daemon;

type Labels = BTreeMap<String, String>;

/// Prepare and View: the same in all versions.
#[derive(Clone, PartialEq, prost::Message)]
struct New {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: Labels,
}

/// Mounts, Remove, Stat, Usage: the same in all versions.
#[derive(Clone, PartialEq, prost::Message)]
struct Key {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

/// Commit up to containerd 1.7 and 2.0.
#[derive(Clone, PartialEq, prost::Message)]
struct CommitBefore {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: Labels,
}

/// Commit of later ones, which know rebase; and a field that none has yet.
#[derive(Clone, PartialEq, prost::Message)]
struct CommitAfter {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: Labels,
    #[prost(string, tag = "5")]
    parent: String,
    #[prost(string, tag = "2000")]
    of_the_future: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    parent: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, optional, tag = "4")]
    created_at: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "5")]
    updated_at: Option<prost_types::Timestamp>,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: Labels,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Update {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "3")]
    update_mask: Option<prost_types::FieldMask>,
}

/// The answer of Stat and Update.
#[derive(Clone, PartialEq, prost::Message)]
struct One {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct List {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, repeated, tag = "2")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    info: Vec<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    target: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    size: i64,
    #[prost(int64, tag = "2")]
    inodes: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cleanup {
    #[prost(string, tag = "1")]
    snapshotter: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

const VIEW: i32 = 1;
const ACTIVE: i32 = 2;
const COMMITTED: i32 = 3;

/// A client that says what it is told to; `namespace` is the header, if one is to be sent.
struct Client {
    channel: Channel,
    namespace: Option<&'static str>,
}

impl Client {
    async fn connect(d: &Daemon, namespace: Option<&'static str>) -> Client {
        let endpoint = Endpoint::from_shared(format!("unix://{}", d.socket().display())).unwrap();
        Client { channel: endpoint.connect().await.unwrap(), namespace }
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(namespace) = self.namespace {
            request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
        }
        request
    }

    async fn call<Q, A>(&self, method: &str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<Q, A>::default();
        grpc.unary(self.request(message), path(method), codec).await.map(|r| r.into_inner())
    }

    async fn list(&self, filters: &[&str]) -> Vec<Info> {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        let list = List { snapshotter: "thinfs".into(), filters };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<List, Listed>::default();
        let stream = grpc.server_streaming(self.request(list), path("List"), codec).await;
        let mut stream = stream.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(batch) = stream.message().await.unwrap() {
            all.extend(batch.info);
        }
        all
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Mounts, Status> {
        self.call("Prepare", new(key, parent)).await
    }

    async fn stat(&self, name: &str) -> Result<Info, Status> {
        self.call::<_, One>("Stat", key(name)).await.map(|one| one.info.unwrap())
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/containerd.services.snapshots.v1.Snapshots/{method}").parse().unwrap()
}

fn new(key: &str, parent: &str) -> New {
    let labels = Labels::from([("containerd.io/snapshot.ref".to_owned(), key.to_owned())]);
    New { snapshotter: "thinfs".into(), key: key.into(), parent: parent.into(), labels }
}

fn key(key: &str) -> Key {
    Key { snapshotter: "thinfs".into(), key: key.into() }
}

fn commit(name: &str, key: &str, parent: &str) -> CommitAfter {
    let (snapshotter, of_the_future) = ("thinfs".into(), "anything".into());
    let (name, key, parent) = (name.into(), key.into(), parent.into());
    CommitAfter { snapshotter, name, key, labels: Labels::new(), parent, of_the_future }
}

/// One life of an image and a container, as each version's client puts it, with and without the header that names
/// containerd's namespace (its collector sends none).
#[test]
fn requests_of_each_containerd_version_are_understood() {
    let d = Daemon::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for rebases in [false, true] {
        for namespace in [None, Some("default"), Some("k8s.io")] {
            runtime.block_on(one_life(&d, rebases, namespace));
        }
    }
    d.finish();
}

async fn one_life(d: &Daemon, rebases: bool, namespace: Option<&'static str>) {
    let c = Client::connect(d, namespace).await;
    let mounts = c.prepare("default/1/extract-1 sha256:a", "").await.unwrap().mounts;
    let shown = d.mount().join(".ns/containerd/active/default%2F1%2Fextract-1 sha256:a");
    let expected = Mount {
        r#type: "bind".into(),
        source: shown.to_str().unwrap().into(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    };
    assert_eq!(mounts, [expected]);
    std::fs::write(shown.join("file"), "text").unwrap();
    let again: Mounts = c.call("Mounts", key("default/1/extract-1 sha256:a")).await.unwrap();
    assert_eq!(again.mounts, mounts);

    let active = c.stat("default/1/extract-1 sha256:a").await.unwrap();
    assert_eq!((active.kind, active.created_at == active.updated_at), (ACTIVE, true));
    assert_eq!(active.labels["containerd.io/snapshot.ref"], active.name);

    let committed = match rebases {
        false => {
            let CommitAfter { snapshotter, name, key, labels, .. } =
                commit("default/2/sha256:a", "default/1/extract-1 sha256:a", "");
            let before = CommitBefore { snapshotter, name, key, labels };
            c.call::<_, Empty>("Commit", before).await
        }
        true => {
            let after = commit("default/2/sha256:a", "default/1/extract-1 sha256:a", "");
            c.call::<_, Empty>("Commit", after).await
        }
    };
    committed.unwrap();

    // Up to 1.7 a Go client sends its zero times: the first of January of the year 1.
    let never = Some(prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 });
    let labels = Labels::from([("a".to_owned(), "1".to_owned())]);
    let info = Info {
        name: "default/2/sha256:a".into(),
        created_at: never,
        updated_at: if rebases { None } else { never },
        labels: labels.clone(),
        ..Info::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels.a".into()] });
    let update = Update { snapshotter: "thinfs".into(), info: Some(info), update_mask };
    let updated = c.call::<_, One>("Update", update).await.unwrap().info.unwrap();
    assert_eq!((updated.kind, updated.labels), (COMMITTED, labels));
    assert!(updated.created_at.unwrap().seconds > 1_700_000_000);

    let view: Mounts = c.call("View", new("default/3/v", "default/2/sha256:a")).await.unwrap();
    assert_eq!(view.mounts[0].options, ["rbind", "ro"]);
    let listed = c.list(&["kind==view,parent==\"default/2/sha256:a\""]).await;
    assert_eq!(
        listed.iter().map(|i| (i.kind, i.name.as_str())).collect::<Vec<_>>(),
        [(VIEW, "default/3/v")]
    );
    let usage: Usage = c.call("Usage", key("default/2/sha256:a")).await.unwrap();
    assert!(usage.size > 0 && usage.inodes > 0, "{usage:?}");

    let refused = c.call::<_, Empty>("Remove", key("default/2/sha256:a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for name in ["default/3/v", "default/2/sha256:a"] {
        c.call::<_, Empty>("Remove", key(name)).await.unwrap();
    }
    c.call::<_, Empty>("Cleanup", Cleanup { snapshotter: "thinfs".into() }).await.unwrap();
    assert!(c.list(&[]).await.is_empty());
}

#[test]
fn a_commit_onto_another_parent_is_field_five_and_its_rules_are_containerds() {
    let d = Daemon::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let c = Client::connect(&d, None).await;
        let commit = async |name, key, parent| {
            c.call::<_, Empty>("Commit", commit(name, key, parent)).await.map_err(|s| s.code())
        };
        for (name, key) in [("base", "b"), ("other", "o")] {
            c.prepare(key, "").await.unwrap();
            commit(name, key, "").await.unwrap();
        }
        c.prepare("alone", "").await.unwrap();
        c.prepare("child", "base").await.unwrap();
        assert_eq!(commit("x", "alone", "missing").await, Err(Code::NotFound));
        assert_eq!(commit("x", "alone", "child").await, Err(Code::FailedPrecondition));
        assert_eq!(commit("x", "child", "other").await, Err(Code::InvalidArgument));
        commit("on-base", "child", "base").await.unwrap();
        commit("rebased", "alone", "base").await.unwrap();
        assert_eq!(c.stat("rebased").await.unwrap().parent, "base");
        let children = c.list(&["parent==base"]).await;
        assert_eq!(children.len(), 2, "{children:?}");
    });
    d.finish();
}

/// containerd's keys carry its namespace already; a server that filtered by the header would hide everything from
/// containerd's collector.
#[test]
fn the_namespace_header_selects_nothing() {
    let d = Daemon::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let made = Client::connect(&d, Some("moby")).await;
        made.prepare("moby/1/k", "").await.unwrap();
        for namespace in [None, Some("moby"), Some("k8s.io")] {
            let c = Client::connect(&d, namespace).await;
            assert_eq!(c.list(&[]).await.len(), 1, "{namespace:?}");
            assert_eq!(c.prepare("moby/1/k", "").await.unwrap_err().code(), Code::AlreadyExists);
        }
        let collector = Client::connect(&d, None).await;
        collector.call::<_, Empty>("Remove", key("moby/1/k")).await.unwrap();
    });
    d.finish();
}

/// On thin they are made in groups. In one connection, as containerd has it.
#[test]
fn of_a_hundred_prepares_at_once_each_is_answered_as_if_it_came_alone() {
    let d = Daemon::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let c = std::sync::Arc::new(Client::connect(&d, None).await);
        let mounts = c.prepare("preparing", "").await.unwrap().mounts;
        std::fs::write(format!("{}/inherited", mounts[0].source), "text").unwrap();
        c.call::<_, Empty>("Commit", commit("base", "preparing", "")).await.unwrap();
        let wish = |n: usize| match n % 20 {
            7 => (format!("orphan-{n}"), "nobody"),
            // Twice each.
            8 | 9 => (format!("contested-{}", n / 20), "base"),
            10 => (format!("empty-{n}"), ""),
            11 => ("base".to_owned(), "base"),
            _ => (format!("many-{n}"), "base"),
        };
        let prepare = |n: usize| {
            let (c, (key, parent)) = (c.clone(), wish(n));
            tokio::spawn(async move { c.prepare(&key, parent).await })
        };
        let calls: Vec<_> = (0..100).map(prepare).collect();
        let mut contested = 0;
        for (n, call) in calls.into_iter().enumerate() {
            let (outcome, (key, parent)) = (call.await.unwrap(), wish(n));
            let code = outcome.as_ref().err().map(Status::code);
            match n % 20 {
                7 => assert_eq!(code, Some(Code::NotFound), "{key}: {outcome:?}"),
                11 => assert_eq!(code, Some(Code::AlreadyExists), "{key}: {outcome:?}"),
                8 | 9 if code.is_some() => {
                    assert_eq!(code, Some(Code::AlreadyExists), "{outcome:?}")
                }
                kind => {
                    contested += usize::from(kind == 8 || kind == 9);
                    let source = outcome.unwrap().mounts.remove(0).source;
                    assert!(source.ends_with(&format!("active/{key}")), "{source}");
                    let inherited = std::fs::read(format!("{source}/inherited")).is_ok();
                    assert_eq!(inherited, parent == "base", "{key}");
                    let found = c.stat(&key).await.unwrap();
                    assert_eq!((found.kind, found.parent.as_str()), (ACTIVE, parent), "{key}");
                    assert_eq!(found.labels["containerd.io/snapshot.ref"], key);
                    c.call::<_, Empty>("Remove", self::key(&key)).await.unwrap();
                }
            }
        }
        assert_eq!(contested, 5, "exactly one gets each key");
        assert_eq!(c.list(&[]).await.len(), 1, "the parent alone");
    });
    assert_eq!(d.json(&["check"])["sound"], true, "{}", d.log());
    d.finish();
}
