//! The README's transcript, run.

use std::fs;

use crate::harness::{Daemon, run};

/// A command of the transcript and the lines it is to print; `…` stands for anything, alone on a line for any lines.
struct Step {
    command: String,
    output: Vec<String>,
}

fn transcript() -> Vec<Step> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme
        .split("```console\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a console block");
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
            None => steps.last_mut().expect("a command comes first").output.push(line.to_owned()),
        }
    }
    steps
}

fn matches(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        None => expected == line,
        Some((start, end)) => {
            line.len() >= start.len() + end.len() && line.starts_with(start) && line.ends_with(end)
        }
    }
}

fn same(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=lines.len()).any(|skip| same(rest, &lines[skip..]))
        }
        Some((first, rest)) => {
            lines.first().is_some_and(|line| matches(first, line)) && same(rest, &lines[1..])
        }
    }
}

#[test]
fn the_transcript_in_the_readme_is_what_happens() {
    let d = Daemon::start();
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_thinfs")).parent().unwrap();
    let steps = transcript();
    assert!(steps.len() > 8, "the transcript was found");
    for step in steps {
        let setup = format!(
            "cd '{}'; export PATH='{}':$PATH THINFS_SOCKET='{}'; exec 2>&1;",
            d.root().display(),
            binaries.display(),
            d.socket().display()
        );
        let output =
            run("timeout", ["60", "bash", "-c", &format!("{setup} {}", step.command)]).stdout;
        let lines: Vec<&str> = output.lines().collect();
        assert!(
            same(&step.output, &lines),
            "$ {}\nprinted:\n{output}\nthe README says:\n{}",
            step.command,
            step.output.join("\n")
        );
    }
    d.finish();
}
