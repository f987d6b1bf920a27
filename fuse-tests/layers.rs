//! Which module may name which module and which crate: the table of `lib.rs`, held.

use std::path::{Path, PathBuf};

/// Modules of ours that a module may name, and the crates that only some may.
const MODULES: &[(&str, &[&str])] = &[
    ("crashpoint", &[]),
    ("types", &[]),
    ("sys", &[]),
    ("tree", &["types", "sys"]),
    ("thin", &["crashpoint", "sys"]),
    ("volume", &["crashpoint", "types", "sys", "tree", "thin"]),
    ("meta", &["crashpoint", "types"]),
    ("events", &["types", "meta"]),
    ("snapshot", &["crashpoint", "types", "sys", "meta", "volume"]),
    ("fs", &["types", "sys", "snapshot", "volume"]),
    ("fuse", &["crashpoint", "types", "sys", "fs"]),
    ("layer", &["types", "sys", "tree"]),
    ("gc", &["crashpoint", "types", "sys", "meta", "snapshot"]),
    ("layer_store", &["crashpoint", "types", "tree", "meta", "snapshot", "gc", "layer"]),
    (
        "grpc",
        &[
            "types",
            "sys",
            "tree",
            "volume",
            "events",
            "snapshot",
            "fs",
            "gc",
            "layer",
            "layer_store",
        ],
    ),
    ("config", &["types"]),
    (
        "daemon",
        &[
            "crashpoint",
            "types",
            "sys",
            "config",
            "meta",
            "volume",
            "snapshot",
            "fs",
            "fuse",
            "gc",
            "layer_store",
            "grpc",
        ],
    ),
    ("cli", &["types", "config", "daemon", "gc", "grpc"]),
];

const CRATES: &[(&str, &[&str])] = &[
    ("zerocopy", &["fuse"]),
    ("rocksdb", &["meta"]),
    ("devicemapper", &["sys", "thin"]),
    ("tonic", &["grpc", "cli"]),
    ("clap", &["cli", "config", "main"]),
    ("indicatif", &["cli"]),
];

/// A line of code outside comments and tests, and where it stands.
struct Line {
    module: String,
    place: String,
    code: String,
}

fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut lines);
    assert!(lines.len() > 5_000, "the sources were found");
    lines
}

fn collect(dir: &Path, lines: &mut Vec<Line>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let tests = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
        if path.is_dir() && !tests {
            collect(&path, lines);
        } else if path.extension().is_some_and(|e| e == "rs") && !tests {
            read(&path, lines);
        }
    }
}

