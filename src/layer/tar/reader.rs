//! Reads an archive from a stream.

use std::io::BufRead;

use super::header::{Block, Header, Layout};
use super::pax::{self, Records};
use super::sparse::{self, ContentMap, PaxFormat};
use super::{BLOCK, Entry, Kind, Tap, Time, numbers};
use crate::layer::error::{Error, Result};

/// Longest extended header or long name.
const MOST_SPECIAL: u64 = 1 << 20;
/// Most extended headers before one entry.
const MOST_HEADERS: usize = 64;

/// Reads the entries of an archive in order.
pub struct Reader<R, T> {
    source: R,
    tap: T,
    /// Bytes read so far.
    at: u64,
    /// What is left of the current entry's content.
    body: u64,
    /// Bytes between the content's end and the next block.
    padding: u64,
}

/// A header block, or why there is none.
enum Next {
    Header(Box<(Block, Header)>),
    End,
}

impl<R: BufRead, T: Tap> Reader<R, T> {
    /// Starts at the first byte of an archive.
    pub fn new(source: R, tap: T) -> Self {
        Self { source, tap, at: 0, body: 0, padding: 0 }
    }

    /// The tap: it has seen everything up to here but for file content.
    pub fn tap(&mut self) -> &mut T {
        &mut self.tap
    }

