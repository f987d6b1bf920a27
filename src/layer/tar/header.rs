//! The 512 bytes in front of an entry.

use std::ops::Range;

use super::numbers::{numeric, octal, text};
use super::{BLOCK, Time};

/// A block of an archive.
pub(super) type Block = [u8; BLOCK];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const MAGIC_AND_VERSION: Range<usize> = 257..265;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_ATIME: Range<usize> = 476..488;
const STAR_CTIME: Range<usize> = 488..500;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;

/// Which layout the bytes behind the v7 fields have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block's fields.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub layout: Layout,
    pub type_flag: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: Time,
    pub atime: Option<Time>,
    pub device: (i64, i64),
}

fn whole(seconds: i64) -> Time {
    Time { seconds, nanoseconds: 0 }
}

impl Header {
    /// Parses a block that isn't all zeros.
    pub(super) fn parse(block: &Block) -> Result<Self, &'static str> {
        if !checksum_matches(block) {
            return Err("the header's checksum is wrong");
        }
        let number = |field: Range<usize>| numeric(&block[field]).ok_or("a number can't be read");
        let mut header = Header {
            layout: layout(block),
            type_flag: block[TYPE],
            path: text(&block[NAME]).to_vec(),
            link: text(&block[LINK]).to_vec(),
            mode: number(MODE)?,
            uid: number(UID)?,
            gid: number(GID)?,
            size: number(SIZE)?,
            mtime: whole(number(MTIME)?),
            atime: None,
            device: (0, 0),
        };
        if header.layout != Layout::V7 {
            header.device = (number(DEVICE_MAJOR)?, number(DEVICE_MINOR)?);
        }
        let prefix: &[u8] = match header.layout {
            Layout::V7 => &[],
            Layout::Ustar => text(&block[PREFIX]),
            Layout::Star => {
                header.atime = Some(whole(number(STAR_ATIME)?));
                number(STAR_CTIME)?;
                text(&block[STAR_PREFIX])
            }
            Layout::Gnu => match gnu_times(block) {
                Some(atime) => {
                    header.atime = atime;
                    &[]
                }
                // Writers of old put a ustar prefix where GNU has times.
                None => Some(text(&block[PREFIX])).filter(|text| text.is_ascii()).unwrap_or(&[]),
            },
        };
        if !prefix.is_empty() {
            header.path = [prefix, b"/", &header.path].concat();
        }
        Ok(header)
    }
}

/// GNU's access time, where there is one. `None`: those fields hold something else.
fn gnu_times(block: &Block) -> Option<Option<Time>> {
    let time = |field: Range<usize>| match &block[field] {
        [0, ..] => Some(None),
        field => Some(Some(whole(numeric(field)?))),
    };
    time(GNU_CTIME)?;
    time(GNU_ATIME)
}

fn layout(block: &Block) -> Layout {
    if &block[MAGIC] == b"ustar\0" {
        if &block[STAR_TRAILER] == b"tar\0" { Layout::Star } else { Layout::Ustar }
    } else if &block[MAGIC_AND_VERSION] == b"ustar  \0" {
        Layout::Gnu
    } else {
        Layout::V7
    }
}

/// Old writers summed signed bytes.
fn checksum_matches(block: &Block) -> bool {
    let mut block = *block;
    let Some(sum) = octal(&block[CHECKSUM]) else { return false };
    block[CHECKSUM].fill(b' ');
    let unsigned: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let signed = || block.iter().map(|&byte| i64::from(byte as i8)).sum::<i64>();
    sum == i64::from(unsigned) || sum == signed()
}
