//! The two names of a layer.
//!
//! A [`DiffId`] names a layer's bytes, a [`ChainId`] names a layer together with everything below
//! it. Both are sha256 and both are written `sha256:<64 hex digits>`; they are never the same type.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// What every digest starts with.
const PREFIX: &str = "sha256:";

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest of the form sha256:<64 lower-case hex digits>")]
pub struct InvalidDigest(String);

/// 32 bytes with the text form of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Hash([u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        f.pad(&text)
    }
}

impl FromStr for Hash {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let hex = text.strip_prefix(PREFIX)?.as_bytes();
            let mut bytes = [0; 32];
            if hex.len() != 2 * bytes.len() {
                return None;
            }
            for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
            }
            Some(Hash(bytes))
        };
        parse().ok_or_else(|| InvalidDigest(text.chars().take(100).collect()))
    }
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Hash);

        impl $name {
            /// Wraps a sha256 computed or stored elsewhere.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(Hash(bytes))
            }

            /// The sha256 itself.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                text.parse().map(Self)
            }
        }
    };
}

digest_type! {
    /// sha256 of a layer's uncompressed tar, trailing bytes included.
    DiffId
}

digest_type! {
    /// Names a layer on its parents: equal chain ids mean equal content of the whole tree.
    ChainId
}

impl ChainId {
    /// The chain id of `layer` on `parent`: the diff id itself for a base layer, else the sha256 of
    /// `"<parent's chain id> <diff id>"`.
    pub fn new(parent: Option<ChainId>, layer: DiffId) -> Self {
        match parent {
            None => Self(layer.0),
            Some(parent) => {
                let hash = Sha256::digest(format!("{parent} {layer}").as_bytes());
                Self(Hash(hash.into()))
            }
        }
    }

    /// The chain id of the last of `layers`, which are given from the base upward.
    pub fn of(layers: impl IntoIterator<Item = DiffId>) -> Option<Self> {
        layers.into_iter().fold(None, |parent, layer| Some(Self::new(parent, layer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff_id(digit: char) -> DiffId {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
    }

    #[test]
    fn digest_text_round_trips_and_anything_else_is_refused() {
        let text = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(text.parse::<DiffId>().unwrap().to_string(), text);
        assert_eq!(text.parse::<ChainId>().unwrap().to_string(), text);
        let refused = [
            "",
            "sha256:",
            &text[..70],
            &text[7..],
            &text.to_uppercase(),
            &text.replace("sha256", "sha512"),
            &text.replace('f', "g"),
            &format!("{text}0"),
        ];
        for text in refused {
            assert!(text.parse::<DiffId>().is_err(), "{text}");
        }
    }

    #[test]
    fn base_layer_has_its_diff_id_as_chain_id() {
        let layer = diff_id('a');
        assert_eq!(ChainId::new(None, layer).to_string(), layer.to_string());
        assert_eq!(ChainId::of([]), None);
    }

    /// Expected values from `printf '%s' "sha256:… sha256:…" | sha256sum`.
    #[test]
    fn chain_id_hashes_parent_and_layer() {
        let (a, b, c) = (diff_id('a'), diff_id('b'), diff_id('c'));
        let ab = ChainId::of([a, b]).unwrap();
        let abc = ChainId::of([a, b, c]).unwrap();
        assert_eq!(
            ab.to_string(),
            "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
        );
        assert_eq!(
            abc.to_string(),
            "sha256:c1377126441fb2f5ec2c21ae2a60255331d639e830f0ee1b40a36e52d4c40588"
        );
        assert_eq!(abc, ChainId::new(Some(ab), c));
    }
}
