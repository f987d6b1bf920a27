//! Column family `references`: `namespace \0 kind \0 id \0 way key` → nothing.

use super::{Malformed, join, namespace, snapshot_key, split, text};
use crate::types::{LabelReference, Namespace, SnapshotKey};

/// Index of [`Snapshots`](super::Snapshots) by what their labels name: who refers to something (way `f`, forth), and
/// who says that something keeps it (way `b`, back). So a collector that knows what has changed finds its way without
/// reading the rest.
pub(in crate::meta) struct References;

impl References {
    /// The row of one reference of this snapshot. None if what it names can't exist: no kind and no id holds a NUL.
    pub(in crate::meta) fn row_key(
        ns: &Namespace,
        reference: &LabelReference<'_>,
        key: &SnapshotKey,
    ) -> Option<Vec<u8>> {
        let LabelReference { kind, id, back } = *reference;
        if kind.contains('\0') || id.contains('\0') {
            return None;
        }
        let mut row_key = Self::prefix(ns, kind, id, back);
        row_key.extend_from_slice(key.as_str().as_bytes());
        Some(row_key)
    }

    /// What the rows of those start with that name this, one way.
    pub(in crate::meta) fn prefix(ns: &Namespace, kind: &str, id: &str, back: bool) -> Vec<u8> {
        let way: &[u8] = if back { b"b" } else { b"f" };
        join(&[ns.as_str().as_bytes(), kind.as_bytes(), id.as_bytes(), way])
    }

    /// Namespace, and the snapshot whose label it is.
    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, SnapshotKey), Malformed> {
        let (ns, rest) = split(row_key)?;
        let (kind, rest) = split(rest)?;
        let (id, rest) = split(rest)?;
        text(kind).and(text(id))?;
        match rest.split_first() {
            Some((b'f' | b'b', key)) => Ok((namespace(ns)?, snapshot_key(key)?)),
            Some(_) | None => Err(Malformed::RowKey(row_key.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_starts_with_what_it_names_and_the_way_and_decodes() {
        let (ns, key) = (Namespace::new("k8s.io").unwrap(), SnapshotKey::new("a key").unwrap());
        for back in [false, true] {
            let reference = LabelReference { kind: "snapshot", id: "b/c sha256:1", back };
            let row = References::row_key(&ns, &reference, &key).unwrap();
            assert!(row.starts_with(&References::prefix(&ns, "snapshot", "b/c sha256:1", back)));
            assert!(!row.starts_with(&References::prefix(&ns, "snapshot", "b/c sha256:1", !back)));
            assert!(!row.starts_with(&References::prefix(&ns, "snapshot", "b/c sha256:", back)));
            assert_eq!(References::decode_row_key(&row).unwrap(), (ns.clone(), key.clone()));
        }
        let odd = LabelReference { kind: "snapshot", id: "a\0b", back: false };
        assert_eq!(References::row_key(&ns, &odd, &key), None);
        assert!(References::decode_row_key(b"ns\0kind\0id\0xkey").is_err());
    }
}
