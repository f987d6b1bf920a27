//! The command line as a person and as a program meet it.

use std::fs;

use crate::harness::{Daemon, run};

const THINFS: &str = env!("CARGO_BIN_EXE_thinfs");

#[test]
fn every_subcommand_does_its_job_on_one_history() {
    let d = Daemon::start();
    fs::create_dir(d.active("setup")).unwrap();
    fs::write(d.active("setup").join("f"), vec![1u8; 50_000]).unwrap();
    d.cli(&["commit", "setup", "base"]).ok();
    d.cli(&["prepare", "app", "--parent", "base", "--label", "team=storage"]).ok();
    d.cli(&["view", "look", "--parent", "base"]).ok();
    fs::write(d.active("app").join("g"), "new").unwrap();

    let ls = d.cli(&["ls"]).ok();
    for word in ["base", "app", "look", "active", "view", "committed"] {
        assert!(ls.contains(word), "{word} in {ls}");
    }
    assert!(!d.cli(&["ls", "--kind", "active"]).ok().contains("look"));
    assert!(d.cli(&["ls", "--filter", "labels.team==storage"]).ok().contains("app"));
    assert!(!d.cli(&["ls", "--filter", "labels.team==storage"]).ok().contains("look"));
    let tree = d.cli(&["tree"]).ok();
    assert!(tree.contains("base") && tree.contains("app"), "{tree}");
    let info = d.json(&["info", "app"]);
    assert_eq!((info["kind"].as_str(), info["parent"].as_str()), (Some("active"), Some("base")));
    assert!(d.cli(&["info", "app"]).ok().contains("storage"));
    assert!(d.json(&["usage", "base"])["size"].as_u64().unwrap() >= 50_000);
    assert!(d.cli(&["mounts", "app"]).ok().contains(d.active("app").to_str().unwrap()));
    assert_eq!(
        d.cli(&["diff", "base", "app"]).ok().split_whitespace().collect::<Vec<_>>().len(),
        2,
        "one line: a letter and a path"
    );
    d.cli(&["label", "app", "team=network", "owner=me"]).ok();
    assert_eq!(d.json(&["info", "app"])["labels"]["team"], "network");
    d.cli(&["label", "app", "owner="]).ok();
    assert!(d.json(&["info", "app"])["labels"].get("owner").is_none());
    assert!(d.cli(&["status"]).ok().contains(d.mount().to_str().unwrap()));
    d.cli(&["check"]).ok();
    d.cli(&["rm", "app", "look"]).ok();
    d.cli(&["rm", "base"]).ok();
    d.cli(&["gc"]).ok();
    assert_eq!(d.json_lines(&["ls"]).len(), 0);
    d.finish();
}

#[test]
fn failures_have_their_own_exit_codes_and_name_the_snapshot() {
    let d = Daemon::start();
    fs::create_dir(d.active("a")).unwrap();
    d.cli(&["commit", "a", "base"]).ok();
    d.cli(&["prepare", "child", "--parent", "base"]).ok();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["info", "nowhere"], 3, "nowhere"),
        (&["prepare", "x", "--parent", "nowhere"], 3, "nowhere"),
        (&["prepare", "child"], 4, "child"),
        (&["rm", "base"], 5, "base"),
        (&["commit", "base", "again"], 5, "base"),
        (&["prepare", "x", "--parent", "child"], 2, "child"),
        (&["frobnicate"], 2, "frobnicate"),
    ];
    for (args, code, word) in cases {
        let output = d.cli(args);
        assert_eq!(output.code, Some(code), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(word), "{args:?} names {word}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{args:?}");
    }
    d.finish();
}

#[test]
fn without_a_daemon_the_command_says_how_to_start_one() {
    let output = run(THINFS, ["--socket", "/nonexistent/socket", "ls"]);
    assert_eq!(output.code, Some(6), "{}", output.stderr);
    assert!(
        output.stderr.contains("/nonexistent/socket") && output.stderr.contains("thinfs serve"),
        "{}",
        output.stderr
    );
}

#[test]
fn help_completions_and_man_pages_are_there() {
    let help = run(THINFS, ["--help"]).ok();
    for command in [
        "serve",
        "prepare",
        "view",
        "commit",
        "rm",
        "ls",
        "tree",
        "info",
        "usage",
        "mounts",
        "diff",
        "label",
        "lease",
        "namespace",
        "gc",
        "status",
        "check",
        "events",
        "backup",
        "restore",
    ] {
        assert!(help.contains(command), "{command} in --help");
        assert!(run(THINFS, [command, "--help"]).ok().len() > 100, "{command} --help");
    }
    assert!(run(THINFS, ["completions", "bash"]).ok().contains("complete"));
    let dir = tempfile::tempdir().unwrap();
    run(THINFS, ["man".as_ref(), dir.path().as_os_str()]).ok();
    assert!(fs::read_dir(dir.path()).unwrap().count() > 10);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let d = Daemon::start();
    d.cli(&["prepare", "k"]).ok();
    d.cli(&["--namespace", "other", "prepare", "k"]).ok();
    fs::write(d.active("k").join("f"), "default").unwrap();
    assert!(fs::read_dir(d.mount().join(".ns/other/active/k")).unwrap().next().is_none());
    d.cli(&["--namespace", "other", "rm", "k"]).ok();
    assert_eq!(fs::read_to_string(d.active("k").join("f")).unwrap(), "default");
    d.finish();
}
