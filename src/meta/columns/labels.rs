//! Column family `labels`: `namespace \0 hash(label) hash(value) key` → nothing.

use sha2::{Digest, Sha256};

use super::{Malformed, namespace, snapshot_key, split};
use crate::types::{Namespace, SnapshotKey};

/// Index of [`Snapshots`](super::Snapshots) by label, and by label and value. Labels and values may
/// be kilobytes long and hold any byte, so their places are taken by the first 16 bytes of their
/// SHA-256: whoever reads the index looks at the record, too.
pub(in crate::meta) struct Labels;

/// Bytes of a hash.
const HASH: usize = 16;

impl Labels {
    pub(in crate::meta) fn row_key(
        ns: &Namespace,
        label: &str,
        value: &str,
        key: &SnapshotKey,
    ) -> Vec<u8> {
        let mut row_key = Self::prefix(ns, label, Some(value));
        row_key.extend_from_slice(key.as_str().as_bytes());
        row_key
    }

    /// What the rows of one label start with, of any value or of one.
    pub(in crate::meta) fn prefix(ns: &Namespace, label: &str, value: Option<&str>) -> Vec<u8> {
        let mut prefix = ns.as_str().as_bytes().to_vec();
        prefix.push(0);
        prefix.extend_from_slice(&hash(label));
        if let Some(value) = value {
            prefix.extend_from_slice(&hash(value));
        }
        prefix
    }

    /// Namespace and snapshot key.
    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, SnapshotKey), Malformed> {
        let (ns, rest) = split(row_key)?;
        let key = rest.get(2 * HASH..).ok_or_else(|| Malformed::RowKey(row_key.to_vec()))?;
        Ok((namespace(ns)?, snapshot_key(key)?))
    }
}

fn hash(text: &str) -> [u8; HASH] {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut hash = [0; HASH];
    hash.copy_from_slice(&digest[..HASH]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_starts_with_the_prefixes_of_its_label_and_value_and_decodes() {
        let ns = Namespace::new("k8s.io").unwrap();
        let key = SnapshotKey::new("a key").unwrap();
        let row = Labels::row_key(&ns, "owner", "c\0i", &key);
        assert!(row.starts_with(&Labels::prefix(&ns, "owner", Some("c\0i"))));
        assert!(row.starts_with(&Labels::prefix(&ns, "owner", None)));
        assert!(!row.starts_with(&Labels::prefix(&ns, "owner", Some("ci"))));
        assert_eq!(Labels::decode_row_key(&row).unwrap(), (ns, key));
        assert!(Labels::decode_row_key(b"ns\0short").is_err());
    }
}
