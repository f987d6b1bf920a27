//! What can go wrong with a layer.

use std::io;

use crate::tree;

/// Why a layer could not be read, unpacked, recorded or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input's own error: the stream broke, or its compression is damaged.
    #[error("reading the layer")]
    Input(#[source] io::Error),
    /// The bytes are no tar archive, or a broken one.
    #[error("invalid archive at byte {at}: {what}")]
    Malformed {
        /// Position in the uncompressed stream, near which it was noticed.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The archive is well formed, but an entry asks for what no layer may.
    #[error("invalid archive: entry {path:?}: {what}")]
    Refused {
        /// The entry's name.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The compression is recognised but not supported.
    #[error("the layer is compressed with {0}: only gzip and zstd are supported")]
    Compression(&'static str),
    /// The archive has more of something than the caller allows.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// How many are allowed.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// A system call on the tree failed.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done, as in "creating file".
        doing: &'static str,
        /// To what, relative to the tree's root.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A walk over the tree failed.
    #[error("working on the layer's tree")]
    Tree(#[from] tree::Error),
    /// The output's own error.
    #[error("writing the layer")]
    Output(#[source] io::Error),
    /// The tar-split record could not be written.
    #[error("writing the tar-split record")]
    RecordOutput(#[source] io::Error),
    /// The tar-split record could not be read.
    #[error("reading the tar-split record")]
    RecordInput(#[source] io::Error),
    /// The tar-split record is damaged, cut short, or none.
    #[error("invalid tar-split record: {0}")]
    Record(&'static str),
    /// The tree no longer holds what the layer put there.
    #[error("could not verify layer data: {0}")]
    Verify(String),
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
}

/// What layer operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// Characters that a message shows of a name, which in an archive may have a million.
const SHOWN: usize = 200;

/// Bytes of an archive as readable text, for messages only: its beginning where it is long.
pub(super) fn text(path: &[u8]) -> String {
    // No character takes more than four bytes, so one more than is shown is in these.
    let text = String::from_utf8_lossy(&path[..path.len().min(4 * (SHOWN + 1))]);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Gives a failed system call its words.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &[u8]) -> Result<T>;
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: &'static str, path: &[u8]) -> Result<T> {
        self.map_err(|errno| Error::Io { doing, path: text(path), source: errno.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_the_beginning_of_a_long_name() {
        for (name, shown) in [("x", "x"), ("é", "é"), ("世", "世"), ("🦀", "🦀")] {
            let exactly = name.repeat(SHOWN);
            assert_eq!(text(exactly.as_bytes()), exactly);
            let cut = format!("{}…", shown.repeat(SHOWN));
            assert_eq!(text(name.repeat(SHOWN + 1).as_bytes()), cut);
            assert_eq!(text(name.repeat(1 << 20).as_bytes()), cut);
        }
        let garbage = format!("{}…", "\u{fffd}".repeat(SHOWN));
        assert_eq!(text(&[0xff; 1 << 20]), garbage);
        assert_eq!(text(&b"\xf0\x9f\xa6".repeat(1 << 10)), garbage);
    }
}
