//! Recognises how a layer is compressed, by its first bytes, and undoes it.

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::{Error, Result};

/// How much compressed input is read at a time.
const BUFFER: usize = 128 << 10;

/// How a layer was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or several members.
    Gzip,
    /// zstd, of one or several frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

/// The first bytes of what layers, and files mistaken for layers, are compressed with.
fn recognise(head: &[u8]) -> Result<Compression> {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A frame without data, which may stand in front of others.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(Error::Compression("xz")),
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', ..] => Err(Error::Compression("bzip2")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err(Error::Compression("lz4")),
        _ => Ok(Compression::None),
    }
}

/// Gives the uncompressed bytes of `input`. Reads ahead.
pub fn decompress<'a>(
    mut input: impl Read + Send + 'a,
) -> Result<(Box<dyn Read + Send + 'a>, Compression)> {
    let mut head = Vec::with_capacity(8);
    input.by_ref().take(8).read_to_end(&mut head).map_err(Error::Input)?;
    let compression = recognise(&head)?;
    let whole = Cursor::new(head).chain(input);
    let reader: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))),
        Compression::Zstd => Box::new(zstd(whole).map_err(Error::Input)?),
    };
    Ok((reader, compression))
}

/// The library's default limit for the window, 128 MiB, bounds the memory.
fn zstd<'a>(input: impl Read + Send + 'a) -> io::Result<impl Read + Send + 'a> {
    zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER, input))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn read(input: &[u8]) -> io::Result<(Vec<u8>, Compression)> {
        let (mut reader, compression) = decompress(input).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok((bytes, compression))
    }

    #[test]
    fn compression_is_recognised_by_its_first_bytes() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0xyz".to_vec();
        let cases = [
            (b"hello, world".to_vec(), Compression::None),
            (gzip(b"hello, world"), Compression::Gzip),
            ([gzip(b"hello"), gzip(b", world")].concat(), Compression::Gzip),
            (zstd(b"hello, world"), Compression::Zstd),
            ([zstd(b"hello"), zstd(b", world")].concat(), Compression::Zstd),
            ([skippable, zstd(b"hello, world")].concat(), Compression::Zstd),
        ];
        for (input, compression) in cases {
            assert_eq!(read(&input).unwrap(), (b"hello, world".to_vec(), compression));
        }
        assert_eq!(read(b"").unwrap(), (Vec::new(), Compression::None));
    }

    #[test]
    fn damaged_and_unsupported_compression_is_an_error() {
        let mut cut = gzip(&[7; 10_000]);
        cut.truncate(cut.len() - 5);
        assert!(read(&cut).is_err());
        let mut wrong_sum = gzip(b"hello, world");
        let last = wrong_sum.len() - 5;
        wrong_sum[last] ^= 1;
        assert!(read(&wrong_sum).is_err());
        let cut = zstd::encode_all(&[7; 10_000][..], 1).unwrap();
        assert!(read(&cut[..cut.len() - 2]).is_err());
        assert!(matches!(decompress(&b"\xfd7zXZ\0\0\0"[..]), Err(Error::Compression("xz"))));
        assert!(matches!(decompress(&b"BZh91AY&"[..]), Err(Error::Compression("bzip2"))));
    }
}
