//! What labels refer to, in containerd's words.
//!
//! | label | means |
//! |---|---|
//! | `containerd.io/gc.root` | it stays, whatever refers to it |
//! | `containerd.io/gc.expire` = RFC 3339 | on a snapshot: it stays until then; on a lease: it ends then |
//! | `containerd.io/gc.flat` | on a lease: it keeps what it holds with its parents, but not what labels refer to |
//! | `containerd.io/gc.ref.snapshot.<name>[/x]` = KEY | it keeps the snapshot KEY |
//! | `containerd.io/gc.bref.snapshot.<name>[/x]` = KEY | the snapshot KEY keeps it |
//!
//! `<name>` is the name under which containerd knows the snapshotter. thinfs isn't told that name,
//! so any counts: a label that means another snapshotter's key can keep too much, never too little.
//! Instead of `snapshot.<name>` the word may be that of another registered kind, as in
//! `containerd.io/gc.ref.layer.base` = chain id.

use super::Labels;

/// Stays, whatever refers to it.
pub const ROOT_LABEL: &str = "containerd.io/gc.root";
/// When a lease ends, or until when a snapshot stays in any case; RFC 3339.
pub const EXPIRE_LABEL: &str = "containerd.io/gc.expire";
/// The lease doesn't follow labels.
pub const FLAT_LABEL: &str = "containerd.io/gc.flat";
const REFERENCE: &str = "containerd.io/gc.ref.";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// One label that refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelReference<'a> {
    /// The other's kind, by its word.
    pub kind: &'a str,
    /// The other's id.
    pub id: &'a str,
    /// Whether the other keeps this one, instead of this one the other.
    pub back: bool,
}

/// What these labels refer to.
pub fn label_references(labels: &Labels) -> impl Iterator<Item = LabelReference<'_>> {
    labels.iter().filter_map(|(label, id)| {
        let (word, back) = match label.strip_prefix(REFERENCE) {
            Some(word) => (word, false),
            None => (label.strip_prefix(BACK_REFERENCE)?, true),
        };
        let kind = word.split(['.', '/']).next().unwrap_or_default();
        (!kind.is_empty() && !id.is_empty()).then_some(LabelReference { kind, id, back })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_refer_by_kind_and_value_forth_and_back() {
        let labels = [
            ("containerd.io/gc.ref.snapshot.thinfs", "a"),
            ("containerd.io/gc.ref.snapshot.thinfs/1", "b/c sha256:1"),
            ("containerd.io/gc.ref.layer", "sha256:2"),
            ("containerd.io/gc.bref.snapshot.thinfs/x", "d"),
            ("containerd.io/gc.ref.", "nothing"),
            ("containerd.io/gc.root", "now"),
            ("owner", "ci"),
        ];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut found: Vec<_> = label_references(&labels).map(|r| (r.kind, r.id, r.back)).collect();
        found.sort_unstable();
        let expected = [
            ("layer", "sha256:2", false),
            ("snapshot", "a", false),
            ("snapshot", "b/c sha256:1", false),
            ("snapshot", "d", true),
        ];
        assert_eq!(found, expected);
    }
}
