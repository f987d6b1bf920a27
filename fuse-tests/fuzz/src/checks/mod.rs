//! What must hold for any bytes. The fuzz targets call these with what the fuzzer makes up, and an
//! ordinary test of the layer engine with what is below `corpus/`.

pub mod apply;
pub mod record;
pub mod tar_reader;

use std::sync::atomic::AtomicBool;

static NEVER: AtomicBool = AtomicBool::new(false);

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
