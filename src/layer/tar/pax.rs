//! Extended headers: `<length> <key>=<value>\n`, over and over.

use std::collections::HashSet;

use super::numbers::{decimal, time};
use super::{Time, sparse};

/// What an extended header says about the next entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub size: Option<i64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: sparse::PaxRecords,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Parses all records of one header; of records with the same key, the last counts.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, &'static str> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or("a PAX record can't be read")?;
        records.merge(key, value).ok_or("a PAX record's value can't be read")?;
        bytes = rest;
    }
    keep_last(&mut records.xattrs);
    Ok(records)
}

/// Keeps the last of each name, in order. Once for all of them: a header has room for 47,000.
fn keep_last(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    let mut known = HashSet::with_capacity(xattrs.len());
    let mut is_last: Vec<bool> = xattrs.iter().rev().map(|(name, _)| known.insert(name)).collect();
    // Both from their ends: the first name's verdict was found last.
    xattrs.retain(|_| is_last.pop().unwrap_or(true));
}

/// Checks the form of a global header, whose values nobody uses.
pub(super) fn check(mut bytes: &[u8]) -> Result<(), &'static str> {
    let mut sparse = sparse::PaxRecords::default();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or("a PAX record can't be read")?;
        if key.starts_with(sparse::PREFIX) {
            sparse.merge(key, value).ok_or("a PAX record's value can't be read")?;
        }
        bytes = rest;
    }
    Ok(())
}

/// Splits off the first record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if length < 5 || length > bytes.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // A NUL inside a name would end it for some readers and not for others.
    let is_name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    let clean = !key.is_empty() && !(if is_name { value } else { key }).contains(&0);
    clean.then_some((key, value, rest))
}

impl Records {
    fn merge(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        if key.starts_with(sparse::PREFIX) {
            return self.sparse.merge(key, value);
        }
        // An empty value takes an earlier record back: the header's own field counts.
        let given = !value.is_empty();
        let number = || if given { decimal(value).map(Some) } else { Some(None) };
        let moment = || if given { time(value).map(Some) } else { Some(None) };
        let name = || given.then(|| value.to_vec());
        match key {
            b"path" => self.path = name(),
            b"linkpath" => self.link = name(),
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"size" => self.size = number()?,
            b"mtime" => self.mtime = moment()?,
            b"atime" => self.atime = moment()?,
            b"ctime" => drop(moment()?),
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_of_a_key_counts() {
        let records = parse(b"10 path=a\n10 path=b\n21 mtime=1.500000000\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(records.mtime, Some(Time { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(parse(b"10 path=a\n8 path=\n").unwrap().path, None);
    }

    /// One record of an extended attribute, with a length of two digits.
    fn xattr(name: &str, value: &str) -> String {
        let rest = format!(" SCHILY.xattr.{name}={value}\n");
        format!("{}{rest}", rest.len() + 2)
    }

    #[test]
    fn the_last_record_of_an_attribute_counts_where_it_stands() {
        let records =
            [xattr("b", "1"), xattr("a", "2"), xattr("b", "3"), xattr("c", "4"), xattr("a", "5")];
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let expected = [pair("b", "3"), pair("c", "4"), pair("a", "5")];
        assert_eq!(parse(records.concat().as_bytes()).unwrap().xattrs, expected);
    }

    #[test]
    fn values_may_hold_newlines_equals_signs_and_nuls() {
        let records = parse(b"29 SCHILY.xattr.user.x=\0=\n\xffx\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), b"\0=\n\xffx".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        let cases: &[&[u8]] = &[
            b"10 path=a",
            b"11 path=a\n",
            b"8 path=a\n",
            b"path=a\n",
            b"6 k=v\n6 k=v",
            b"5 =v\n",
            b"5 kv\n",
            b"0 k=v\n",
            b"-6 k=v\n",
            b"99999999999999999999 k=v\n",
            b"12 path=a\0b\n",
            b"9 k\0k=vv\n",
            b"9 size=x\n",
            b"11 mtime=x\n",
            b"6  k=v\n",
            b"00000000006 k=v\n",
        ];
        for case in cases {
            assert!(parse(case).is_err(), "{:?}", String::from_utf8_lossy(case));
        }
    }
}
