//! Any bytes as an archive: no panic, and each byte is seen once, as content or by the tap, in order.

use std::io;

use crate::layer::Error;
use crate::layer::tar::{Reader, Tap};

#[derive(Default)]
struct Seen(Vec<u8>);

impl Tap for Seen {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Panics if the reader loses, changes or invents a byte.
pub fn run(data: &[u8]) {
    let mut reader = Reader::new(data, Seen::default());
    let mut order = Vec::new();
    if entries(&mut reader, &mut order).is_ok()
        && let Ok(rest) = reader.finish()
    {
        order.extend_from_slice(&rest.0);
        assert!(order == data, "bytes were lost or changed");
    } else {
        // What was seen before the error is a beginning.
        assert!(data.starts_with(&order), "bytes were changed before the error");
    }
}

fn entries(reader: &mut Reader<&[u8], Seen>, order: &mut Vec<u8>) -> Result<(), Error> {
    while reader.next_entry()?.is_some() {
        loop {
            let content = reader.content()?.to_vec();
            if content.is_empty() {
                break;
            }
            order.append(&mut reader.tap().0);
            order.extend_from_slice(&content);
            reader.consume(content.len());
        }
    }
    Ok(())
}
