//! Layers, images and read-write layers through the command line, and beside containerd.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::containers::{IMAGE, LAYERS, OVERLAYFS, assert_same, exact};
use crate::harness::containerd::{Containerd, snapshots_on};
use crate::harness::golang::awkward_image;
use crate::harness::{Daemon, eventually, sh};

/// Runs a shell line with `$thinfs` set to a client of this daemon, in `dir`.
#[track_caller]
fn shell(d: &Daemon, dir: &Path, script: &str) -> String {
    let thinfs = format!(
        "thinfs() {{ {} --socket {} \"$@\"; }}; cd {}; {script}",
        env!("CARGO_BIN_EXE_thinfs"),
        d.socket().display(),
        dir.display()
    );
    sh(&thinfs).ok().trim_end().to_owned()
}

#[test]
fn layers_come_back_byte_for_byte_through_files_and_pipes_and_go_with_their_last_reference() {
    let d = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let chains = shell(
        &d,
        dir.path(),
        r#"
        mkdir -p base/etc base/bin top/etc
        echo 127.0.0.1 >base/etc/hosts; head -c 300000 /dev/urandom >base/bin/sh; ln base/bin/sh base/bin/bash
        touch top/etc/.wh.hosts; echo root >top/etc/group
        tar -C base -cf base.tar .; tar -C top -cf top.tar .
        base=$(gzip -c base.tar | thinfs layer import)
        top=$(zstd -qc top.tar >top.zst; thinfs layer import --parent $base <top.zst)
        thinfs layer export $base | cmp - base.tar
        thinfs layer export $top >top.out; cmp top.out top.tar
        thinfs layer export --from $base $top | tar -t | grep -x etc/.wh.hosts >/dev/null
        thinfs layer export --flat $top | tar -t | grep -x bin/bash >/dev/null
        test $(thinfs layer import base.tar) = $base
        echo $base $top"#,
    );
    let (base, top) = chains.split_once(' ').unwrap();
    let info = d.json(&["layer", "info", base]);
    assert_eq!((&info["depth"], &info["holders"]["user"]), (&1.into(), &2.into()), "{info}");
    let root = info["path"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(format!("{root}/etc/hosts")).unwrap(), "127.0.0.1\n");

    let web = d.cli(&["rw", "create", "web", "--parent", top]).ok();
    let web = Path::new(web.trim());
    assert!(!web.join("etc/hosts").exists() && web.join("bin/bash").exists());
    std::fs::write(web.join("note"), "note").unwrap();
    assert_eq!(d.cli(&["rw", "changes", "web"]).ok(), "A note\n");
    assert_eq!(d.cli(&["rw", "create", "web"]).code, Some(4), "the name is taken");
    let committed = d.cli(&["rw", "commit", "web"]).ok();
    let committed = committed.trim();
    let names = shell(&d, dir.path(), &format!("thinfs layer export {committed} | tar -t"));
    assert_eq!(names, "note");
    assert_eq!(d.json_lines(&["layer", "rm", committed]).len(), 1);
    assert_eq!(d.cli(&["-n", "layers", "rm", base]).code, Some(5), "the layer store's own");
    let shown = snapshots_on(&d.socket());
    assert!(shown.is_empty(), "containerd's collector would remove {:?}", shown.keys());

    assert_eq!(d.cli(&["layer", "rm", top, base, base]).ok(), "", "still held");
    assert_eq!(d.cli(&["layer", "rm", base]).code, Some(5), "not retained");
    let removed = d.json_lines(&["rw", "rm", "web"]);
    let removed: Vec<_> = removed.iter().map(|r| r["chain_id"].as_str().unwrap()).collect();
    assert_eq!(removed, [top, base]);
    assert_eq!(d.cli(&["layer", "info", base]).code, Some(3));
    d.cli(&["check"]).ok();
    d.finish();
}

/// On a terminal a bar tells how many bytes there are, how many are done, and how fast.
#[test]
fn an_import_on_a_terminal_shows_bytes_and_rate() {
    let d = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    shell(&d, dir.path(), "head -c 8388608 /dev/zero >zeros; tar -cf zeros.tar zeros");
    let (thinfs, socket) = (env!("CARGO_BIN_EXE_thinfs"), d.socket());
    let import = format!("{thinfs} --socket {} layer import zeros.tar", socket.display());
    let shown = shell(&d, dir.path(), &format!("script -qec '{import}' /dev/null </dev/null"));
    assert!(shown.contains("importing [") && shown.contains("8.01 MiB"), "{shown:?}");
    assert!(shown.contains("B/s"), "{shown:?}");
    assert!(shown.contains("sha256:"), "{shown:?}");
    d.finish();
}

