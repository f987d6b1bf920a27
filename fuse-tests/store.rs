//! The store from outside: events, pages, backups, restores and repairs through the command line.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Daemon, is_thin, run};

/// Events after this number but for those of the pool, which come when it grows.
fn events(d: &Daemon, since: &str) -> Vec<Value> {
    let mut events = d.json_lines(&["events", "--since", since, "--no-wait"]);
    events.retain(|event| !event["topic"].as_str().unwrap().starts_with("/pool/"));
    events
}

fn topics(events: &[Value]) -> Vec<(&str, &str)> {
    events.iter().map(|e| (e["topic"].as_str().unwrap(), e["key"].as_str().unwrap())).collect()
}

#[test]
fn events_are_numbered_over_kills_and_none_is_lost_or_made_up() {
    let mut d = Daemon::start();
    d.cli(&["prepare", "a"]).ok();
    d.cli(&["commit", "a", "base"]).ok();
    assert_ne!(d.cli(&["prepare", "b", "--parent", "nobody"]).code, Some(0));
    d.kill();
    d.restart();
    d.cli(&["view", "look", "--parent", "base"]).ok();
    d.cli(&["label", "base", "stage=done"]).ok();
    d.cli(&["rm", "look"]).ok();
    let all = events(&d, "0");
    assert_eq!(
        topics(&all),
        [
            ("/snapshot/prepare", "a"),
            ("/snapshot/commit", "a"),
            ("/snapshot/prepare", "look"),
            ("/snapshot/update", "base"),
            ("/snapshot/remove", "look"),
        ]
    );
    let numbers: Vec<_> = all.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(all[1]["details"]["name"], "base");
    assert_eq!(topics(&events(&d, "4")), [("/snapshot/remove", "look")]);
    assert_eq!(events(&d, "5"), [Value::Null; 0]);
    let ahead = d.cli(&["events", "--since", "6", "--no-wait"]);
    assert_eq!(ahead.code, Some(2), "{}", ahead.stderr);
    assert!(ahead.stderr.contains("there is no event 6 yet: the newest is 5"), "{}", ahead.stderr);
    d.finish();
}

fn follow(d: &Daemon) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
    command.arg("--socket").arg(d.socket()).args(["--json", "events", "--since", "0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_reader_sees_events_as_they_come_and_neither_it_nor_a_stuck_one_holds_up_anybody() {
    let mut d = Daemon::start();
    let mut stuck = follow(&d);
    let mut reader = follow(&d);
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let mut client = crate::harness::Client::connect(&d.socket());
    for i in 0..50 {
        client.prepare(&format!("key-{i}"), "").unwrap();
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["key"], format!("key-{i}"));
    }
    // It follows, and reads no more.
    let mut unread = BufReader::new(stuck.stdout.take().unwrap()).lines();
    let first = unread.next().unwrap().unwrap();
    assert!(first.contains("key-0"), "{first}");
    let pid = rustix::process::Pid::from_child(&stuck);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // More than fits between the daemon and it.
    let long = "k".repeat(4000);
    client.prepare(&long, "").unwrap();
    (0..100).for_each(|i| drop(client.label(&long, "n", &i.to_string()).unwrap()));
    let last = lines.by_ref().take(101).last().unwrap().unwrap();
    assert!(last.contains("/snapshot/update") && last.len() > 4000, "{last}");
    drop(client);
    // A stop doesn't wait for readers; those who read are told.
    assert_eq!(d.stop(), Some(0));
    assert!(!d.log().contains("requests still running"), "{}", d.log());
    assert_eq!(reader.wait().unwrap().code(), Some(6));
    let _ = stuck.kill();
    stuck.wait().unwrap();
    d.restart();
    d.finish();
}

#[test]
fn ls_goes_page_by_page() {
    let d = Daemon::start();
    let mut client = crate::harness::Client::connect(&d.socket());
    for i in 0..7 {
        client.prepare(&format!("key-{i}"), "").unwrap();
    }
    d.cli(&["label", "key-5", "owner=ci"]).ok();
    drop(client);
    let keys = |args: &[&str]| -> Vec<String> {
        let lines = d.json_lines(args);
        lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["ls", "--limit", "3"]), ["key-0", "key-1", "key-2"]);
    assert_eq!(keys(&["ls", "--limit", "3", "--after", "key-2"]), ["key-3", "key-4", "key-5"]);
    assert_eq!(keys(&["ls", "--after", "key-5"]), ["key-6"]);
    assert_eq!(keys(&["ls", "--filter", "labels.owner==ci", "--limit", "9"]), ["key-5"]);
    assert_eq!(
        keys(&["ls", "--kind", "active", "--kind", "view", "--after", "key-4"]),
        ["key-5", "key-6"]
    );
    d.finish();
}

