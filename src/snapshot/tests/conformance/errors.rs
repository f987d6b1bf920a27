//! Every error, and which of two comes first.

use super::*;

/// Each row: an operation, what it must answer, and a word that the text must hold. Where two rules
/// are broken at once, the row tells which one is checked first. Nothing may change.
pub(super) fn every_error(scene: &Scene<'_>) {
    use Code::*;
    base(scene);
    let before = all(scene);
    let long = "x".repeat(4090);
    let size = |text| [("containerd.io/snapshot/max-size", text)];
    let void = |result: Result<Info>| result.map(drop);
    #[rustfmt::skip] // a table: a row a line
    let table: Vec<(&str, Result<()>, Code, &str)> = vec![
        ("prepare: parent missing", void(scene.prepare("new", "none")), NotFound, "none"),
        ("prepare: parent missing, key taken", void(scene.prepare("a1", "none")), NotFound, "none"),
        ("prepare: on itself", void(scene.prepare("new", "new")), NotFound, "new"),
        ("prepare: parent active", void(scene.prepare("new", "a1")), InvalidArgument, "a1"),
        ("prepare: parent a view", void(scene.prepare("new", "v1")), InvalidArgument, "v1"),
        ("prepare: parent active, key taken", void(scene.prepare("c1", "a1")), InvalidArgument, "a1"),
        ("prepare: key is active", void(scene.prepare("a1", "c1")), AlreadyExists, "a1"),
        ("prepare: key is a view", void(scene.prepare("v1", "c1")), AlreadyExists, "v1"),
        ("prepare: key is committed", void(scene.prepare("c2", "")), AlreadyExists, "c2"),
        ("prepare: label too long", void(scene.prepare_labelled("new", "", &[("label", &long), ("l", &"y".repeat(4096))])), InvalidArgument, "4097"),
        ("prepare: size with a unit", void(scene.prepare_labelled("new", "", &size("10G"))), InvalidArgument, "10G"),
        ("prepare: negative size", void(scene.prepare_labelled("new", "", &size("-1"))), InvalidArgument, "-1"),
        ("prepare: no size", void(scene.prepare_labelled("new", "", &size("0"))), InvalidArgument, "max-size"),
        ("view: parent missing", void(scene.view("new", "none")), NotFound, "none"),
        ("view: parent missing, key taken", void(scene.view("v1", "none")), NotFound, "none"),
        ("view: parent active", void(scene.view("new", "a1")), InvalidArgument, "a1"),
        ("view: parent a view", void(scene.view("new", "v2")), InvalidArgument, "v2"),
        ("view: key is active", void(scene.view("a1", "c2")), AlreadyExists, "a1"),
        ("view: key is a view", void(scene.view("v2", "")), AlreadyExists, "v2"),
        ("view: key is committed", void(scene.view("c1", "c1")), AlreadyExists, "c1"),
        ("mounts: missing", void(scene.mounts("none")), NotFound, "none"),
        ("mounts: committed", void(scene.mounts("c1")), FailedPrecondition, "committed"),
        ("commit: name taken", void(scene.commit("c1", "a1")), AlreadyExists, "c1"),
        ("commit: name taken by a view", void(scene.commit("v1", "a1")), AlreadyExists, "v1"),
        ("commit: name taken, key missing", void(scene.commit("c1", "none")), AlreadyExists, "c1"),
        ("commit: to itself", void(scene.commit("a1", "a1")), AlreadyExists, "a1"),
        ("commit: key missing", void(scene.commit("new", "none")), NotFound, "none"),
        ("commit: a view", void(scene.commit("new", "v1")), FailedPrecondition, "view"),
        ("commit: a committed one", void(scene.commit("new", "c2")), FailedPrecondition, "committed"),
        ("rebase: another parent", void(scene.rebase("new", "a1", "c1")), InvalidArgument, "parent"),
        ("rebase: another parent, missing", void(scene.rebase("new", "a1", "none")), InvalidArgument, "parent"),
        ("rebase: parent missing", void(scene.rebase("new", "a2", "none")), NotFound, "none"),
        ("rebase: onto its own name", void(scene.rebase("new", "a2", "new")), NotFound, "new"),
        ("rebase: parent active", void(scene.rebase("new", "a2", "a1")), FailedPrecondition, "a1"),
        ("rebase: onto its own key", void(scene.rebase("new", "a2", "a2")), FailedPrecondition, "a2"),
        ("rebase: parent a view", void(scene.rebase("new", "a2", "v1")), FailedPrecondition, "v1"),
        ("remove: missing", scene.remove("none"), NotFound, "none"),
        ("remove: has a child", scene.remove("c1"), FailedPrecondition, "remove"),
        ("remove: has an active child and a view", scene.remove("c2"), FailedPrecondition, "remove"),
        ("stat: missing", void(scene.stat("none")), NotFound, "none"),
        ("update: missing", void(scene.replace_labels("none", &[])), NotFound, "none"),
        ("update: label too long", void(scene.merge_labels("a1", &[("label", &"z".repeat(4096))])), InvalidArgument, "4101"),
        ("usage: missing", scene.usage("none").map(drop), NotFound, "none"),
        ("walk: no filter", scene.walk(&["name=a1"]).map(drop), InvalidArgument, "unsupported operator"),
    ];
    for (row, result, expected, word) in table {
        let error = result.expect_err(row);
        assert_eq!(code(&error), expected, "{row}: {error}");
        assert!(error.to_string().contains(word), "{row}: {error}");
    }
    assert_eq!(all(scene), before);
}