fn read(path: &PathBuf, lines: &mut Vec<Line>) {
    let relative = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let module =
        relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
    let text = std::fs::read_to_string(path).unwrap();
    for (number, line) in text.lines().enumerate() {
        // Unit tests stand at the end of their file and may look further.
        if line.starts_with("#[cfg(test)]")
            && text.lines().nth(number + 1).is_some_and(|next| next.starts_with("mod tests {"))
        {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        if !code.trim().is_empty() {
            lines.push(Line {
                module: module.clone(),
                place: format!("src/{}:{}", relative.display(), number + 1),
                code: code.to_owned(),
            });
        }
    }
}

/// Whether `code` names `word` as a path's first part.
fn names(code: &str, prefix: &str) -> bool {
    code.match_indices(prefix).any(|(at, _)| {
        !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.')
    })
}

#[test]
fn dependencies_between_modules_run_downward_only() {
    let mut wrong = Vec::new();
    for line in lines() {
        let Some((_, allowed)) = MODULES.iter().find(|(module, _)| *module == line.module) else {
            continue;
        };
        for (other, _) in
            MODULES.iter().filter(|(other, _)| *other != line.module && !allowed.contains(other))
        {
            if line.code.contains(&format!("crate::{other}::"))
                || line.code.contains(&format!("crate::{other};"))
            {
                wrong.push(format!("{}: {} may not name {other}", line.place, line.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_stay_inside_the_modules_that_adapt_them() {
    let mut wrong = Vec::new();
    for line in lines() {
        for (krate, modules) in CRATES {
            let named = names(&line.code, &format!("{krate}::"))
                || line.code.trim().starts_with(&format!("use {krate}"));
            if named
                && !modules.contains(&line.module.as_str())
                && !line.code.contains(&format!("crate::{krate}"))
            {
                wrong.push(format!(
                    "{}: {} may not name the crate {krate}",
                    line.place, line.module
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_in_sys_only() {
    let unsafe_code = |line: &Line| {
        line.code.contains("unsafe {")
            || line.code.contains("unsafe fn")
            || line.code.contains("unsafe impl")
    };
    let wrong: Vec<_> = lines()
        .into_iter()
        .filter(|line| line.module != "sys" && unsafe_code(line))
        .map(|line| line.place)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Calls that change what outlives the process, and where they are made. Not here: a remount that only takes a
/// seal back, which no start could tell from never having sealed.
const STEPS: &[(&str, &[&str])] = &[
    (
        "thin",
        &[".device_create(", ".table_load(", ".device_suspend(", ".device_remove(", ".target_msg("],
    ),
    ("thin", &["direct::write("]),
    ("volume", &["LoopDevice::attach(", ".refresh_capacity(", ".detach(DETACH_PATIENCE)"]),
    (
        "volume",
        &[
            "mount_detached(",
            "filesystem::grow_ext4(",
            "filesystem::grow_xfs(",
            "discard_all(path)",
            "command.output()",
        ],
    ),
    ("fuse", &["BackingId::register(", "drop(self.id.take())"]),
    ("volume", &["self.layout.make(", "self.layout.publish(", "self.layout.trash(", "tree::copy("]),
];

/// A call belongs to a step if `around` stands on its line, on one of the three above or of the two below.
#[test]
fn every_call_that_outlives_the_process_is_a_step_with_crash_points() {
    let lines = lines();
    let (mut wrong, mut found) = (Vec::new(), 0);
    for (at, line) in lines.iter().enumerate() {
        let calls = STEPS.iter().filter(|(module, _)| *module == line.module);
        let calls = calls.flat_map(|(_, calls)| calls.iter());
        for call in calls.filter(|call| line.code.contains(**call)) {
            found += 1;
            let near = &lines[at.saturating_sub(3)..lines.len().min(at + 3)];
            if !near.iter().any(|near| near.code.contains("around(")) {
                wrong.push(format!("{}: {call} outside of crashpoint::around", line.place));
            }
        }
    }
    assert!(found >= 15, "only {found} calls were found: has the code moved?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Batches without a step of their own.
const WITHOUT_A_STEP: &[&str] = &[
    "src/meta/verify/", // mends: `Store::mend` appends them to its own batch, which is a step
    "src/meta/salvage.rs", // an offline tool: it writes a new store, which a rename puts in place
    "src/meta/backup.rs", // the same
    "src/meta/open.rs", // the log is damaged: no command brings a daemon there
    "src/meta/tail.rs", // an event without a change, for layers that have no batch
    "src/meta/layers.rs", // `damage_layer`, for tests
];

/// A batch that says what it is for has a crash point before and after its write.
#[test]
fn every_batch_of_the_store_says_which_step_it_is() {
    let unnamed: Vec<_> = lines()
        .into_iter()
        .filter(|line| line.code.contains(" Batch::default()"))
        .filter(|line| !WITHOUT_A_STEP.iter().any(|exempt| line.place.starts_with(exempt)))
        .map(|line| line.place)
        .collect();
    assert!(unnamed.is_empty(), "use Batch::of(Step::…): {unnamed:#?}");
    let writes: Vec<_> =
        lines().into_iter().filter(|line| line.code.contains(".write_opt(")).collect();
    for write in &writes {
        // The committer's is called by `Store::write`, inside of its points.
        let known = ["src/meta/group.rs", "src/meta/migrations.rs", "src/meta/open.rs"];
        assert!(known.iter().any(|file| write.place.starts_with(file)), "{}", write.place);
    }
    assert!(!writes.is_empty());
}
