//! A store that is gone: the pool is refused, taken by force when asked for, and what it holds is set aside and given back.

use std::time::Duration;

use crate::harness::{Daemon, is_thin, run_command};

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
    assert_eq!(ids, [0, 1, 2, 3, 4, 5], "ballast, a template, a volume: {faulty:?}");
    assert!(d.log().contains("adopting by force"), "{}", d.log());
    assert!(d.cli(&["status"]).ok().contains("see `thinfs faulty`"));
    // Once is enough.
    assert_eq!(d.stop(), Some(0));
    d.set_flags(&[]);
    d.restart();
    assert_eq!(d.json(&["status"])["faulty"].as_array().unwrap().len(), ids.len());
    assert_eq!(d.json(&["check"])["sound"], true);
    assert_eq!(d.cli(&["faulty", "--retry", "5"]).ok(), "5: gone\n");
    let all: String = ids[..5].iter().map(|id| format!("{id}: gone\n")).collect();
    assert_eq!(d.cli(&["faulty", "--retry"]).ok(), all);
    assert_eq!(d.cli(&["faulty"]).ok(), "");
    d.cli(&["prepare", "a"]).ok();
    d.finish();
}
