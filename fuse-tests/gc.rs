//! Leases, namespaces and the collector, as people and scripts meet them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::proc::Output;
use crate::harness::{Daemon, eventually, kill, run, run_command};

const THINFS: &str = env!("CARGO_BIN_EXE_thinfs");

fn keys(d: &Daemon) -> Vec<String> {
    let lines = d.json_lines(&["ls"]);
    lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
}

fn leases(d: &Daemon) -> usize {
    d.json_lines(&["lease", "ls"]).len()
}

fn timed(command: Command) -> Output {
    run_command(command, std::time::Duration::from_secs(120))
}

/// `thinfs lease run`, with more arguments, not started.
fn lease_run(d: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(THINFS);
    command.arg("--socket").arg(d.socket()).args(["lease", "run"]).args(args);
    command.env("THINFS", THINFS);
    command
}

#[test]
fn what_a_command_makes_under_its_lease_goes_with_it_but_for_what_it_keeps() {
    let d = Daemon::start();
    d.cli(&["prepare", "mine"]).ok();
    let script = r#"
        echo x > "$("$THINFS" prepare build)/file"
        "$THINFS" commit build result --keep
        "$THINFS" prepare step --parent result
        "$THINFS" commit step unfinished
        "$THINFS" prepare scratch --parent unfinished
        "$THINFS" gc
        "$THINFS" lease info "$THINFS_LEASE"
        exit 7"#;
    let output = timed(lease_run(&d, &["--wait", "--", "sh", "-ec", script]));
    assert_eq!(output.code, Some(7), "the command's own: {}", output.stderr);
    assert!(output.stdout.contains("snapshot scratch"), "it was held meanwhile: {}", output.stdout);
    assert_eq!((keys(&d), leases(&d)), (vec!["mine".to_owned(), "result".to_owned()], 0));
    assert!(d.cli(&["status"]).ok().contains("Collected"));
    assert!(d.json(&["status"])["gc"]["collected"]["snapshot"].as_u64().unwrap() >= 2);
    d.cli(&["check"]).ok();
    d.finish();
}

#[test]
fn a_lease_ends_with_its_command_however_that_ends_and_without_its_holder_after_the_ttl() {
    let d = Daemon::start();
    let killed = timed(lease_run(&d, &["--", "sh", "-c", "kill -9 $$"]));
    assert_eq!((killed.code, leases(&d)), (Some(128 + 9), 0), "{}", killed.stderr);
    let absent = timed(lease_run(&d, &["--", "/nonexistent/command"]));
    assert_eq!((absent.code, leases(&d)), (Some(1), 0), "{}", absent.stderr);
    assert!(absent.stderr.contains("/nonexistent/command"), "{}", absent.stderr);

    let script = "\"$THINFS\" prepare scratch; echo $$; exec sleep 1000";
    let mut command = lease_run(&d, &["--ttl", "6s", "--", "sh", "-ec", script]);
    let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("/scratch"));
    let pid: u32 = lines.next().unwrap().unwrap().parse().unwrap();
    let expires = || d.json_lines(&["lease", "ls"])[0]["expires"].as_str().unwrap().to_owned();
    let first = expires();
    eventually("it is renewed", || expires() > first);
    assert_eq!(keys(&d), ["scratch"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the lease ends and what it held is collected", || {
        leases(&d) == 0 && keys(&d).is_empty()
    });
    kill(pid);
    d.finish();
}

