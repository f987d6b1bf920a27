//! Puts a tar together again from its record and the tree.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::{Errno, pread};

use super::encoding::{self, CHUNK_HEADER, ChunkHeader, ChunkKind, Operation, Operations, Parts};
use crate::layer::error::{Doing, Error, Result, text};
use crate::layer::stream::{self, CHUNK, Digesting};
use crate::types::DiffId;

/// A tar that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reassembled {
    /// Its digest: computed from what was written, and the one on record.
    pub diff_id: DiffId,
    /// Its length.
    pub tar_size: u64,
}

/// Writes the tar of `record` to `out`, reading contents from the tree below `root`. When this
/// succeeds, `out` has the very bytes that were unpacked; when the tree differs, it is an
/// [`Error::Verify`], and what `out` has is a beginning of the tar followed by nothing. Contents up
/// to [`CHUNK`] bytes are verified before their first byte is written.
pub fn reassemble(
    record: impl Read + Seek,
    root: BorrowedFd<'_>,
    out: impl Write + Send,
    cancel: &AtomicBool,
) -> Result<Reassembled> {
    let mut record = Record::open(record)?;
    let end = record.end;
    let ((), diff_id, tar_size) = stream::digesting(out, |out| {
        Writer { record: &mut record, root, out, cancel, next: 0 }.run()
    })?;
    if (diff_id, tar_size) != (end.diff_id, end.tar_size) {
        return Err(Error::Verify(format!("its digest is {diff_id}, not {}", end.diff_id)));
    }
    Ok(Reassembled { diff_id, tar_size })
}

/// The end of a record.
#[derive(Debug, Clone, Copy)]
struct End {
    diff_id: DiffId,
    tar_size: u64,
    bodies: u64,
}

/// A record whose chunks have been found.
struct Record<R> {
    source: R,
    /// Chunks of operations, in order.
    operations: Vec<Location>,
    /// Chunks of each rescued content, in order.
    rescued: HashMap<u64, Vec<Location>>,
    end: End,
}

#[derive(Debug, Clone, Copy)]
struct Location {
    at: u64,
    header: ChunkHeader,
}

impl<R: Read + Seek> Record<R> {
    /// Finds all chunks up to the end.
    fn open(mut source: R) -> Result<Self> {
        let mut magic = [0; 8];
        let none = |_| Error::Record("not a record");
        source.seek(SeekFrom::Start(0)).map_err(Error::RecordInput)?;
        source.read_exact(&mut magic).map_err(none)?;
        if &magic != encoding::MAGIC {
            return Err(Error::Record("not a record, or of another version"));
        }
        let mut at = magic.len() as u64;
        let (mut operations, mut rescued) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        loop {
            let mut bytes = [0; CHUNK_HEADER];
            source.read_exact(&mut bytes).map_err(cut_short)?;
            let header = ChunkHeader::decode(&bytes)?;
            let location = Location { at: at + CHUNK_HEADER as u64, header };
            match header.kind {
                ChunkKind::Operations => operations.push(location),
                ChunkKind::Rescued => {
                    let mut number = [0; 8];
                    source.read_exact(&mut number).map_err(cut_short)?;
                    rescued.entry(u64::from_le_bytes(number)).or_default().push(location);
                }
                ChunkKind::End => {
                    let end = parse_end(&payload(&mut source, location)?)?;
                    return Ok(Self { source, operations, rescued, end });
                }
            }
            at = location.at + u64::from(header.length);
            source.seek(SeekFrom::Start(at)).map_err(Error::RecordInput)?;
        }
    }

    fn operations(&mut self, index: usize) -> Result<Option<Vec<u8>>> {
        let Some(&location) = self.operations.get(index) else { return Ok(None) };
        encoding::decompress(&payload(&mut self.source, location)?).map(Some)
    }

    /// One piece of a rescued content.
    fn rescued(&mut self, location: Location) -> Result<Vec<u8>> {
        let payload = payload(&mut self.source, location)?;
        let bytes = payload.get(8..).ok_or(Error::Record("a rescued content is damaged"))?;
        encoding::decompress(bytes)
    }
}

fn cut_short(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Record("it is cut short"),
        _ => Error::RecordInput(error),
    }
}

fn payload(source: &mut (impl Read + Seek), location: Location) -> Result<Vec<u8>> {
    source.seek(SeekFrom::Start(location.at)).map_err(Error::RecordInput)?;
    let mut bytes = Vec::new();
    let length = u64::from(location.header.length);
    source.take(length).read_to_end(&mut bytes).map_err(Error::RecordInput)?;
    if bytes.len() as u64 != length {
        return Err(Error::Record("it is cut short"));
    }
    if crc32c::crc32c(&bytes) != location.header.checksum {
        return Err(Error::Record("a chunk's checksum is wrong"));
    }
    Ok(bytes)
}