    /// How many bytes of the archive have been read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next entry; what is left of the content of the one before goes to the tap. `None`: the
    /// archive's end, behind which [`Reader::finish`] finds what follows.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut records = Records::default();
        let (mut long_path, mut long_link) = (Vec::new(), Vec::new());
        for _ in 0..MOST_HEADERS {
            if !self.skip_body()? {
                return Ok(None);
            }
            let Next::Header(next) = self.next_header()? else { return Ok(None) };
            let (block, mut header) = *next;
            match header.type_flag {
                b'x' => {
                    let bytes = self.special(&header)?;
                    records = self.check(pax::parse(&bytes))?;
                }
                b'g' => {
                    let bytes = self.special(&header)?;
                    self.check(pax::check(&bytes))?;
                    // An entry to Go, which takes whatever stood before it.
                    records = Records::default();
                    (long_path, long_link) = (Vec::new(), Vec::new());
                }
                b'L' => long_path = numbers::text(&self.special(&header)?).to_vec(),
                b'K' => long_link = numbers::text(&self.special(&header)?).to_vec(),
                _ => {
                    records.merge_into(&mut header);
                    if !long_path.is_empty() {
                        header.path = long_path;
                    }
                    if !long_link.is_empty() {
                        header.link = long_link;
                    }
                    return self.entry(&block, header, records).map(Some);
                }
            }
        }
        Err(self.malformed("an entry has too many extended headers"))
    }

    /// The next piece of the current entry's content, empty at its end. It has to be taken with
    /// [`Reader::consume`].
    pub fn content(&mut self) -> Result<&[u8]> {
        if self.body == 0 {
            return Ok(&[]);
        }
        let wanted = usize::try_from(self.body).unwrap_or(usize::MAX);
        let at = self.at;
        let bytes = self.source.fill_buf().map_err(Error::Input)?;
        if bytes.is_empty() {
            return Err(Error::Malformed { at, what: "it ends inside a file" });
        }
        Ok(&bytes[..bytes.len().min(wanted)])
    }

    /// Takes content away without showing it to the tap.
    pub fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.at += length as u64;
        self.body -= length as u64;
    }

    /// Shows the tap some of what follows the archive's end, of which there may be any amount. False:
    /// there is no more.
    pub fn trail(&mut self) -> Result<bool> {
        self.body = u64::MAX;
        self.tap_some()
    }

    /// Reads what follows the archive's end, so that everything has gone through the tap.
    pub fn finish(mut self) -> Result<T> {
        while self.trail()? {}
        Ok(self.tap)
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { at: self.at, what }
    }

    fn check<V>(&self, result: std::result::Result<V, &'static str>) -> Result<V> {
        result.map_err(|what| self.malformed(what))
    }

    /// Shows some of the content to the tap. False: the stream has ended.
    fn tap_some(&mut self) -> Result<bool> {
        let bytes = self.source.fill_buf().map_err(Error::Input)?;
        let length = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
        self.tap.raw(&bytes[..length]).map_err(Error::RecordOutput)?;
        self.consume(length);
        Ok(length > 0)
    }

    /// Goes to the next header. False: the stream ends in the padding, as some archives do.
    fn skip_body(&mut self) -> Result<bool> {
        while self.body > 0 {
            if !self.tap_some()? {
                return Err(self.malformed("it ends inside a file"));
            }
        }
        self.body = std::mem::take(&mut self.padding);
        while self.body > 0 {
            if !self.tap_some()? {
                self.body = 0;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills a block as far as the stream goes, and shows it to the tap.
    fn fill(&mut self, block: &mut Block) -> Result<usize> {
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.source.fill_buf().map_err(Error::Input)?;
            let length = bytes.len().min(BLOCK - filled);
            if length == 0 {
                break;
            }
            block[filled..filled + length].copy_from_slice(&bytes[..length]);
            self.source.consume(length);
            filled += length;
        }
        self.at += filled as u64;
        self.tap.raw(&block[..filled]).map_err(Error::RecordOutput)?;
        Ok(filled)
    }

    /// Reads a whole block. False: the stream has ended before it.
    fn block(&mut self, block: &mut Block) -> Result<bool> {
        match self.fill(block)? {
            0 => Ok(false),
            BLOCK => Ok(true),
            _ => Err(self.malformed("it ends inside a block")),
        }
    }

    /// Two blocks of zeros end an archive; so does the stream's end after one of them or none.
    fn next_header(&mut self) -> Result<Next> {
        let mut block = [0; BLOCK];
        if !self.block(&mut block)? {
            return Ok(Next::End);
        }
        if block == [0; BLOCK] {
            if self.block(&mut block)? && block != [0; BLOCK] {
                return Err(self.malformed("a lone block of zeros"));
            }
            return Ok(Next::End);
        }
        let header = self.check(Header::parse(&block))?;
        self.begin_body(header.type_flag, header.size)?;
        Ok(Next::Header(Box::new((block, header))))
    }

    /// Links, devices, directories and fifos have no content, whatever size they claim.
    fn begin_body(&mut self, type_flag: u8, size: i64) -> Result<()> {
        let size = if matches!(type_flag, b'1'..=b'6') { 0 } else { size };
        self.body = u64::try_from(size).map_err(|_| self.malformed("a negative size"))?;
        self.padding = self.body.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    /// Reads the content of an extended header. The tap sees it.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>> {
        if header.size > MOST_SPECIAL as i64 {
            return Err(self.malformed("an extended header is longer than 1 MiB"));
        }
        let mut bytes = Vec::new();
        while self.body > 0 {
            let piece = self.content()?.to_vec();
            self.tap.raw(&piece).map_err(Error::RecordOutput)?;
            self.consume(piece.len());
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Makes an entry of a header with everything merged in.
    fn entry(&mut self, block: &Block, mut header: Header, records: Records) -> Result<Entry> {
        if header.type_flag == 0 {
            // Before ustar, directories were files with a slash at the end. The name may have been
            // given by a record, and a directory has no content.
            header.type_flag = if header.path.ends_with(b"/") { b'5' } else { b'0' };
        }
        // The size may have been given by a record, too.
        self.begin_body(header.type_flag, header.size)?;
        let mut entry = Entry {
            kind: self.kind(&header)?,
            path: header.path,
            link: header.link,
            mode: (header.mode & 0o7777) as u32,
            uid: header.uid,
            gid: header.gid,
            device: header.device,
            mtime: header.mtime,
            atime: header.atime,
            size: self.body,
            extents: None,
            xattrs: records.xattrs,
        };
        let sparse = if header.type_flag == b'S' {
            Some(self.old_map(block, header.layout)?)
        } else if let Some(format) = records.sparse.format() {
            if !records.sparse.name.is_empty() {
                entry.path = records.sparse.name.clone();
            }
            let size = self.check(records.sparse.real_size())?.unwrap_or(header.size);
            let runs = match format {
                PaxFormat::Records => self.check(records.sparse.extents())?,
                PaxFormat::Content => self.content_map()?,
            };
            Some((size, runs))
        } else {
            None
        };
        if let Some((size, runs)) = sparse {
            if entry.kind != Kind::File {
                return Err(self.malformed("a sparse file that is no file"));
            }
            let (size, extents) = self.check(sparse::check(&runs, size, self.body))?;
            (entry.size, entry.extents) = (size, Some(extents));
        }
        Ok(entry)
    }

    fn kind(&self, header: &Header) -> Result<Kind> {
        Ok(match header.type_flag {
            b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(self.malformed("an entry of unknown type")),
        })
    }

    fn old_map(&mut self, header: &Block, layout: Layout) -> Result<(i64, Vec<(i64, i64)>)> {
        if layout != Layout::Gnu {
            return Err(self.malformed("a sparse file in a format other than GNU's"));
        }
        let size = self.check(sparse::old_size(header))?;
        let mut runs = Vec::new();
        let mut more = self.check(sparse::old_extents(header, false, &mut runs))?;
        let mut block = [0; BLOCK];
        while more {
            // These blocks lie before the content and aren't counted in its size.
            if !self.block(&mut block)? {
                return Err(self.malformed("it ends inside a sparse file's map"));
            }
            more = self.check(sparse::old_extents(&block, true, &mut runs))?;
        }
        Ok((size, runs))
    }

    fn content_map(&mut self) -> Result<Vec<(i64, i64)>> {
        let mut map = ContentMap::default();
        let mut block = [0; BLOCK];
        loop {
            if self.body < BLOCK as u64 || !self.block(&mut block)? {
                return Err(self.malformed("it ends inside a sparse file's map"));
            }
            self.body -= BLOCK as u64;
            if self.check(map.feed(&block))? {
                return Ok(map.extents());
            }
        }
    }
}

impl Records {
    fn merge_into(&mut self, header: &mut Header) {
        fn set<V>(field: &mut V, record: Option<V>) {
            if let Some(value) = record {
                *field = value;
            }
        }
        set(&mut header.path, self.path.take());
        set(&mut header.link, self.link.take());
        set(&mut header.uid, self.uid);
        set(&mut header.gid, self.gid);
        set(&mut header.size, self.size);
        set(&mut header.mtime, self.mtime);
        header.atime = self.atime.or(header.atime);
    }
}

impl Time {
    /// Midnight of 1 January 1970.
    pub const EPOCH: Time = Time { seconds: 0, nanoseconds: 0 };
}
