//! Corners of the file interface, one script each, run in a snapshot and on ext4.

use super::faithful::{python, same_everywhere};
use super::*;

/// The same everywhere, and not because it fails everywhere.
fn same(script: impl Fn(&Path) -> String) {
    let said = same_everywhere(|dir| script(dir).replace(dir.to_str().unwrap(), "DIR"));
    assert!(said.starts_with("Some(0) "), "on ext4 itself: {said}");
    assert!(said.len() > 20, "it says something: {said}");
}

fn shell(script: &str, dir: &Path) -> String {
    let mut command = std::process::Command::new("timeout");
    command.args(["120", "bash", "-c", script, "script"]).arg(dir);
    let done = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?} {}{}", done.status.code(), text(&done.stdout), text(&done.stderr))
}

macro_rules! corners {
    ($($name:ident: $run:expr;)*) => {
        $(
            #[test]
            fn $name() {
                same($run);
            }
        )*
    };
}

corners! {
    locks_are_held_and_refused: |dir| python(include_str!("corners/locks.py"), &[dir]);
    inotify_tells_what_happens_in_a_directory: |dir| python(include_str!("corners/inotify.py"), &[dir]);
    times_are_kept_to_the_nanosecond_and_far_away: |dir| python(include_str!("corners/times.py"), &[dir]);
    the_limit_of_file_sizes_holds: |dir| python(include_str!("corners/limits.py"), &[dir]);
    handles_find_files_again_and_go_stale: |dir| python(include_str!("corners/handles.py"), &[dir]);
    mappings_calls_and_direct_io_see_the_same: |dir| python(include_str!("corners/coherence.py"), &[dir]);
    a_mapping_outlives_its_descriptor: |dir| python(include_str!("corners/mapped.py"), &[dir]);
    flags_projects_sticky_bits_and_attributes: |dir| python(include_str!("corners/attributes.py"), &[dir]);
    an_overlay_has_its_layers_in_a_snapshot: |dir| shell(include_str!("corners/overlay.sh"), dir);
    a_filesystem_lives_in_a_file: |dir| shell(include_str!("corners/loop.sh"), dir);
}
