//! Gives a layer's tar back byte by byte, though only its files are kept.
//!
//! While a layer is unpacked, a [`Recorder`] writes a *record*: everything of the archive that is
//! not file content (headers, padding, what follows the end), and for each content where in the
//! tree it went, how long it is and its checksum. [`reassemble`] reads the contents back from the
//! tree. Contents that the layer itself replaced later are kept in the record.
//!
//! A record is a stream of chunks, so that writing needs neither seeking nor memory:
//!
//! ```text
//! record  = "TFSPLIT1" chunk* end
//! chunk   = kind:u8 length:u32 crc32c(payload):u32 payload       (little endian)
//!   kind 1  zstd(operation*)
//!   kind 2  number:u64 zstd(bytes)      the next bytes of the replaced content with that number
//!   kind 3  sha256 of the tar:32 length of the tar:u64 contents:u64       the end
//! operation = 0 n bytes                         bytes of the tar       (numbers are LEB128)
//!           | 1 n path crc32c:u32 length        a file's whole content
//!           | 2 n path crc32c:u32 k (gap length)*   its runs, each behind the end of the last
//! ```
//!
//! Contents are numbered from 0 in the order of their operations. Damage of a record is noticed
//! before anything of the chunk is used; damage of the tree when a content's checksum differs, and
//! at the latest when the digest of the whole does.

mod encoding;
mod reassemble;
mod record;

use std::io;
use std::os::fd::BorrowedFd;

pub use reassemble::{Reassembled, reassemble};
pub use record::Recorder;

use super::error::Result;
use super::tar::Tap;

/// A file's content, as it stands in an archive.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// The file's path below the root, without symlinks.
    pub path: &'a [u8],
    /// Length of the content.
    pub size: u64,
    /// Where in the file its parts are; `None`: it is the whole file.
    pub extents: Option<&'a [(u64, u64)]>,
    /// crc32c of the content.
    pub checksum: u32,
}

/// Takes what a record is made of.
pub trait Sink: Tap {
    /// Whether checksums and replaced contents are wanted at all.
    const WANTED: bool;

    /// A content that is in the tree now. Returns its number.
    fn body(&mut self, body: &Body<'_>) -> Result<u64>;

    /// The content of this number is about to go from the tree; here it can still be read.
    fn rescue(&mut self, number: u64, file: BorrowedFd<'_>, extents: &[(u64, u64)]) -> Result<()>;
}

/// Nothing is recorded.
impl Sink for () {
    const WANTED: bool = false;

    fn body(&mut self, _: &Body<'_>) -> Result<u64> {
        Ok(0)
    }

    fn rescue(&mut self, _: u64, _: BorrowedFd<'_>, _: &[(u64, u64)]) -> Result<()> {
        Ok(())
    }
}

impl<T: Tap> Tap for &mut T {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).raw(bytes)
    }
}

impl<S: Sink> Sink for &mut S {
    const WANTED: bool = S::WANTED;

    fn body(&mut self, body: &Body<'_>) -> Result<u64> {
        (**self).body(body)
    }

    fn rescue(&mut self, number: u64, file: BorrowedFd<'_>, extents: &[(u64, u64)]) -> Result<()> {
        (**self).rescue(number, file, extents)
    }
}
