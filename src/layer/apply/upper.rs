//! What the layer itself has put into the tree so far, by true path.
//!
//! Whiteouts concern only what lies below the layer, wherever in the archive they stand, so it must
//! be known what came from the layer. And content that a later entry of the same layer replaces has
//! to be rescued into the tar-split record, for the tree won't have it.
//!
//! All of it stays in memory until the layer's end, so every byte whose number the archive decides is
//! counted: paths, names of attributes, maps of sparse files.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::layer::error::{Error, Result};
use crate::layer::tar::{Extents, Time};

/// An entry of the layer that is in the tree now.
#[derive(Debug)]
pub(super) enum Upper {
    /// A directory.
    Directory(Directory),
    /// A regular file with content that the record refers to.
    Content(Content),
    /// Anything else.
    Other,
}

/// What has to be known of a directory until the end.
#[derive(Debug)]
pub(super) struct Directory {
    /// Access and modification time, which are set at the end.
    pub times: (Time, Time),
    /// Names of the extended attributes that the layer gave it, each with a NUL behind it: it may
    /// have those of the directory below it, too.
    pub xattrs: Box<[u8]>,
}

/// Content of a regular file, by its number in the record.
#[derive(Debug)]
pub(super) struct Content {
    pub number: u64,
    /// Length, where the file isn't sparse.
    pub size: u64,
    pub extents: Option<Extents>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Uppers {
    entries: BTreeMap<Box<[u8]>, Upper>,
    /// Bytes of their paths, names and maps.
    retained: u64,
}

/// Bytes that are kept for an entry and whose number the archive decides.
fn cost(path: &[u8], upper: &Upper) -> u64 {
    let more = match upper {
        Upper::Directory(directory) => directory.xattrs.len(),
        Upper::Content(content) => content.extents.as_deref().map_or(0, size_of_val),
        Upper::Other => 0,
    };
    (path.len() + more) as u64
}

impl Uppers {
    /// Remembers an entry, in the place of the one that had its path; an error if all together then
    /// take more than `limit` bytes.
    pub(super) fn insert(&mut self, path: Vec<u8>, upper: Upper, limit: u64) -> Result<()> {
        self.forget(&path);
        self.retained += cost(&path, &upper);
        self.entries.insert(path.into_boxed_slice(), upper);
        if self.retained > limit {
            let what = "bytes of paths, names of attributes and maps of sparse files";
            return Err(Error::Limit { limit, what });
        }
        Ok(())
    }

    fn forget(&mut self, path: &[u8]) -> Option<Upper> {
        let upper = self.entries.remove(path)?;
        self.retained -= cost(path, &upper);
        Some(upper)
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Upper> {
        self.entries.get(path)
    }

    /// Whether anything below the path is the layer's.
    pub(super) fn any_below(&self, path: &[u8]) -> bool {
        self.entries.range::<[u8], _>(bounds(&below(path))).next().is_some()
    }

    /// Forgets the path and what is below it, and returns the contents among them.
    pub(super) fn take(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Content)> {
        let range = below(path);
        let mut taken: Vec<Box<[u8]>> =
            self.entries.range::<[u8], _>(bounds(&range)).map(|(path, _)| path.clone()).collect();
        taken.push(path.into());
        let take = |path: Box<[u8]>| match self.forget(&path)? {
            Upper::Content(content) => Some((path.into_vec(), content)),
            Upper::Directory(_) | Upper::Other => None,
        };
        taken.into_iter().filter_map(take).collect()
    }

    /// All directories with their times, in order.
    pub(super) fn directories(&self) -> impl Iterator<Item = (&[u8], (Time, Time))> {
        self.entries.iter().filter_map(|(path, upper)| match upper {
            Upper::Directory(directory) => Some((&**path, directory.times)),
            Upper::Content(_) | Upper::Other => None,
        })
    }
}

/// The first path that could be below this one, and the first behind those: the byte after `/` is
/// `0`. Everything is below the root.
fn below(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    (!path.is_empty()).then(|| ([path, b"/"].concat(), [path, b"0"].concat()))
}

fn bounds(range: &Option<(Vec<u8>, Vec<u8>)>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match range {
        Some((first, end)) => (Bound::Included(first), Bound::Excluded(end)),
        None => (Bound::Unbounded, Bound::Unbounded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uppers(paths: &[&str]) -> Uppers {
        let mut uppers = Uppers::default();
        for (number, path) in paths.iter().enumerate() {
            let content = Content { number: number as u64, size: 1, extents: None };
            uppers.insert(path.as_bytes().to_vec(), Upper::Content(content), u64::MAX).unwrap();
        }
        uppers
    }

    #[test]
    fn below_means_components_and_not_characters() {
        let uppers = uppers(&["a/b/c", "a.b", "a0", "ab", "b"]);
        assert!(uppers.any_below(b""));
        assert!(uppers.any_below(b"a"));
        assert!(uppers.any_below(b"a/b"));
        assert!(!uppers.any_below(b"a/b/c"));
        assert!(!uppers.any_below(b"b"));
        assert!(!uppers.any_below(b"c"));
    }

    #[test]
    fn taking_a_directory_takes_its_contents_and_nothing_beside_it() {
        let mut uppers = uppers(&["d/x", "d/y/z", "d", "d-", "d0", "e"]);
        let mut numbers: Vec<_> = uppers.take(b"d").iter().map(|(_, taken)| taken.number).collect();
        numbers.sort();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(uppers.get(b"d-").is_some() && uppers.get(b"d0").is_some());
        assert!(uppers.take(b"d").is_empty());
    }

    #[test]
    fn what_is_kept_is_counted_until_it_is_forgotten() {
        let xattrs = |names: &[u8]| {
            let times = (Time::EPOCH, Time::EPOCH);
            Upper::Directory(Directory { times, xattrs: names.into() })
        };
        let sparse = |runs| {
            let extents = Some(vec![(0, 1); runs]);
            Upper::Content(Content { number: 0, size: 1, extents })
        };
        let mut uppers = Uppers::default();
        let mut insert = |path: &str, upper, expected| {
            uppers.insert(path.into(), upper, 100).unwrap();
            assert_eq!(uppers.retained, expected, "{path}");
        };
        insert("d", xattrs(b"user.a\0"), 8);
        insert("d", xattrs(b"user.a\0user.b\0"), 15);
        insert("d/file", Upper::Other, 21);
        insert("d/file", sparse(3), 69);
        insert("d/file", sparse(2), 53);
        insert("e", sparse(2), 86);
        let result = uppers.insert("f".into(), xattrs(b"user.fourteen\0"), 100);
        assert!(matches!(result, Err(Error::Limit { limit: 100, .. })), "{result:?}");
        for path in ["d", "e", "f"] {
            uppers.take(path.as_bytes());
        }
        assert_eq!(uppers.retained, 0);
    }
}
