//! Makes the headers of an archive, the same bytes for the same entry.
//!
//! What fits a ustar header is written as one; the rest as PAX records, sorted by key.

use super::{BLOCK, Entry, Kind, Time};

/// The two blocks of zeros at the end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Longest name in a header without records.
const MOST_NAME: usize = 100;
/// Largest numbers in 7 and 11 octal digits.
const MOST_7: i64 = 0o7_777_777;
const MOST_11: i64 = 0o77_777_777_777;

/// The zeros behind a content of this length.
pub fn padding(size: u64) -> &'static [u8] {
    &END[..(size.wrapping_neg() % BLOCK as u64) as usize]
}

/// The headers in front of an entry's content. The entry isn't sparse.
pub fn header(entry: &Entry) -> Vec<u8> {
    let records = records(entry);
    let mut bytes = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        bytes.extend_from_slice(&records_header(&entry.path, records.len() as u64));
        bytes.extend_from_slice(&records);
        bytes.extend_from_slice(padding(records.len() as u64));
    }
    bytes.extend_from_slice(&block(&Fields {
        path: &entry.path,
        link: &entry.link,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        mtime: entry.mtime.seconds,
        type_flag: type_flag(entry.kind),
        device: entry.device,
    }));
    bytes
}

fn type_flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

struct Fields<'a> {
    path: &'a [u8],
    link: &'a [u8],
    mode: u32,
    uid: i64,
    gid: i64,
    size: i64,
    mtime: i64,
    type_flag: u8,
    device: (i64, i64),
}

/// Numbers and names that don't fit are cut: then a record has them in full.
fn block(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, text: &[u8]| {
        let length = text.len().min(MOST_NAME);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    text(0, fields.path);
    text(157, fields.link);
    text(257, b"ustar\x0000");
    let mut octal = |at: usize, digits: usize, number: i64, most: i64| {
        let number = if (0..=most).contains(&number) { number } else { 0 };
        block[at..at + digits].copy_from_slice(format!("{number:0digits$o}").as_bytes());
    };
    octal(100, 7, i64::from(fields.mode), MOST_7);
    octal(108, 7, fields.uid, MOST_7);
    octal(116, 7, fields.gid, MOST_7);
    octal(124, 11, fields.size, MOST_11);
    octal(136, 11, fields.mtime, MOST_11);
    octal(329, 7, fields.device.0, MOST_7);
    octal(337, 7, fields.device.1, MOST_7);
    block[156] = fields.type_flag;
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// The header of the records themselves.
fn records_header(path: &[u8], size: u64) -> [u8; BLOCK] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    block(&Fields {
        path: &[b"PaxHeaders.0/", name].concat(),
        link: b"",
        mode: 0o644,
        uid: 0,
        gid: 0,
        // At most a few MiB: names and extended attributes.
        size: size as i64,
        mtime: 0,
        type_flag: b'x',
        device: (0, 0),
    })
}

fn records(entry: &Entry) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut number = |key: &str, number: i64, most: i64| {
        if !(0..=most).contains(&number) {
            records.push((key.into(), number.to_string().into_bytes()));
        }
    };
    number("uid", entry.uid, MOST_7);
    number("gid", entry.gid, MOST_7);
    number("size", i64::try_from(entry.size).unwrap_or(i64::MAX), MOST_11);
    if entry.mtime.nanoseconds != 0 || !(0..=MOST_11).contains(&entry.mtime.seconds) {
        records.push(("mtime".into(), time(entry.mtime).into_bytes()));
    }
    for (key, name) in [("path", &entry.path), ("linkpath", &entry.link)] {
        if name.len() > MOST_NAME {
            records.push((key.into(), name.clone()));
        }
    }
    for (name, value) in &entry.xattrs {
        records.push(([b"SCHILY.xattr.", &**name].concat(), value.clone()));
    }
    records.sort();
    records.iter().flat_map(|(key, value)| record(key, value)).collect()
}

/// Seconds, and a fraction if there is one, without zeros at its end.
fn time(time: Time) -> String {
    let Time { mut seconds, mut nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let mut sign = "";
    if seconds < 0 {
        (sign, seconds, nanoseconds) = ("-", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

/// The length in front counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + b" =\n".len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layer::tar::Reader;

    fn name(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1_u8.., 1..most)
    }

    prop_compose! {
        fn entries()(
            kind in prop::sample::select(vec![
                Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::CharDevice,
                Kind::BlockDevice, Kind::Fifo,
            ]),
            path in name(300),
            link in name(300),
            mode in 0_u32..0o10000,
            ids: (u32, u32),
            device in (0_i64..4096, 0_i64..1 << 20),
            seconds in -10_000_000_000_i64..1 << 40,
            nanoseconds in prop_oneof![Just(0_u32), 0_u32..1_000_000_000],
            size in prop_oneof![0_u64..1000, Just(1 << 33), Just(1 << 60)],
            xattrs in prop::collection::btree_map("user\\.[a-z]{1,20}", any::<Vec<u8>>(), 0..3),
        ) -> Entry {
            let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
            let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
            Entry {
                kind,
                path,
                link: if is_link { link } else { Vec::new() },
                mode,
                uid: ids.0.into(),
                gid: ids.1.into(),
                device: if is_device { device } else { (0, 0) },
                mtime: Time { seconds, nanoseconds },
                atime: None,
                size: if kind == Kind::File { size } else { 0 },
                extents: None,
                xattrs: xattrs.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect(),
            }
        }
    }

    proptest! {
        #![proptest_config(crate::testing::random(256, 1_000))]
        #[test]
        fn what_is_written_is_read_back(entry in entries()) {
            let bytes = header(&entry);
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let read = Reader::new(&*bytes, ()).next_entry().unwrap().unwrap();
            prop_assert_eq!(read, entry);
        }
    }

    #[test]
    fn records_count_their_own_length() {
        for length in 0..1200 {
            let record = record(b"k", &vec![b'v'; length]);
            let text = String::from_utf8(record.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap(), record.len().to_string());
        }
    }
}