fn parse_end(payload: &[u8]) -> Result<End> {
    let parse = || {
        let (digest, numbers) = payload.split_at_checked(32)?;
        let (tar_size, bodies) = numbers.split_at_checked(8)?;
        Some(End {
            diff_id: DiffId::from_bytes(digest.try_into().ok()?),
            tar_size: u64::from_le_bytes(tar_size.try_into().ok()?),
            bodies: u64::from_le_bytes(bodies.try_into().ok()?),
        })
    };
    parse().ok_or(Error::Record("its end is damaged"))
}

/// Something of a content to be checked and written.
struct Checked {
    expected: u32,
    so_far: u32,
    written: u64,
}

struct Writer<'a, 'b, R> {
    record: &'a mut Record<R>,
    root: BorrowedFd<'a>,
    out: &'a mut Digesting<'b>,
    cancel: &'a AtomicBool,
    /// Number of the next content.
    next: u64,
}

impl<R: Read + Seek> Writer<'_, '_, R> {
    fn run(mut self) -> Result<()> {
        let mut index = 0;
        while let Some(chunk) = self.record.operations(index)? {
            let mut operations = Operations(&chunk);
            while let Some(operation) = operations.next()? {
                match operation {
                    Operation::Raw(bytes) => self.out.put(bytes)?,
                    Operation::Body { path, checksum, parts } => {
                        self.body(path, checksum, &parts)?
                    }
                }
            }
            index += 1;
        }
        if self.next != self.record.end.bodies {
            return Err(Error::Record("contents are missing"));
        }
        Ok(())
    }

    fn body(&mut self, path: &[u8], checksum: u32, parts: &Parts) -> Result<()> {
        self.check_cancelled()?;
        let number = self.next;
        self.next += 1;
        let mut content = Checked { expected: checksum, so_far: 0, written: 0 };
        if let Some(pieces) = self.record.rescued.get(&number).cloned() {
            for piece in pieces {
                let bytes = self.record.rescued(piece)?;
                content.so_far = crc32c::crc32c_append(content.so_far, &bytes);
                self.out.put(&bytes)?;
            }
        } else {
            let file = self.open(path)?;
            match parts {
                &Parts::Whole(size) => {
                    self.check_size(&file, path, size)?;
                    self.copy(&file, path, (0, size), Some(size), &mut content)?;
                }
                Parts::Extents(extents) => {
                    for &extent in extents {
                        self.copy(&file, path, extent, None, &mut content)?;
                    }
                }
            }
        }
        if content.so_far != content.expected {
            return Err(changed(path, "its content differs"));
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Opens a file of the tree. What the layer left there is reached without a symlink.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let name = CString::new(path).map_err(|_| Error::Record("a path holds a NUL byte"))?;
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::NOATIME
            | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS;
        match openat2(self.root, &name, flags, Mode::empty(), beneath) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO) => {
                Err(changed(path, "it is missing"))
            }
            opened => opened.doing("opening", path),
        }
    }

    fn check_size(&self, file: &OwnedFd, path: &[u8], size: u64) -> Result<()> {
        let stat = fstat(file).doing("reading attributes of", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(changed(path, "it is no regular file"));
        }
        if stat.st_size as u64 != size {
            return Err(changed(path, "its size differs"));
        }
        Ok(())
    }

    /// Copies one run of a file. `total`: the length of the whole content, where this is all of it;
    /// if it fits a chunk, it is verified before it is written.
    fn copy(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        (mut offset, mut left): (u64, u64),
        total: Option<u64>,
        content: &mut Checked,
    ) -> Result<()> {
        while left > 0 {
            let wanted = CHUNK.min(usize::try_from(left).unwrap_or(usize::MAX));
            let bytes = self.out.room(wanted)?;
            let read = read_full(file, bytes, offset).doing("reading", path)?;
            if read < wanted {
                return Err(changed(path, "it is shorter"));
            }
            content.so_far = crc32c::crc32c_append(content.so_far, bytes);
            content.written += read as u64;
            if total == Some(content.written) && content.so_far != content.expected {
                return Err(changed(path, "its content differs"));
            }
            self.out.filled(read);
            offset += read as u64;
            left -= read as u64;
            if left > 0 {
                self.check_cancelled()?;
            }
        }
        Ok(())
    }
}

fn changed(path: &[u8], what: &str) -> Error {
    Error::Verify(format!("file {:?}: {what}", text(path)))
}

fn read_full(file: &OwnedFd, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], at + filled as u64) {
            Err(Errno::INTR) => {}
            Ok(0) => break,
            read => filled += read?,
        }
    }
    Ok(filled)
}
