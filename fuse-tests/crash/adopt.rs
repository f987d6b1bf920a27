//! What belongs together and was parted: a store that is gone, two pools whose data devices were exchanged. Refused, and
//! taken by force when asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Daemon, Options, is_thin, run_command};

#[test]
fn a_pool_whose_store_is_gone_is_refused_then_adopted_by_force_and_what_it_holds_is_given_back() {
    let mut d = Daemon::start();
    d.cli(&["prepare", "a"]).ok();
    assert_eq!(d.cli(&["faulty"]).ok(), "");
    assert_eq!(d.cli(&["faulty", "--retry", "7"]).code, Some(3), "not among those set aside");
    assert_eq!(d.stop(), Some(0));
    std::fs::remove_dir_all(d.root().join("meta")).unwrap();
    if !is_thin() {
        // Trees that no record names are garbage; there is no pool that somebody else could be using.
        d.restart();
        assert_eq!(d.cli(&["ls"]).ok(), "");
        return d.finish();
    }
    let refused = run_command(d.serve_command(), Duration::from_secs(120));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--force-adopt"), "{refused:?}");

    d.set_flags(&["--force-adopt"]);
    d.restart();
    let faulty = d.json_lines(&["faulty"]);
    let ids: Vec<_> = faulty.iter().map(|line| line["thin_id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6], "ballast, a witness, a template, a volume: {faulty:?}");
    assert!(d.log().contains("adopting by force"), "{}", d.log());
    assert!(d.cli(&["status"]).ok().contains("see `thinfs faulty`"));
    // Once is enough.
    assert_eq!(d.stop(), Some(0));
    d.set_flags(&[]);
    d.restart();
    assert_eq!(d.json(&["status"])["faulty"].as_array().unwrap().len(), ids.len());
    assert_eq!(d.json(&["check"])["sound"], true);
    assert_eq!(d.cli(&["faulty", "--retry", "6"]).ok(), "6: gone\n");
    let all: String = ids[..6].iter().map(|id| format!("{id}: gone\n")).collect();
    assert_eq!(d.cli(&["faulty", "--retry"]).ok(), all);
    assert_eq!(d.cli(&["faulty"]).ok(), "");
    d.cli(&["prepare", "a"]).ok();
    d.finish();
}

/// Metadata and data of a pool are two files, or two disks with names that change; device-mapper takes any pair.
#[test]
fn in_guest_exchanged_data_devices_are_refused_untouched_and_taken_by_force() {
    let mut pair = ["one", "two"].map(|name| {
        let flags = ["--pool-size", "64M"].map(str::to_owned).into();
        let mut d = Daemon::start_with(Options { flags, ..Options::default() });
        d.cli(&["prepare", "a"]).ok();
        fs::write(d.active("a").join("name"), name).unwrap();
        d.cli(&["commit", "a", "base"]).ok();
        assert_eq!(d.stop(), Some(0));
        d
    });
    let files =
        |d: &Daemon| ["data.img", "metadata.img"].map(|name| d.root().join("thin").join(name));
    let all: Vec<PathBuf> = pair.iter().flat_map(files).collect();
    exchange(&all[0], &all[2]);
    let before: Vec<_> = all.iter().map(|path| fs::read(path).unwrap()).collect();
    for d in &pair {
        let refused = run_command(d.serve_command(), Duration::from_secs(120));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let data = files(d)[0].display().to_string();
        for words in
            [&data, "is not the data device of this pool", "of another pool", "--force-adopt"]
        {
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }
    }
    for (path, before) in all.iter().zip(&before) {
        assert!(fs::read(path).unwrap() == *before, "{} was changed", path.display());
    }
    // The right one again, killed as well as stopped.
    exchange(&all[0], &all[2]);
    for (d, name) in pair.iter_mut().zip(["one", "two"]) {
        d.restart();
        d.kill();
        d.restart();
        assert_eq!(fs::read_to_string(d.committed("base").join("name")).unwrap(), name);
        assert_eq!(d.json(&["check"])["sound"], true);
        assert_eq!(d.stop(), Some(0));
    }
    // Taken by force, once, it is this pool's from then on.
    let [mut one, two] = pair;
    fs::copy(&all[2], &all[0]).unwrap();
    one.set_flags(&["--pool-size", "64M", "--force-adopt"]);
    one.restart();
    assert!(one.log().contains("adopting by force a data device"), "{}", one.log());
    assert_eq!(one.stop(), Some(0));
    one.set_flags(&["--pool-size", "64M"]);
    one.restart();
    one.cli(&["prepare", "b"]).ok();
    one.finish();
    two.finish();
}

fn exchange(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    for (from, to) in [(a, &*aside), (b, a), (&*aside, b)] {
        fs::rename(from, to).unwrap();
    }
}
