//! Snapshot keys as directory names: one name a key, reversible, and no other spelling is known.
//!
//! A key is written as it is, but for `/`, `%`, control bytes and the names `.` and `..`, which are
//! percent-escaped. A name over 255 bytes is cut, and ends in `%~` and the SHA-256 of the key: the store
//! finds the key by that digest. `%~` never comes out of escaping, so the two forms can't be confused.
//!
//! Pure: knows no snapshot.

use std::fmt::Write;
use std::path::PathBuf;

use percent_encoding::{percent_decode_str, percent_encode_byte};
use sha2::{Digest, Sha256};

use crate::types::{Kind, Namespace, SnapshotKey};

/// The directory below the root that holds the namespaces which the root itself doesn't show.
pub const NAMESPACES: &str = ".ns";
/// The directory below the root that holds the images.
pub const IMAGES: &str = "images";
/// How much of a long key's escaped form stays readable, in bytes.
const READABLE: usize = 150;
/// Stands between the readable part and the digest.
const DIGEST_MARK: &str = "%~";
/// Hexadecimal digits of a SHA-256.
const DIGEST_DIGITS: usize = 64;

/// What a directory name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// This key.
    Key(SnapshotKey),
    /// The key with this SHA-256, if its [`encode`] gives the same name.
    Digest([u8; 32]),
}

/// The directory name of a key.
pub fn encode(key: &SnapshotKey) -> String {
    let escaped = match key.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        key => escape(key),
    };
    if key.fits_a_name() { escaped } else { with_digest(key, &escaped) }
}

/// Escapes what can't stand in a directory name, or would make a name mean two keys. Not the crate's own
/// encoding, which escapes everything that isn't ASCII too.
fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for char in key.chars() {
        match u8::try_from(char) {
            Ok(byte) if SnapshotKey::is_escaped(byte) => {
                escaped.push_str(percent_encode_byte(byte))
            }
            Ok(_) | Err(_) => escaped.push(char),
        }
    }
    escaped
}

fn with_digest(key: &SnapshotKey, escaped: &str) -> String {
    let mut end = READABLE;
    while !escaped.is_char_boundary(end) {
        end -= 1;
    }
    // Not inside an escape, which is three bytes long.
    if let Some(percent) = escaped[..end].rfind('%').filter(|percent| percent + 3 > end) {
        end = percent;
    }
    let mut name = format!("{}{DIGEST_MARK}", &escaped[..end]);
    for byte in Sha256::digest(key.as_str()) {
        write!(name, "{byte:02x}").expect("writing to a string succeeds");
    }
    name
}

/// Reads a directory name; `None` for what [`encode`] never writes.
pub fn decode(name: &[u8]) -> Option<Name> {
    let name = std::str::from_utf8(name).ok()?;
    if let Some((_, digest)) = name.rsplit_once(DIGEST_MARK) {
        return decode_digest(digest).map(Name::Digest);
    }
    let key = SnapshotKey::new(percent_decode_str(name).decode_utf8().ok()?).ok()?;
    (encode(&key) == name).then_some(Name::Key(key))
}

fn decode_digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != DIGEST_DIGITS || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Where a snapshot stands below the mount point. `shown` is the namespace whose snapshots the root
/// itself shows.
pub fn path_of(shown: &Namespace, namespace: &Namespace, kind: Kind, key: &SnapshotKey) -> PathBuf {
    let mut path = PathBuf::new();
    if namespace != shown {
        path.push(NAMESPACES);
        path.push(namespace.as_str());
    }
    path.push(kind.as_str());
    path.push(encode(key));
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NAME_MAX;
    use proptest::prelude::*;

    fn key(text: impl Into<String>) -> SnapshotKey {
        SnapshotKey::new(text).unwrap()
    }

    #[test]
    fn keys_are_escaped_where_a_directory_name_needs_it() {
        for (plain, name) in [
            ("busybox", "busybox"),
            ("default/12/extract-1-aB sha256:ab", "default%2F12%2Fextract-1-aB sha256:ab"),
            ("100%", "100%25"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("a\nb\u{7f}", "a%0Ab%7F"),
            ("größe ☃", "größe ☃"),
        ] {
            assert_eq!(encode(&key(plain)), name);
            assert_eq!(decode(name.as_bytes()), Some(Name::Key(key(plain))));
        }
    }

    #[test]
    fn other_spellings_are_unknown() {
        for name in
            ["%62usybox", "%2f", "%2e", "a%", "a%4", "%00", "", ".", "..", "a%~00", "%ff", "a%~G"]
        {
            assert_eq!(decode(name.as_bytes()), None, "{name}");
        }
        assert_eq!(decode(b"\xff"), None);
    }

    #[test]
    fn long_key_ends_in_its_digest_and_is_cut_at_a_boundary() {
        for text in
            ["a".repeat(256), "/".repeat(100), "☃".repeat(200), format!("a{}", "%".repeat(300))]
        {
            let name = encode(&key(text.clone()));
            assert!(name.len() <= READABLE + 2 + DIGEST_DIGITS, "{name}");
            let readable = name.rsplit_once(DIGEST_MARK).unwrap().0;
            let decoded = percent_decode_str(readable).decode_utf8().unwrap();
            assert!(text.starts_with(&*decoded) && !decoded.is_empty());
            let digest: [u8; 32] = Sha256::digest(&text).into();
            assert_eq!(decode(name.as_bytes()), Some(Name::Digest(digest)));
        }
    }

    #[test]
    fn path_names_the_namespace_unless_the_root_shows_it() {
        let shown = Namespace::default();
        let other = Namespace::new("ctr").unwrap();
        let at = |namespace| path_of(&shown, namespace, Kind::Active, &key("a/b"));
        assert_eq!(at(&shown), PathBuf::from("active/a%2Fb"));
        assert_eq!(at(&other), PathBuf::from(".ns/ctr/active/a%2Fb"));
    }

    proptest! {
        #![proptest_config(crate::testing::random(256, 1_000))]
        #[test]
        fn every_key_comes_back(text in "[^\u{0}]{1,400}") {
            let key = key(text);
            let name = encode(&key);
            prop_assert!(name.len() <= NAME_MAX && !name.contains('/') && name != "." && name != "..");
            prop_assert!(!name.bytes().any(|b| b < 0x20 || b == 0x7f));
            match decode(name.as_bytes()) {
                Some(Name::Key(back)) => prop_assert_eq!(back, key),
                Some(Name::Digest(digest)) => prop_assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(key.as_str()))),
                None => prop_assert!(false, "{} is not read back", name),
            }
        }

        #[test]
        fn no_key_has_two_names(name in "[%/.a-zA-Z0-9~ ]{1,12}") {
            if let Some(Name::Key(key)) = decode(name.as_bytes()) {
                prop_assert_eq!(encode(&key), name);
            }
        }
    }
}
