//! What labels tell the collector, besides references.

use std::time::SystemTime;

use super::mark::Depth;
use super::source::{Resource, SNAPSHOT, Tie};
use crate::types::{EXPIRE_LABEL, FLAT_LABEL, Labels, Lease, ROOT_LABEL, label_references};

/// When these labels say that something ends. A time that isn't RFC 3339 counts as none, as
/// containerd has it: so a mistyped lease holds for ever rather than not at all.
pub fn expires(labels: &Labels) -> Option<SystemTime> {
    let text = labels.get(EXPIRE_LABEL)?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.into()),
        Err(error) => {
            tracing::debug!(text, %error, "a label {EXPIRE_LABEL} is no time; it is ignored");
            None
        }
    }
}

/// The value that makes a label [`EXPIRE_LABEL`] mean this time.
pub fn expiry(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| time.to_string())
}

/// Whether the lease has ended.
pub(super) fn has_ended(lease: &Lease, now: SystemTime) -> bool {
    expires(&lease.labels).is_some_and(|end| end <= now)
}

/// How far a lease reaches; a flat one keeps no more than what it holds, with its parts. `None`: it has ended.
pub(super) fn reach(lease: &Lease, now: SystemTime) -> Option<Depth> {
    let depth = if is_flat(&lease.labels) { Depth::Flat } else { Depth::Full };
    (!has_ended(lease, now)).then_some(depth)
}

/// Whether a lease with these labels is flat.
pub(super) fn is_flat(labels: &Labels) -> bool {
    labels.contains_key(FLAT_LABEL)
}

/// Why these labels make a snapshot a root, and until when.
pub(super) fn root(labels: &Labels, now: SystemTime) -> (Option<String>, Option<SystemTime>) {
    if labels.contains_key(ROOT_LABEL) {
        return (Some(format!("it has the label {ROOT_LABEL}")), None);
    }
    match expires(labels).filter(|end| *end > now) {
        Some(end) => (Some(format!("its label {EXPIRE_LABEL} says {}", expiry(end))), Some(end)),
        None => (None, None),
    }
}

/// What a snapshot's labels refer to, and what by their word refers to it. `kinds`: those that are
/// registered.
pub(super) fn references(
    labels: &Labels,
    kinds: &[super::Kind],
) -> (Vec<(Tie, Resource)>, Vec<Resource>) {
    let (mut edges, mut back) = (Vec::new(), Vec::new());
    for reference in label_references(labels) {
        let known = kinds.iter().chain([&SNAPSHOT]).find(|kind| **kind == reference.kind);
        match (known, reference.back) {
            (Some(kind), false) => edges.push((Tie::Label, Resource::new(kind, reference.id))),
            (Some(kind), true) => back.push(Resource::new(kind, reference.id)),
            (None, _) => {}
        }
    }
    (edges, back)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn labels(expire: &str) -> Labels {
        Labels::from([(EXPIRE_LABEL.to_owned(), expire.to_owned())])
    }

    #[test]
    fn an_expiry_is_rfc_3339_in_any_zone_and_anything_else_is_none() {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for text in ["2023-11-14T22:13:20Z", "2023-11-15T00:13:20+02:00"] {
            assert_eq!(expires(&labels(text)), Some(at), "{text}");
        }
        assert_eq!(expires(&labels(&expiry(at))), Some(at));
        for text in ["", "tomorrow", "1700000000"] {
            assert_eq!(expires(&labels(text)), None, "{text}");
        }
    }

    #[test]
    fn a_snapshot_is_a_root_until_its_own_expiry() {
        let end = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let before = end - Duration::from_secs(1);
        assert!(root(&labels("2023-11-14T22:13:20Z"), before).0.is_some());
        assert_eq!(root(&labels("2023-11-14T22:13:20Z"), end), (None, None));
        assert_eq!(root(&labels("never"), end), (None, None));
    }
}
