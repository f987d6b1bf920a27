//! Where an image comes from: an archive or a directory, as members by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::spool;
use crate::layer::tar::{BLOCK, Kind, Reader};
use crate::layer::{self, Compression};
use crate::layer_store::error::{Error, Result};
use crate::layer_store::{Counting, LayerStore, Progress};

/// Longest JSON document that is read.
const MOST_JSON: u64 = 8 << 20;
/// Most members of an archive, with directories; each costs memory. A real image has a few a layer.
const MOST_MEMBERS: usize = 100_000;
/// Most bytes of their names.
const MOST_NAMES: usize = 64 << 20;
/// Links from member to member that are followed: old `docker save` has one a layer.
const MOST_LINKS: usize = 8;

/// An image file or directory.
#[derive(Debug)]
pub struct Source {
    members: Members,
}

#[derive(Debug)]
enum Members {
    Directory(OwnedFd),
    Archive { file: File, index: HashMap<Vec<u8>, Member> },
}

#[derive(Debug, Clone)]
enum Member {
    /// Where its bytes are.
    File { offset: u64, size: u64 },
    /// It is the same as another member.
    Link(Vec<u8>),
}

/// The bytes of one member.
#[derive(Debug)]
pub(super) struct Bytes {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Source {
    /// Looks at an image file or directory. What can't be read twice, or is compressed as a whole,
    /// is written to a scratch file first. `waiting` says how to read what may have nothing to
    /// say for a while, as a pipe.
    pub fn open<R: Read + Send>(
        store: &LayerStore,
        input: OwnedFd,
        waiting: impl FnOnce(File) -> R,
        progress: &Progress,
    ) -> Result<Self> {
        let stat = fstat(&input).map_err(|errno| unreadable(errno.into()))?;
        let members = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Members::Directory(input),
            FileType::RegularFile => {
                let file = File::from(input);
                let compression = layer::decompress(whole(&file)?)?.1;
                match compression {
                    Compression::None => archive(file, &progress.cancel)?,
                    Compression::Gzip | Compression::Zstd => spool(store, whole(&file)?, progress)?,
                }
            }
            _ => spool(store, waiting(File::from(input)), progress)?,
        };
        Ok(Self { members })
    }

    /// Whether there is a member with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.member(name).is_ok()
    }

    /// A small member, whole.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let member = self.member(name)?;
        if member.end - member.at > MOST_JSON {
            return Err(Error::InvalidImage(format!("{name} is longer than {MOST_JSON} bytes")));
        }
        let mut bytes = Vec::new();
        let mut member = member;
        member.read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    /// A member's bytes, and their number.
    pub(super) fn blob(&self, name: &str) -> Result<(Bytes, u64)> {
        let bytes = self.member(name)?;
        let size = bytes.end - bytes.at;
        Ok((bytes, size))
    }

    fn member(&self, name: &str) -> Result<Bytes> {
        match &self.members {
            Members::Directory(dir) => in_directory(dir, name),
            Members::Archive { file, index } => in_archive(file, index, name),
        }
    }
}

/// Below the directory only, whatever links are there.
fn in_directory(dir: &OwnedFd, name: &str) -> Result<Bytes> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let fd = openat2(dir, name, flags, Mode::empty(), resolve)
        .map_err(|errno| Error::InvalidImage(format!("{name}: {}", io::Error::from(errno))))?;
    let stat = fstat(&fd).map_err(|errno| unreadable(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::InvalidImage(format!("{name} is not a file")));
    }
    Ok(Bytes { file: File::from(fd), at: 0, end: u64::try_from(stat.st_size).unwrap_or(0) })
}

fn in_archive(file: &File, index: &HashMap<Vec<u8>, Member>, name: &str) -> Result<Bytes> {
    let mut path = clean(name.as_bytes());
    for _ in 0..MOST_LINKS {
        match index.get(&path) {
            Some(Member::File { offset, size }) => {
                let file = file.try_clone().map_err(unreadable)?;
                return Ok(Bytes { file, at: *offset, end: offset.saturating_add(*size) });
            }
            Some(Member::Link(target)) => path = target.clone(),
            None => return Err(Error::InvalidImage(format!("it has no {name}"))),
        }
    }
    Err(Error::InvalidImage(format!("{name} is a link in a circle")))
}

/// Finds the members of an archive by its headers alone.
fn archive(file: File, cancel: &AtomicBool) -> Result<Members> {
    let (mut index, mut members, mut names) = (HashMap::new(), 0_usize, 0_usize);
    let mut input = BufReader::with_capacity(64 << 10, file.try_clone().map_err(unreadable)?);
    let length = file.metadata().map_err(unreadable)?.len();
    let mut at = 0;
    loop {
        input.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        let mut reader = Reader::new(&mut input, ());
        let Some(entry) = reader.next_entry()? else { break };
        members += 1;
        names = names.saturating_add(entry.path.len() + entry.link.len());
        if members > MOST_MEMBERS || names > MOST_NAMES {
            return Err(Error::InvalidArgument(format!(
                "the archive is no image: it holds more than {MOST_MEMBERS} files, \
                 or {MOST_NAMES} bytes of names (`thinfs layer import` takes a root filesystem's tar)"
            )));
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Layer(layer::Error::Cancelled));
        }
        let offset = at + reader.position();
        let path = clean(&entry.path);
        let mut size = 0;
        match entry.kind {
            Kind::File if entry.extents.is_none() => {
                size = entry.size;
                index.insert(path, Member::File { offset, size });
            }
            Kind::File => {
                return Err(Error::InvalidImage("its archive holds a sparse file".to_owned()));
            }
            Kind::HardLink => {
                index.insert(path, Member::Link(clean(&entry.link)));
            }
            Kind::Symlink => {
                let target = [parent(&path), b"/", &entry.link].concat();
                index.insert(path, Member::Link(clean(&target)));
            }
            Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {}
        }
        if offset.saturating_add(size) > length {
            return Err(Error::InvalidImage("its archive is cut short".to_owned()));
        }
        let block = BLOCK as u64;
        at = size
            .checked_next_multiple_of(block)
            .and_then(|size| offset.checked_add(size))
            .ok_or_else(|| Error::InvalidImage("a file in it is too long".to_owned()))?;
    }
    Ok(Members::Archive { file, index })
}

fn spool(store: &LayerStore, input: impl Read + Send, progress: &Progress) -> Result<Members> {
    let (mut input, _) = layer::decompress(Counting::new(input, progress))?;
    let scratch = spool::to_scratch(store, &mut input, &progress.cancel)?;
    drop(input);
    archive(scratch, &progress.cancel)
}

/// A name without `.`, `..` and doubled slashes.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

pub(super) fn unreadable(source: io::Error) -> Error {
    Error::Layer(layer::Error::Input(source))
}

/// A file from its start, without moving the offset of the original.
fn whole(file: &File) -> Result<Bytes> {
    let end = file.metadata().map_err(unreadable)?.len();
    Ok(Bytes { file: file.try_clone().map_err(unreadable)?, at: 0, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_dots_and_never_lead_above_the_archive() {
        for (name, cleaned) in
            [("./a//b", "a/b"), ("/a", "a"), ("../../a", "a"), ("a/../b/.", "b"), ("..", "")]
        {
            assert_eq!(clean(name.as_bytes()), cleaned.as_bytes());
        }
    }
}
