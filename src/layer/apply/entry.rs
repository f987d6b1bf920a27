//! Makes one entry.
//!
//! Everything is made first and room for it only if something is in the way: in most layers most
//! names are new.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dev, FileType, Mode, OFlags, RawMode, ftruncate, linkat, makedev, mkdirat, mknodat,
    openat, symlinkat,
};
use rustix::io::{Errno, pwrite};

use super::Apply;
use super::attributes;
use super::place::Place;
use super::upper::{Content, Directory, Upper};
use crate::layer::error::{Doing, Error, Result, text};
use crate::layer::split::{Body, Sink};
use crate::layer::tar::{Entry, Kind};

const UNFINISHED_FILE: RawMode = 0o600;
const UNFINISHED_DIRECTORY: RawMode = 0o700;

impl<S: Sink> Apply<'_, S> {
    pub(super) fn unpack(&mut self, entry: &Entry, place: Place) -> Result<()> {
        let upper = match entry.kind {
            Kind::File => self.file(entry, &place)?,
            Kind::Directory => self.directory(entry, &place)?,
            Kind::Symlink => {
                self.make(entry, &place, |_, place| {
                    symlinkat(&*entry.link, place.at(), &place.name)
                })?;
                Upper::Other
            }
            Kind::HardLink => self.hard_link(entry, &place)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = special(entry)?;
                self.make(entry, &place, |_, place| {
                    let mode = Mode::from_raw_mode(UNFINISHED_FILE);
                    mknodat(place.at(), &place.name, kind, mode, device)
                })?;
                Upper::Other
            }
        };
        self.uppers.insert(place.path, upper, self.options.limits.retained)
    }

    /// Makes something that needs no descriptor, making room for it if need be, with its attributes.
    fn make(
        &mut self,
        entry: &Entry,
        place: &Place,
        make: impl Fn(&mut Self, &Place) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let made = match make(self, place) {
            Err(Errno::EXIST) => {
                self.make_room(place, entry.kind)?;
                make(self, place)
            }
            made => made,
        };
        made.doing("creating", &place.path)?;
        self.counts.ignored_xattrs += attributes::set_closed(entry, place)?;
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, place: &Place) -> Result<Upper> {
        let mode = attributes::first_mode(entry, place, UNFINISHED_DIRECTORY);
        let make = || mkdirat(place.at(), &place.name, mode);
        let made = match make() {
            Err(Errno::EXIST) if self.make_room(place, entry.kind)? => Ok(()),
            Err(Errno::EXIST) => make(),
            made => made,
        };
        let dir = made.and_then(|()| place.open_dir()).doing("creating directory", &place.path)?;
        let xattrs = attributes::set_open(dir.as_fd(), entry, place)?;
        self.counts.ignored_xattrs += xattrs.ignored;
        self.tree.keep(&place.path, dir)?;
        let times = attributes::times(entry);
        Ok(Upper::Directory(Directory { times, xattrs: xattrs.set.into() }))
    }

    /// Another name for what its target is now, a symlink itself included.
    fn hard_link(&mut self, entry: &Entry, place: &Place) -> Result<Upper> {
        let target = self.tree.link_target(&entry.link)?;
        self.make(entry, place, |_, place| {
            linkat(target.at(), &target.name, place.at(), &place.name, AtFlags::empty())
        })?;
        Ok(Upper::Other)
    }

    fn file(&mut self, entry: &Entry, place: &Place) -> Result<Upper> {
        let mode = attributes::first_mode(entry, place, UNFINISHED_FILE);
        let file = match create(place, mode) {
            Err(Errno::EXIST) => {
                self.make_room(place, entry.kind)?;
                create(place, mode)
            }
            created => created,
        };
        let file = file.doing("creating file", &place.path)?;
        let content = match &entry.extents {
            None => self.write(&file, place, &[(0, entry.size)])?,
            Some(extents) => {
                let content = self.write(&file, place, extents)?;
                ftruncate(&file, entry.size).doing("setting the size of", &place.path)?;
                content
            }
        };
        self.counts.ignored_xattrs += attributes::set_open(file.as_fd(), entry, place)?.ignored;
        attributes::set_open_times(file.as_fd(), entry, place)?;
        self.record(entry, place, content)
    }

    /// Writes the entry's content to these places of the file. Returns its length and checksum.
    fn write(
        &mut self,
        file: &OwnedFd,
        place: &Place,
        extents: &[(u64, u64)],
    ) -> Result<(u64, u32)> {
        let (mut total, mut checksum) = (0, 0);
        for &(mut offset, mut left) in extents {
            while left > 0 {
                let piece = self.reader.content()?;
                let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let piece = &piece[..length];
                write_at(file, piece, offset).doing("writing", &place.path)?;
                if S::WANTED {
                    checksum = crc32c::crc32c_append(checksum, piece);
                }
                self.reader.consume(length);
                offset += length as u64;
                left -= length as u64;
                total += length as u64;
                if left > 0 {
                    self.checkpoint()?;
                }
            }
        }
        Ok((total, checksum))
    }

    fn record(&mut self, entry: &Entry, place: &Place, content: (u64, u32)) -> Result<Upper> {
        let (size, checksum) = content;
        if !S::WANTED || size == 0 {
            return Ok(Upper::Other);
        }
        let extents = entry.extents.as_deref();
        let body = Body { path: &place.path, size, extents, checksum };
        let number = self.reader.tap().body(&body)?;
        Ok(Upper::Content(Content { number, size, extents: entry.extents.clone() }))
    }
}

fn create(place: &Place, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(place.at(), &place.name, flags, mode)
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Err(Errno::INTR) => {}
            written => {
                let written = written?;
                bytes = &bytes[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

fn special(entry: &Entry) -> Result<(FileType, Dev)> {
    let kind = match entry.kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => return Ok((FileType::Fifo, 0)),
        Kind::File | Kind::Directory | Kind::Symlink | Kind::HardLink => {
            unreachable!("only special files come here")
        }
    };
    // What Linux can number: 12 bits and 20 bits.
    let number = |number: i64, bits: u32| u32::try_from(number).ok().filter(|n| n >> bits == 0);
    match (number(entry.device.0, 12), number(entry.device.1, 20)) {
        (Some(major), Some(minor)) => Ok((kind, makedev(major, minor))),
        _ => Err(Error::Refused { path: text(&entry.path), what: "no such device number" }),
    }
}
