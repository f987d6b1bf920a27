//! What walk, usage and stat answer.

use super::*;

/// containerd's `checkWalk` and `checkStatInWalk`.
pub(super) fn walk_passes_containerds_table(scene: &Scene<'_>) {
    let root = ("containerd.io/gc.root", "check-walk");
    scene.prepare_labelled("a-np", "", &[root]).unwrap();
    scene.prepare_labelled("p-tmp", "", &[root]).unwrap();
    scene.commit_labelled("p", "p-tmp", &[root]).unwrap();
    scene.prepare_labelled("a", "p", &[root]).unwrap();
    scene.view_labelled("v", "p", &[root]).unwrap();
    scene.prepare_labelled("p-wl-tmp", "", &[root]).unwrap();
    scene.commit_labelled("p-wl", "p-wl-tmp", &[("l", "1"), root]).unwrap();
    scene.prepare_labelled("a-wl", "p-wl", &[("l", "2"), root]).unwrap();
    scene.view_labelled("v-wl", "p-wl", &[("l", "3"), root]).unwrap();
    scene.prepare_labelled("a-np-wl", "", &[("l", "2"), root]).unwrap();

    let rooted = r#"labels."containerd.io/gc.root"==check-walk"#;
    let with = |condition: &str| format!("{condition},{rooted}");
    let table: &[(&[&str], &[&str])] = &[
        (&[rooted], &["a", "a-np", "a-np-wl", "a-wl", "p", "p-wl", "v", "v-wl"]),
        (&[&with("kind==active")], &["a", "a-np", "a-np-wl", "a-wl"]),
        (&[&with("kind==view")], &["v", "v-wl"]),
        (&[&with("kind==committed")], &["p", "p-wl"]),
        (&["name==p", "name==a-np-wl"], &["a-np-wl", "p"]),
        (&["name==a-wl,labels.l"], &["a-wl"]),
        (&["parent==p"], &["a", "v"]),
        (&[&with(r#"parent!="""#)], &["a", "a-wl", "v", "v-wl"]),
        (&["labels.l"], &["a-np-wl", "a-wl", "p-wl", "v-wl"]),
        (&["labels.l==2"], &["a-np-wl", "a-wl"]),
        (&[r#"labels.l==2,parent=="p-wl""#], &["a-wl"]),
        (&["name~=^a-,kind==active"], &["a-np", "a-np-wl", "a-wl"]),
        (&["name==missing"], &[]),
        (&["parent==missing"], &[]),
    ];
    for (filters, expected) in table {
        assert_eq!(scene.walk(filters).unwrap(), *expected, "{filters:?}");
    }
    let mut seen = 0;
    scene
        .snapshots
        .walk(&scene.ns, &[], &mut |info| {
            seen += 1;
            assert_eq!(scene.stat(info.key.as_str()).unwrap(), info);
            if seen < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    assert_eq!(seen, 3);
}

pub(super) fn usage_is_the_snapshots_own(scene: &Scene<'_>) {
    let committed = scene.layer("c", "", "one");
    assert_eq!(Some(scene.usage("c").unwrap()), committed.snapshot.usage);
    scene.view("v", "c").unwrap();
    assert_eq!(scene.usage("v").unwrap(), Usage::default());
    scene.view("empty", "").unwrap();
    scene.usage("empty").unwrap();

    let active = scene.prepare("a", "c").unwrap();
    let at_first = scene.usage("a").unwrap();
    let pin = scene.open(&active);
    for file in 0..20 {
        write(&pin, &format!("file{file}"), &"x".repeat(8192)).unwrap();
    }
    rustix::fs::syncfs(pin.root()).unwrap();
    // The first answer is kept for two seconds.
    assert_eq!(scene.usage("a").unwrap(), at_first);
    eventually("usage counts new files", || {
        let usage = scene.usage("a").unwrap();
        usage.size >= at_first.size + 20 * 8192 && usage.inodes == at_first.inodes + 20
    });
    scene.prepare("b", "c").unwrap();
    let cancelled = scene.snapshots.usage(&scene.ns, &key("b"), &AtomicBool::new(true));
    assert!(
        matches!(cancelled, Err(crate::snapshot::Error::Volume(volume::Error::Cancelled(_)))),
        "{cancelled:?}"
    );
}

pub(super) fn keys_seen_in_the_wild_work(scene: &Scene<'_>) {
    let long = "k8s.io/17/".to_owned() + &"日".repeat(1362);
    let keys = [
        "k8s.io/17/extract-1 sha256:ab",
        "/abs/path",
        "..",
        ".",
        "a\nb",
        "%41",
        "\u{1}",
        "🙂",
        &long,
    ];
    for name in keys {
        let info = scene.prepare(name, "").unwrap();
        assert_eq!(scene.stat(name).unwrap(), info);
        assert_eq!(scene.snapshots.stat_id(info.snapshot.id).unwrap().unwrap(), info);
    }
    let mut sorted: Vec<_> = keys.into_iter().map(str::to_owned).collect();
    sorted.sort();
    assert_eq!(scene.page(Kind::Active), sorted);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(long.as_bytes()).into();
    assert_eq!(scene.snapshots.key_by_digest(&scene.ns, &digest).unwrap(), Some(key(&long)));
    scene.commit("short", &long).unwrap();
    assert_eq!(scene.snapshots.key_by_digest(&scene.ns, &digest).unwrap(), None);
}

pub(super) fn ids_are_unique_and_found(scene: &Scene<'_>) {
    base(scene);
    let all = all(scene);
    let ids: BTreeSet<_> = all.iter().map(|info| info.snapshot.id).collect();
    assert_eq!(ids.len(), 6);
    for info in all {
        assert_eq!(scene.snapshots.stat_id(info.snapshot.id).unwrap(), Some(info.clone()));
        scene.snapshots.open(info.snapshot.id).unwrap();
    }
}
