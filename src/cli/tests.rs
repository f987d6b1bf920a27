//! How the output looks, to the letter: people read it and programs parse it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::{CommandFactory, Parser};
use prost_types::Timestamp;

use super::output::{Out, quoted_path, shell_word, size};
use super::*;
use crate::grpc::proto::containerd::types::Mount;
use crate::grpc::proto::thinfs::admin::v1 as admin;

const NOW: i64 = 1_700_000_000;

fn printed(json: bool, print: impl FnOnce(&mut Out) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    let mut out = Out::new(&mut bytes, json);
    out.now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW as u64 * 1000 + 5);
    print(&mut out).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn snapshot(
    key: &str,
    kind: admin::Kind,
    parent: &str,
    usage: Option<(u64, u64)>,
) -> admin::Snapshot {
    let time = Timestamp { seconds: NOW - 7200, nanos: 5_000_000 };
    admin::Snapshot {
        namespace: "default".into(),
        key: key.into(),
        kind: kind as i32,
        parent: parent.into(),
        id: 7,
        labels: BTreeMap::from([("owner".into(), "ci".into()), ("stage".into(), "1".into())]),
        created: Some(time),
        updated: Some(time),
        usage: usage.map(|(size, inodes)| admin::Usage { size, inodes }),
        path: format!("/mnt/{key}"),
    }
}

