//! Many snapshots, many files: what must not grow, doesn't.

use std::fs;
use std::time::Instant;

use crate::harness::{Client, Daemon, is_thin};

/// The guest is some twenty times slower; there the same facts are shown with fewer snapshots.
fn many() -> usize {
    if is_thin() { 500 } else { 10_000 }
}

fn prepare_many(d: &Daemon, count: usize) {
    Client::connect(&d.socket()).prepare("seed", "").unwrap();
    fs::write(d.active("seed").join("f"), "x").unwrap();
    Client::connect(&d.socket()).commit("seed", "base").unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                let mut client = Client::connect(&d.socket());
                for i in (worker..count).step_by(8) {
                    client.prepare(&format!("key-{i:05}"), "base").unwrap();
                }
            });
        }
    });
}

#[test]
fn many_snapshots_list_without_activating_one_and_within_memory() {
    let d = Daemon::start();
    prepare_many(&d, many());
    let activated = || Client::connect(&d.socket()).status().volumes.len();
    let before = activated();
    let started = Instant::now();
    let listed = fs::read_dir(d.mount().join("active")).unwrap().count();
    eprintln!("listed {listed} snapshots in {:?}", started.elapsed());
    assert_eq!(listed, many());
    assert!(activated() <= before, "listing activated volumes");
    let started = Instant::now();
    let output = crate::harness::sh(&format!(
        "timeout 60 ls -l '{}' | wc -l",
        d.mount().join("active").display()
    ))
    .ok();
    // Looking at one snapshot's directory shows what it really is; looking at all of them must not, beyond a few a second.
    let allowed = before + 16 * (1 + started.elapsed().as_secs() as usize);
    assert!(
        activated() <= allowed,
        "{} volumes are activated, {before} were before ls -l",
        activated()
    );
    eprintln!("ls -l in {:?}", started.elapsed());
    assert_eq!(output.trim().parse::<usize>().unwrap(), many() + 1, "and a line with the total");
    let started = Instant::now();
    assert_eq!(d.json_lines(&["ls"]).len(), many() + 1);
    eprintln!("thinfs ls --json in {:?}", started.elapsed());
    eprintln!("resident: {} MiB", d.resident() >> 20);
    assert!(d.resident() < 100 << 20, "resident: {} MiB", d.resident() >> 20);
    d.finish();
}

#[test]
fn a_directory_of_snapshots_can_change_while_it_is_read() {
    let d = Daemon::start();
    let count = many() / 10;
    prepare_many(&d, count);
    let mut entries = fs::read_dir(d.mount().join("active")).unwrap();
    let first = entries.next().unwrap().unwrap().file_name();
    let mut client = Client::connect(&d.socket());
    for i in (0..count).step_by(2) {
        client.remove(&format!("key-{i:05}")).unwrap();
    }
    let mut seen: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
    seen.push(first);
    let total = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), total, "no entry twice");
    for i in (1..count).step_by(2) {
        assert!(seen.contains(&format!("key-{i:05}").into()), "key-{i:05} was there all the time");
    }
    d.finish();
}

#[test]
fn walking_a_million_files_stays_within_memory() {
    let mut d = Daemon::start();
    let (dirs, files) = if is_thin() { (20, 500) } else { (1_000, 1_000) };
    fs::create_dir(d.active("big")).unwrap();
    fill(&mut d, dirs, files);
    let started = Instant::now();
    let found = crate::harness::sh(&format!(
        "timeout 280 find '{}' -type f -size -1 | wc -l",
        d.active("big").display()
    ))
    .ok();
    eprintln!(
        "walked {} files in {:?}, resident {} MiB",
        dirs * files,
        started.elapsed(),
        d.resident() >> 20
    );
    assert_eq!(found.trim().parse::<usize>().unwrap(), dirs * files);
    assert!(d.resident() < 100 << 20, "resident: {} MiB", d.resident() >> 20);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", d.pid())).unwrap().count();
    assert!(descriptors < 10_000, "{descriptors} descriptors");
    d.finish();
}

/// Makes empty files. On native straight in the volume's directory while the daemon is down: a million creations
/// through any filesystem take a minute that tells nothing about the walk.
fn fill(d: &mut Daemon, dirs: usize, files: usize) {
    let id = d.json(&["info", "big"])["id"].as_u64().unwrap();
    let at = if is_thin() {
        d.active("big")
    } else {
        d.stop();
        d.root().join(format!("native/volumes/{id}/fs"))
    };
    for dir in 0..dirs {
        let dir = at.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..files {
            fs::File::create(dir.join(format!("f{file}"))).unwrap();
        }
    }
    if !is_thin() {
        d.restart();
    }
}
