//! Any bytes as an archive: no panic, and each byte is seen once, as content or by the tap, in order.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use thinfs_fuzz::layer::tar::{Reader, Tap};

#[derive(Default)]
struct Seen(Vec<u8>);

impl Tap for &mut Seen {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut seen = Seen::default();
    let mut order = Vec::new();
    let mut reader = Reader::new(data, &mut seen);
    let mut whole = || -> Result<(), thinfs_fuzz::layer::Error> {
        while reader.next_entry()?.is_some() {
            loop {
                let content = reader.content()?;
                let length = content.len();
                if length == 0 {
                    break;
                }
                let content = content.to_vec();
                let tap = reader.tap();
                order.extend_from_slice(&tap.0);
                tap.0.clear();
                order.extend_from_slice(&content);
                reader.consume(length);
            }
        }
        Ok(())
    };
    if whole().is_ok() && reader.finish().is_ok() {
        order.extend_from_slice(&seen.0);
        assert!(order == data, "bytes were lost or changed");
    }
});