fn some_snapshots() -> Vec<admin::Snapshot> {
    use admin::Kind::{Active, Committed, View};
    vec![
        snapshot("base", Committed, "", Some((20 << 20, 1234))),
        snapshot("look", View, "base", Some((0, 0))),
        snapshot("odd\nkey", Active, "", None),
        snapshot("web", Committed, "base", Some((1536, 3))),
        snapshot("web-1", Active, "web", Some((4096, 1))),
    ]
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn ls_is_an_aligned_table() {
    let text = printed(false, |out| list::print_list(some_snapshots(), out));
    let expected = "\
KEY       KIND       PARENT     SIZE  INODES  AGE
base      committed  -        20 MiB    1234   2h
look      view       base        0 B       0   2h
odd\\nkey  active     -             -       -   2h
web       committed  base    1.5 KiB       3   2h
web-1     active     web       4 KiB       1   2h
";
    assert_eq!(text, expected);
}

#[test]
fn an_empty_list_prints_nothing() {
    assert_eq!(printed(false, |out| list::print_list(Vec::new(), out)), "");
    assert_eq!(printed(true, |out| list::print_list(Vec::new(), out)), "");
}

#[test]
fn ls_for_programs_is_an_object_a_line() {
    let all = some_snapshots().split_off(3);
    let text = printed(true, |out| list::print_list(all, out));
    let expected = concat!(
        r#"{"namespace":"default","key":"web","kind":"committed","parent":"base","id":7,"#,
        r#""labels":{"owner":"ci","stage":"1"},"created":"2023-11-14T20:13:20.005Z","#,
        r#""updated":"2023-11-14T20:13:20.005Z","usage":{"size":1536,"inodes":3},"path":"/mnt/web"}"#,
    );
    assert_eq!(text.lines().next(), Some(expected));
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn tree_draws_parents_above_their_children() {
    let text = printed(false, |out| tree::print_tree(some_snapshots(), out));
    let expected = "\
SNAPSHOT       KIND          SIZE  INODES
base           committed   20 MiB    1234
├── look       view           0 B       0
└── web        committed  1.5 KiB       3
    └── web-1  active       4 KiB       1
odd\\nkey       active           -       -
";
    assert_eq!(text, expected);
}

#[test]
fn tree_copes_with_long_chains_and_absent_parents() {
    let chain = (0..2000).map(|i| {
        let parent = if i == 0 { "gone".to_owned() } else { format!("s{}", i - 1) };
        snapshot(&format!("s{i}"), admin::Kind::Committed, &parent, None)
    });
    let text = printed(true, |out| tree::print_tree(chain.collect(), out));
    assert!(
        text.lines()
            .next_back()
            .unwrap()
            .starts_with(r#"{"depth":1999,"namespace":"default","key":"s1999""#)
    );
}

#[test]
fn info_shows_everything_a_line_each() {
    let text = printed(false, |out| snapshots::print_info(&some_snapshots()[3], out));
    let expected = "\
Key:       web
Kind:      committed
Parent:    base
Namespace: default
Id:        7
Created:   2023-11-14T20:13:20.005Z
Updated:   2023-11-14T20:13:20.005Z
Usage:     1.5 KiB (1536 bytes), 3 inodes
Path:      /mnt/web
Labels:    owner=ci
           stage=1
";
    assert_eq!(text, expected);
}

#[test]
fn usage_is_a_table_or_lines() {
    let usages = [("web".to_owned(), admin::Usage { size: 1536, inodes: 3 })];
    let nothing_shared = admin::SpaceReply::default();
    let text = printed(false, |out| space::print_usages(&usages, &nothing_shared, out));
    assert_eq!(text, "KEY     SIZE  INODES\nweb  1.5 KiB       3\n");
    let json = printed(true, |out| space::print_usages(&usages, &nothing_shared, out));
    assert_eq!(
        json,
        "{\"key\":\"web\",\"size\":1536,\"inodes\":3,\"exclusive\":null,\"shared\":null}\n"
    );
    let web = admin::SnapshotSpace { key: "web".into(), exclusive: 1024, shared: 8192 };
    let pool = admin::PoolSpace { used: 20480, shared: 8192, others: 11264 };
    let space = admin::SpaceReply { snapshots: vec![web], pool: Some(pool) };
    let text = printed(false, |out| space::print_usages(&usages, &space, out));
    let expected = "\
KEY     SIZE  INODES  ALONE  SHARED
web  1.5 KiB       3  1 KiB   8 KiB

20 KiB used: 1 KiB alone, 8 KiB shared, 11 KiB others (bases of empty snapshots, other namespaces, removed)
";
    assert_eq!(text, expected);
    let json = printed(true, |out| space::print_usages(&usages, &space, out));
    assert!(json.contains("\"exclusive\":1024,\"shared\":8192"), "{json}");
}

#[test]
fn mounts_ends_in_a_command_to_copy() {
    let options = vec!["rbind".to_owned(), "ro".to_owned()];
    let mount =
        Mount { r#type: "bind".into(), source: "/m/view/a b".into(), options, ..Mount::default() };
    let mounts = [mount];
    let text = printed(false, |out| snapshots::print_mounts(&mounts, out));
    let expected = "\
TYPE  OPTIONS   SOURCE
bind  rbind,ro  /m/view/a b

mount -o rbind,ro '/m/view/a b' DIR
";
    assert_eq!(text, expected);
    let json = printed(true, |out| snapshots::print_mounts(&mounts, out));
    assert_eq!(
        json,
        "{\"type\":\"bind\",\"source\":\"/m/view/a b\",\"options\":[\"rbind\",\"ro\"]}\n"
    );
}

#[test]
fn diff_lines_look_like_git_status() {
    use admin::ChangeKind::{Added, Deleted, Modified};
    let changes = [(Added, &b"etc/new"[..]), (Modified, b"odd\xff\n"), (Deleted, b"etc/old file")];
    let print = |out: &mut Out| {
        changes.iter().try_for_each(|(kind, path)| {
            diff::print_change(&admin::Change { kind: *kind as i32, path: path.to_vec() }, out)
        })
    };
    assert_eq!(printed(false, print), "A etc/new\nM \"odd\\377\\n\"\nD etc/old file\n");
    let json = printed(true, print);
    let expected = "\
{\"change\":\"added\",\"path\":\"etc/new\"}
{\"change\":\"modified\",\"path\":\"odd\u{fffd}\\n\",\"path_hex\":\"6f6464ff0a\"}
{\"change\":\"deleted\",\"path\":\"etc/old file\"}
";
    assert_eq!(json, expected);
}

#[test]
fn gc_says_what_it_did() {
    let item = |id: &str, why: &str| admin::GcItem {
        namespace: "default".into(),
        kind: "snapshot".into(),
        id: id.into(),
        why: why.into(),
    };
    let reply = admin::GcReply {
        destroyed: 3,
        waiting: 1,
        failed: vec!["volume 9: busy".into()],
        collected: vec![item("a", "nothing refers to it")],
        stayed: vec![item("b", "files of it are open")],
        ..Default::default()
    };
    let text = printed(false, |out| gc::print_gc(reply.clone(), false, out));
    let expected = "\
1 collected, 3 destroyed, 1 still in use, 1 failed
NAMESPACE  KIND      ID  WHY
default    snapshot  b   files of it are open
failed: volume 9: busy
";
    assert_eq!(text, expected);
    let dry = admin::GcReply {
        collected: reply.collected.clone(),
        expired: vec!["default/l".into()],
        ..Default::default()
    };
    let text = printed(false, |out| gc::print_gc(dry, true, out));
    let expected = "\
NAMESPACE  KIND      ID  WHY
default    snapshot  a   nothing refers to it
1 would be collected
lease default/l has expired
";
    assert_eq!(text, expected);
    let json = printed(true, |out| gc::print_gc(reply, false, out));
    let expected = r#"{"destroyed":3,"waiting":1,"failed":["volume 9: busy"],"collected":[{"namespace":"default","kind":"snapshot","id":"a","why":"nothing refers to it"}],"#;
    assert!(json.starts_with(expected), "{json}");
}

#[test]
fn leases_and_namespaces_are_tables_and_lines() {
    let lease = admin::Lease {
        namespace: "default".into(),
        id: "l".into(),
        labels: BTreeMap::from([("owner".into(), "ci".into())]),
        created: Some(Timestamp { seconds: NOW - 90, nanos: 0 }),
        expires: Some(Timestamp { seconds: NOW, nanos: 0 }),
        resources: vec![admin::Resource { kind: "snapshot".into(), id: "web".into() }],
    };
    let text = printed(false, |out| lease::print_leases(vec![lease.clone()], out));
    let expected = "\
LEASE  AGE  EXPIRES               LABELS
l      1m   2023-11-14T22:13:20Z  owner=ci
";
    assert_eq!(text, expected);
    let text = printed(false, |out| lease::print_lease(lease.clone(), out));
    assert!(text.ends_with("Labels:    owner=ci\nHolds:     snapshot web\n"), "{text}");
    let json = printed(true, |out| lease::print_lease(lease, out));
    assert!(json.ends_with("\"resources\":[{\"kind\":\"snapshot\",\"id\":\"web\"}]}\n"), "{json}");
    let ns = admin::Namespace { name: "ci".into(), labels: BTreeMap::new(), created: None };
    let text = printed(false, |out| namespace::print_namespaces(vec![ns.clone()], out));
    assert_eq!(text, "NAMESPACE  AGE  LABELS\nci         -\n");
    let json = printed(true, |out| namespace::print_namespaces(vec![ns], out));
    assert_eq!(json, "{\"name\":\"ci\",\"labels\":{},\"created\":null}\n");
}

fn a_status() -> admin::StatusReply {
    admin::StatusReply {
        version: "0.1.0".into(),
        pid: 42,
        started: Some(Timestamp { seconds: NOW - 90, nanos: 0 }),
        root: "/r".into(),
        mount: "/r/mnt".into(),
        socket: "/r/thinfs.sock".into(),
        containerd_namespace: "containerd".into(),
        backend: "native".into(),
        details: vec![admin::Detail { name: "copies".into(), value: "reflink".into() }],
        capacity: Some(admin::Capacity {
            total: 10 << 30,
            used: 5 << 30,
            block_size: 4096,
            ..Default::default()
        }),
        namespaces: vec![admin::NamespaceStatus {
            name: "default".into(),
            active: 1,
            view: 0,
            committed: 12,
        }],
        pending: 2,
        volumes: vec![admin::VolumeStatus { id: 7, read_only: true, pins: 1, writers: 0 }],
        faulty: vec![admin::FaultyId { thin_id: 1042, why: "taken".into() }],
        reaper: vec![admin::PendingVolume {
            volume: 9,
            tries: 3,
            state: "failed".into(),
            reason: "busy".into(),
        }],
        gc: Some(admin::GcStatus {
            runs: 4,
            collected: BTreeMap::from([("snapshot".into(), 9)]),
            last: Some(Timestamp { seconds: NOW - 3, nanos: 0 }),
            last_mark_us: 1500,
            last_sweep_us: 20_000,
            ..Default::default()
        }),
        activity: Some(admin::Activity { activations: 20, failures: 3, deactivations: 19 }),
        ..Default::default()
    }
}

#[test]
fn status_shows_the_daemon_its_namespaces_and_its_volumes() {
    let text = printed(false, |out| daemon::print_status(a_status(), out));
    let expected = "\
Daemon:     thinfs 0.1.0, pid 42, running for 1m
Root:       /r
Mount:      /r/mnt
Socket:     /r/thinfs.sock
containerd: namespace containerd
Backend:    native
Space:      5 GiB of 10 GiB used (50 %)
To reclaim: 2
Collected:  9 in 4 runs, the last 3s ago (mark 1.5 ms, sweep 20.0 ms)
Set aside:  1 thin ids, see `thinfs faulty`
Activated:  1 (activations: 20 since the start, 3 failed)
copies:     reflink

NAMESPACE  ACTIVE  VIEW  COMMITTED
default         1     0         12

VOLUME  ACCESS  PINS  WRITERS
     7  ro         1        0

REMOVED  STATE   TRIES  REASON
      9  failed      3  busy
";
    assert_eq!(text, expected);
}

#[test]
fn status_shows_what_the_kernel_asked() {
    let request = |name: &str, count| admin::FuseRequests { name: name.into(), count };
    let fuse = admin::FuseStatus {
        requests: vec![request("lookup", 12), request("rename", 0), request("forget", 3)],
        synchronous: 12,
        waited: 1,
        passthrough: 4,
    };
    let text = printed(false, |out| daemon::print_fuse(fuse.clone(), out));
    let expected = "\
REQUEST  COUNT
lookup      12
forget       3

Somebody waited for: 12
In waiting threads:  1
Passthrough opens:   4
";
    assert_eq!(text, expected);
    let json = printed(true, |out| daemon::print_fuse(fuse, out));
    let expected = "{\"requests\":{\"forget\":3,\"lookup\":12,\"rename\":0},\"synchronous\":12,\"waited\":1,\"passthrough\":4}\n";
    assert_eq!(json, expected);
}

#[test]
fn status_for_programs_keeps_its_field_names() {
    let text = printed(true, |out| daemon::print_status(a_status(), out));
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["started"], "2023-11-14T22:11:50Z");
    assert_eq!(status["details"]["copies"], "reflink");
    assert_eq!(status["capacity"]["used"], 5_u64 << 30);
    assert_eq!(status["namespaces"][0]["committed"], 12);
    assert_eq!(status["volumes"][0]["read_only"], true);
    assert_eq!(status["faulty"][0]["thin_id"], 1042);
    assert_eq!(status["reaper"][0]["state"], "failed");
}

#[test]
fn the_help_names_every_field_of_the_json() {
    let help = Cli::command().render_long_help().to_string();
    let snapshot = printed(true, |out| list::print_list(some_snapshots().split_off(4), out));
    let status = printed(true, |out| daemon::print_status(a_status(), out));
    for object in [snapshot, status] {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&object).unwrap();
        for field in object.keys() {
            assert!(help.contains(field.as_str()), "{field} is not in the help");
        }
    }
}

#[test]
fn a_kind_narrows_every_filter() {
    use args::KindArg::{Active, View};
    let given = || vec!["name==a".to_owned(), "name==b".to_owned()];
    assert_eq!(list::filters(&[], given()), given());
    assert_eq!(list::filters(&[Active, View], Vec::new()), ["kind==active", "kind==view"]);
    assert_eq!(list::filters(&[View], given()), ["name==a,kind==view", "name==b,kind==view"]);
}

#[test]
fn sizes_are_for_people() {
    let table = [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (20 << 30, "20 GiB"),
        (u64::MAX, "16 EiB"),
    ];
    for (bytes, text) in table {
        assert_eq!(size(bytes), text);
    }
}

#[test]
fn words_are_quoted_for_the_shell_and_paths_as_git_does() {
    assert_eq!(shell_word("/a/b-1.2"), "/a/b-1.2");
    assert_eq!(shell_word("it's"), r"'it'\''s'");
    assert_eq!(shell_word(""), "''");
    assert_eq!(quoted_path("größe".as_bytes()), "größe");
    assert_eq!(quoted_path(b"a\"b"), r#""a\"b""#);
}

#[test]
fn labels_are_key_and_value() {
    let parse = |label| Cli::try_parse_from(["thinfs", "label", "k", label]);
    for good in ["a=b", "a=", "a=b=c"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in ["a", "=b", ""] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn global_flags_stand_before_or_after_the_subcommand() {
    for line in [["--json", "--root", "/x", "ls"], ["ls", "--json", "--root", "/x"]] {
        let cli = Cli::try_parse_from(["thinfs"].into_iter().chain(line)).unwrap();
        assert!(cli.json);
        assert_eq!(cli.place.root.as_deref(), Some(std::path::Path::new("/x")));
    }
}

#[test]
fn every_subcommand_has_a_manual_page_and_every_shell_completions() {
    let dir = tempfile::tempdir().unwrap();
    printed(false, |out| {
        generate::man(&args::ManArgs { dir: Some(dir.path().to_owned()) }, out).unwrap();
        Ok(())
    });
    for sub in Cli::command().get_subcommands().filter(|sub| sub.get_name() != "help") {
        let page = dir.path().join(format!("thinfs-{}.1", sub.get_name()));
        assert!(page.exists(), "{} is missing", page.display());
        assert!(sub.get_about().is_some(), "{} says nothing about itself", sub.get_name());
    }
    for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
        let script = printed(false, |out| {
            generate::completions(&args::CompletionsArgs { shell: *shell }, out).unwrap();
            Ok(())
        });
        assert!(script.contains("prepare") && script.contains("diff"), "{shell}");
    }
}

#[test]
fn the_exit_codes_are_those_that_the_help_documents() {
    let help = Cli::command().render_long_help().to_string();
    for (code, says) in [
        (ExitCode::Error, "an error"),
        (ExitCode::Usage, "wrong usage"),
        (ExitCode::NotFound, "not found"),
        (ExitCode::AlreadyExists, "already exists"),
        (ExitCode::Precondition, "not possible"),
        (ExitCode::Unreachable, "the daemon doesn't answer"),
        (ExitCode::NoSpace, "no space left"),
        (ExitCode::Unsound, "`check` found"),
    ] {
        let line = format!("{}  {says}", code as u8);
        assert!(help.contains(&line), "{line:?} is not in:\n{help}");
    }
}

#[test]
fn a_daemon_that_is_not_running_is_told_with_its_socket_and_the_remedy() {
    let error = Error::NotRunning("/run/x.sock".into());
    let expected = "thinfs: no daemon is running at /run/x.sock\n  \
                    help: start it with `thinfs serve`, or name its socket with --socket";
    assert_eq!(error.report(), expected);
    assert_eq!(error.exit_code(), ExitCode::Unreachable);
}

#[test]
fn faulty_lists_the_ids_and_why_and_retry_tells_what_became_of_each() {
    let faulty = |thin_id| admin::FaultyId { thin_id, why: "taken".into() };
    let text = printed(false, |out| super::faulty::print_faulty(vec![faulty(1042)], out));
    assert_eq!(text, "THIN ID  WHY\n   1042  taken\n");
    let reply = || admin::RetryFaultyReply { gone: vec![7], left: vec![faulty(8)] };
    let text = printed(false, |out| super::faulty::print_retried(reply(), out));
    assert_eq!(text, "7: gone\n8: still set aside: taken\n");
    let json = printed(true, |out| super::faulty::print_retried(reply(), out));
    let lines = "{\"thin_id\":7,\"why\":\"\",\"gone\":true}\n{\"thin_id\":8,\"why\":\"taken\",\"gone\":false}\n";
    assert_eq!(json, lines);
}

#[test]
fn an_event_is_a_line_and_so_are_those_that_are_gone() {
    use admin::event_item::Item;
    let event = || {
        Item::Event(admin::Event {
            sequence: 7,
            topic: "/snapshot/commit".into(),
            namespace: "default".into(),
            key: "web".into(),
            details: BTreeMap::from([("name".into(), "web-v1".into())]),
            at: Some(Timestamp { seconds: NOW, nanos: 0 }),
        })
    };
    let gone = || Item::Gone(admin::Gone { from: 2, to: 6 });
    assert_eq!(
        printed(false, |out| events::print(event(), out)),
        "7 2023-11-14T22:13:20Z /snapshot/commit default/web name=web-v1\n"
    );
    assert_eq!(
        printed(true, |out| events::print(event(), out)),
        "{\"sequence\":7,\"at\":\"2023-11-14T22:13:20Z\",\"topic\":\"/snapshot/commit\",\
         \"namespace\":\"default\",\"key\":\"web\",\"details\":{\"name\":\"web-v1\"}}\n"
    );
    assert!(
        printed(false, |out| events::print(gone(), out)).starts_with("(events 2 to 6 are gone")
    );
    assert_eq!(
        printed(true, |out| events::print(gone(), out)),
        "{\"gone\":{\"from\":2,\"to\":6}}\n"
    );
}

#[test]
fn a_finding_is_shown_with_what_can_be_done_about_it() {
    let finding = |object: &str, mendable| admin::Finding {
        object: object.into(),
        problem: "it is odd".into(),
        remedy: "make it even".into(),
        mendable,
    };
    let mut bytes = Vec::new();
    let mut out = Out::new(&mut bytes, false);
    let left = [finding("a", true), finding("b", false)];
    let error = check::report(&[finding("c", true)], &left, &mut out).unwrap_err();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "mended: c: it is odd\n  done: make it even\n\
         a: it is odd\n  --repair: make it even\n\
         b: it is odd\n  help: make it even\n"
    );
    assert_eq!(error.exit_code(), ExitCode::Unsound);
    assert_eq!(
        error.report(),
        "thinfs: 2 disagreements\n  help: `thinfs check --repair` mends 1 of them"
    );
}

#[test]
fn a_usage_that_could_not_be_measured_is_null_and_a_dash() {
    use crate::grpc::proto::thinfs::layers::v1::Rw;
    let rw = |name: &str, usage: Option<(u64, u64)>| Rw {
        name: name.into(),
        references: 1,
        size: usage.map(|(size, _)| size),
        inodes: usage.map(|(_, inodes)| inodes),
        ..Default::default()
    };
    let print = |json| {
        let layers = vec![rw("empty", Some((0, 0))), rw("unknown", None)];
        printed(json, |out| {
            rw::print_list(layers, out).unwrap();
            Ok(())
        })
    };
    let lines = print(true);
    let [empty, unknown] = lines.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(empty.contains(r#""usage":{"size":0,"inodes":0}"#), "{empty}");
    assert!(unknown.contains(r#""usage":null"#), "{unknown}");
    let expected = "\
NAME     PARENT  SIZE  REFS  AGE
empty    -        0 B     1
unknown  -          -     1
";
    let trimmed =
        |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&print(false)), trimmed(expected));
}