#[test]
fn a_mount_in_whatever_mount_namespace_keeps_its_snapshot() {
    let d = Daemon::start();
    let lease = d.cli(&["lease", "create", "--id", "l"]).ok();
    assert_eq!(lease.trim(), "l");
    d.cli(&["prepare", "here", "--lease", "l"]).ok();
    d.cli(&["prepare", "there", "--lease", "l"]).ok();
    d.cli(&["prepare", "loose", "--lease", "l"]).ok();
    let place = d.root().join("place with a blank");
    std::fs::create_dir(&place).unwrap();
    let script = r#"mount --bind "$0" "$1"; echo ready; exec sleep 1000"#;
    let mut elsewhere = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .arg(d.active("there"))
        .arg(d.root().join("place with a blank"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(elsewhere.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    // Afterwards: a new mount namespace starts with a copy of all mounts.
    let here = run("mount", ["--bind".as_ref(), d.active("here").as_os_str(), place.as_os_str()]);
    here.ok();

    d.cli(&["lease", "rm", "--wait", "l"]).ok();
    assert_eq!(keys(&d), ["here", "there"]);
    let dry = d.cli(&["gc", "--dry-run"]).ok();
    assert!(dry.contains("0 would be collected"), "{dry}");
    run("umount", [place.as_os_str()]).ok();
    d.cli(&["gc"]).ok();
    assert_eq!(keys(&d), ["there"]);
    elsewhere.kill().unwrap();
    elsewhere.wait().unwrap();
    eventually("the other mount namespace is gone", || {
        d.cli(&["gc", "--wait"]).ok();
        keys(&d).is_empty()
    });
    d.finish();
}

/// The kernel's table of mounts goes on calling it by its former name.
#[test]
fn a_snapshot_that_is_committed_while_it_is_mounted_is_kept_by_the_mount() {
    let d = Daemon::start();
    d.cli(&["lease", "create", "--id", "l"]).ok();
    for (key, name, inside) in [("k", "whole", ""), ("i", "part", "sub")] {
        d.cli(&["prepare", key, "--lease", "l"]).ok();
        std::fs::create_dir(d.active(key).join("sub")).unwrap();
        let place = d.root().join(name);
        std::fs::create_dir(&place).unwrap();
        let from = d.active(key).join(inside);
        run("mount", ["--bind".as_ref(), from.as_os_str(), place.as_os_str()]).ok();
        d.cli(&["commit", key, name]).ok();
    }
    d.cli(&["lease", "rm", "--wait", "l"]).ok();
    assert_eq!(keys(&d), ["part", "whole"]);
    for name in ["part", "whole"] {
        run("umount", [d.root().join(name).as_os_str()]).ok();
    }
    d.cli(&["gc"]).ok();
    assert_eq!(keys(&d), [""; 0]);
    d.finish();
}

#[test]
fn namespaces_are_made_labelled_collected_and_deleted() {
    let d = Daemon::start();
    d.cli(&["namespace", "create", "ci", "--collect", "--label", "team=a"]).ok();
    d.cli(&["namespace", "label", "ci", "team=", "stage=1"]).ok();
    let listed = d.json_lines(&["namespace", "ls"]);
    assert_eq!((listed.len(), listed[0]["name"].as_str()), (1, Some("ci")));
    assert_eq!(listed[0]["labels"]["stage"], "1");
    assert!(listed[0]["labels"].get("team").is_none());
    let ci = |args: &[&str]| d.cli(&[&["--namespace", "ci"], args].concat());
    ci(&["lease", "create", "--id", "l", "--ttl", "1h"]).ok();
    ci(&["prepare", "k", "--lease", "l"]).ok();
    assert_eq!(d.cli(&["namespace", "rm", "ci"]).code, Some(5), "it isn't empty");
    ci(&["lease", "rm", "--wait", "l"]).ok();
    assert_eq!(ci(&["ls"]).ok(), "");
    d.cli(&["namespace", "rm", "ci"]).ok();
    assert_eq!(d.cli(&["namespace", "rm", "ci"]).code, Some(3));
    let refused = d.cli(&["namespace", "create", "containerd", "--collect"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("containerd"), "{}", refused.stderr);
    d.finish();
}

/// Topic, place and key of each event that isn't the pool's, which come when it grows.
fn events(d: &Daemon) -> Vec<String> {
    let events = d.json_lines(&["events", "--since", "0", "--no-wait"]);
    let text =
        |event: &serde_json::Value, name: &str| event[name].as_str().unwrap_or("").to_owned();
    let line = |event: &serde_json::Value| {
        [text(event, "topic"), text(event, "namespace"), text(event, "key")].join(" ")
    };
    let lines = events.iter().map(line);
    lines
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.starts_with("/pool/"))
        .collect()
}

#[test]
fn events_tell_of_namespaces_leases_and_collections_in_order_also_after_a_kill() {
    let mut d = Daemon::start();
    d.cli(&["namespace", "create", "ci"]).ok();
    d.cli(&["namespace", "label", "ci", "team=a"]).ok();
    d.cli(&["namespace", "rm", "ci"]).ok();
    d.cli(&["lease", "create", "--id", "l", "--ttl", "1h"]).ok();
    d.cli(&["prepare", "k", "--lease", "l"]).ok();
    d.kill();
    d.restart();
    d.cli(&["lease", "rm", "--wait", "l"]).ok();
    assert_ne!(d.cli(&["lease", "rm", "l"]).code, Some(0));
    d.cli(&["lease", "create", "--id", "short", "--ttl", "1s"]).ok();
    let mut told = Vec::new();
    eventually("the lease ends", || {
        told = events(&d);
        told.last().is_some_and(|line| line.starts_with("/lease/expire"))
    });
    let expected = [
        "/namespace/create ci",
        "/namespace/update ci",
        "/namespace/delete ci",
        "/lease/create default l",
        "/snapshot/prepare default k",
        "/lease/delete default l",
        "/snapshot/remove default k",
        "/gc/done",
        "/lease/create default short",
        "/lease/expire default short",
    ];
    assert_eq!(told, expected);
    d.finish();
}

/// What `layer ls` or `rw ls` shows.
fn count(d: &Daemon, what: &str) -> usize {
    d.json_lines(&[what, "ls"]).len()
}

#[test]
fn a_lease_holds_layers_and_read_write_layers_and_a_mount_holds_them_after_it() {
    let d = Daemon::start();
    let dir = d.root().join("tree");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "content").unwrap();
    let tar = d.root().join("layer.tar");
    run("tar", ["-C".as_ref(), dir.as_os_str(), "-cf".as_ref(), tar.as_os_str(), "file".as_ref()])
        .ok();
    let chain = d.cli(&["layer", "import", tar.to_str().unwrap()]).ok().trim().to_owned();
    let web = d.cli(&["rw", "create", "web", "--parent", &chain]).ok().trim().to_owned();
    let layers = |args: &[&str]| d.cli(&[&["--namespace", "layers"], args].concat());
    layers(&["lease", "create", "--id", "l"]).ok();
    layers(&["lease", "add", "l", "--kind", "layer", &chain]).ok();
    layers(&["lease", "add", "l", "--kind", "rw", "web"]).ok();
    let info = layers(&["lease", "info", "l"]).ok();
    assert!(info.contains(&format!("layer {chain}")) && info.contains("rw web"), "{info}");
    d.cli(&["layer", "rm", &chain]).ok();
    d.cli(&["rw", "rm", "web"]).ok();
    d.cli(&["gc"]).ok();
    assert_eq!((count(&d, "layer"), count(&d, "rw")), (1, 1), "the lease holds both");
    let place = d.root().join("place");
    std::fs::create_dir(&place).unwrap();
    run("mount", ["--bind".as_ref(), web.as_ref(), place.as_os_str()]).ok();
    layers(&["lease", "rm", "--wait", "l"]).ok();
    assert_eq!((count(&d, "layer"), count(&d, "rw")), (1, 1), "the mount holds both");
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "content");
    run("umount", [place.as_os_str()]).ok();
    eventually("both are collected", || {
        d.cli(&["gc"]).ok();
        (count(&d, "layer"), count(&d, "rw")) == (0, 0)
    });
    d.cli(&["check"]).ok();
    d.finish();
}