/// An image of every kind of file that a layer can hold: unpacked by us and by containerd, given back,
/// and taken by containerd again.
#[test]
fn an_image_is_what_containerd_makes_of_it_and_containerd_takes_it_back() {
    let d = Daemon::start();
    let archive = awkward_image(0);
    let imported = d.cli(&["image", "import", archive.to_str().unwrap()]).ok();
    assert_eq!(imported.trim(), IMAGE);
    let [image] = d.json_lines(&["image", "ls"]).try_into().unwrap();
    assert_eq!(image["diff_ids"].as_array().unwrap().len(), LAYERS);
    let path = d.cli(&["image", "path", IMAGE]).ok();
    let path = Path::new(path.trim());
    let images = || std::fs::read_dir(d.mount().join("images")).unwrap().map(|e| e.unwrap().path());
    let [link] = images().collect::<Vec<_>>().try_into().unwrap();
    assert!(link.ends_with(IMAGE.replace('/', "%2F")), "{link:?}");
    assert_eq!(link.canonicalize().unwrap(), path.canonicalize().unwrap());
    let forbidden = std::fs::remove_file(&link).unwrap_err();
    assert_eq!(forbidden.kind(), std::io::ErrorKind::PermissionDenied);

    let dir = tempfile::tempdir().unwrap();
    shell(&d, dir.path(), &format!("thinfs image export {IMAGE} >export.tar"));
    let c = Containerd::start(None);
    c.import(OVERLAYFS, &dir.path().join("export.tar"));
    let there = c.view(OVERLAYFS, IMAGE);
    assert_same("containerd and thinfs", &exact(there.path()), &exact(path));
    drop(there);
    c.finish();

    shell(&d, dir.path(), &format!("thinfs image rm {IMAGE}"));
    assert_eq!(d.cli(&["layer", "ls"]).ok(), "");
    shell(&d, dir.path(), "mkdir layout; tar -C layout -xf export.tar; thinfs image import layout");
    shell(&d, dir.path(), "thinfs image import - <export.tar");
    let [again] = d.json_lines(&["image", "ls"]).try_into().unwrap();
    assert_eq!((&again["id"], &again["chain_id"]), (&image["id"], &image["chain_id"]));
    d.cli(&["image", "rm", IMAGE]).ok();
    assert_eq!(images().count(), 0);
    d.finish();
}

#[test]
fn what_was_there_is_there_after_a_kill_and_a_half_import_is_not() {
    let mut d = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let chain = shell(
        &d,
        dir.path(),
        "mkdir a; echo a >a/a; head -c 3000000 /dev/urandom >a/b; tar -C a -cf a.tar .; thinfs layer import a.tar",
    );
    let web = d.cli(&["rw", "create", "web", "--parent", &chain]).ok();
    std::fs::write(Path::new(web.trim()).join("kept"), "kept").unwrap();
    sh(&format!("sync -f {}", web.trim())).ok();

    // Half of a layer, then silence.
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
    command.arg("--socket").arg(d.socket()).args(["layer", "import", "--parent", &chain]);
    let mut import = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let half = std::fs::read(dir.path().join("a.tar")).unwrap()[..2_000_000].to_vec();
    let mut stdin = import.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // The daemon goes while this writes.
        let _ = std::io::Write::write_all(&mut stdin, &half);
        stdin
    });
    eventually("the import has begun", || {
        d.json(&["layer", "info", &chain])["holders"].as_object().unwrap().len() > 2
    });
    d.kill();
    drop(writer.join().unwrap());
    assert!(!import.wait().unwrap().success());
    d.restart();

    let [only] = d.json_lines(&["layer", "ls"]).try_into().unwrap();
    assert_eq!(only["holders"].as_object().unwrap().len(), 2, "the user and web: {only}");
    assert_eq!(d.json_lines(&["-n", "layers", "ls"]).len(), 2);
    let web = d.json(&["rw", "info", "web"]);
    let kept = format!("{}/kept", web["path"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept");
    shell(&d, dir.path(), &format!("thinfs layer export {chain} | cmp - a.tar"));
    d.cli(&["rw", "rm", "web"]).ok();
    d.cli(&["layer", "rm", &chain]).ok();
    d.cli(&["check"]).ok();
    d.finish();
}

/// A client that goes away takes its import with it, though the pipe stays open.
#[test]
fn an_import_ends_with_its_client() {
    let d = Daemon::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinfs"));
    command.arg("--socket").arg(d.socket()).args(["layer", "import"]);
    let mut import = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdin = import.stdin.take().unwrap();
    let imports = || d.json_lines(&["-n", "layers", "ls"]).len();
    eventually("the import has begun", || imports() == 1);
    let active = d.mount().join(".ns/layers/active");
    assert_eq!(std::fs::read_dir(&active).unwrap().count(), 0, "nobody sees a half layer");
    std::fs::metadata(active.join("import:0")).unwrap_err();
    import.kill().unwrap();
    import.wait().unwrap();
    eventually("nothing of it is left", || imports() == 0);
    drop(stdin);
    d.finish();
}