fn thinfs(d: &Daemon, args: &[&str]) -> crate::harness::proc::Output {
    let mut all = vec!["--root", d.root().to_str().unwrap()];
    all.extend(args);
    run(env!("CARGO_BIN_EXE_thinfs"), all)
}

#[test]
fn a_restored_store_serves_what_it_knows_and_destroys_nothing_until_told() {
    let mut d = Daemon::start();
    d.cli(&["prepare", "a"]).ok();
    fs::write(d.active("a").join("file"), "old").unwrap();
    d.cli(&["commit", "a", "base"]).ok();
    let backup = d.root().join("backup");
    let backup = backup.to_str().unwrap();
    d.cli(&["backup", backup]).ok();
    assert_eq!(d.cli(&["backup", backup]).code, Some(4), "never over another");
    d.cli(&["prepare", "later", "--parent", "base"]).ok();
    fs::write(d.active("later").join("new"), "later work").unwrap();
    let refused = thinfs(&d, &["restore", backup]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("stop that one"), "{}", refused.stderr);

    assert_eq!(d.stop(), Some(0));
    let told = thinfs(&d, &["restore", backup]).ok();
    assert!(told.contains("meta.before-restore-") && told.contains("kept until"), "{told}");
    d.restart();
    assert_eq!(fs::read_to_string(d.committed("base").join("file")).unwrap(), "old");
    let keys = d.json_lines(&["ls"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    let found = d.cli(&["check"]);
    assert_eq!(found.code, Some(8), "{}", found.stdout);
    assert!(found.stdout.contains("restored from a backup"), "{}", found.stdout);
    let unnamed = if is_thin() { "belongs to no volume" } else { "has a tree but no record" };
    assert!(found.stdout.contains(unnamed), "{}", found.stdout);

    // The way back: the store that was set aside knows the later snapshot, and its files are there.
    assert_eq!(d.stop(), Some(0));
    let aside = fs::read_dir(d.root()).unwrap().map(|e| e.unwrap().path());
    let aside: Vec<_> = aside.filter(|p| p.to_string_lossy().contains("before-restore")).collect();
    assert_eq!(aside.len(), 1);
    thinfs(&d, &["restore", aside[0].to_str().unwrap()]).ok();
    d.restart();
    assert_eq!(fs::read_to_string(d.active("later").join("new")).unwrap(), "later work");
    d.cli(&["check", "--repair"]).ok();
    d.cli(&["check"]).ok();

    // Forth again, and the word that lets go.
    assert_eq!(d.stop(), Some(0));
    thinfs(&d, &["restore", backup]).ok();
    d.restart();
    let repaired = d.cli(&["check", "--repair"]).ok();
    assert!(repaired.contains("mended: volumes that no record names"), "{repaired}");
    d.cli(&["check"]).ok();
    d.cli(&["prepare", "next", "--parent", "base"]).ok();
    assert_eq!(fs::read_to_string(d.active("next").join("file")).unwrap(), "old");
    d.finish();
}

#[test]
fn a_store_with_flipped_bytes_is_saved_offline_and_serves_every_snapshot() {
    let mut d = Daemon::start();
    let mut client = crate::harness::Client::connect(&d.socket());
    for i in 0..20 {
        client.prepare(&format!("key-{i:02}"), "").unwrap();
    }
    drop(client);
    fs::write(d.active("key-07").join("file"), "seven").unwrap();
    assert_eq!(d.stop(), Some(0));
    d.restart(); // the log goes into tables
    assert_eq!(d.stop(), Some(0));
    thinfs(&d, &["check", "--offline"]).ok();
    // The table of the records: the one that holds a key with its label-free record.
    let meta = d.root().join("meta");
    let tables = fs::read_dir(&meta).unwrap().map(|e| e.unwrap().path());
    let table = tables
        .filter(|path| path.extension().is_some_and(|e| e == "sst"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&table).unwrap();
    for at in [40, 200] {
        bytes[at] ^= 0xff;
    }
    fs::write(&table, bytes).unwrap();
    let found = thinfs(&d, &["check", "--offline"]);
    assert_eq!(found.code, Some(8), "{}{}", found.stdout, found.stderr);
    assert!(found.stdout.contains("RocksDB cannot"), "{}", found.stdout);
    let repaired = thinfs(&d, &["check", "--offline", "--repair"]);
    assert!(repaired.stderr.contains("meta.before-salvage-"), "{}", repaired.stderr);
    d.restart();
    d.cli(&["check", "--repair"]).ok();
    let listed = d.json_lines(&["ls"]);
    assert_eq!(listed.len(), 20, "{listed:?}");
    assert_eq!(fs::read_to_string(d.active("key-07").join("file")).unwrap(), "seven");
    d.finish();
}
