//! Metadata that the kernel wants checked before it writes it again.
//!
//! A commit that fails stops the pool: the kernel goes back to the last one, takes no more messages, and marks the
//! superblock (`needs_check`) if it still can. What is on the device is whole then, as after a power cut, unless the
//! device itself has lost something; `thin_check` tells, and clears the mark. As LVM does at each activation.

use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{Refusal, metadata_error, refused};
use super::template::find_program;
use crate::crashpoint::{Step, around};
use crate::thin::metadata;
use crate::volume::Result;

/// Has metadata checked that is marked, or whose pool was `stopped`, and the mark cleared. For a pool that is not active.
/// After a crash in here it is due again, or done.
pub(super) fn check_if_due(device: &Path, stopped: Option<&str>) -> Result<()> {
    let context = "looking whether the pool's metadata must be checked";
    let opened = metadata::open(device).map_err(|e| metadata_error(context, e))?;
    let marked = metadata::needs_check(&opened).map_err(|e| metadata_error(context, e))?;
    drop(opened);
    match (marked, stopped) {
        (false, None) => Ok(()),
        (true, _) => check(device, "the kernel has marked it needs_check"),
        (false, Some(condition)) => check(device, &format!("the pool was {condition}")),
    }
}

fn check(device: &Path, why: &str) -> Result<()> {
    let unchecked = |output: String| Refusal::Unchecked {
        device: device.to_owned(),
        why: why.to_owned(),
        output,
    };
    let program = find_program("thin_check").unwrap_or_else(|| "thin_check".into());
    let mut command = Command::new(program);
    command.arg("--clear-needs-check-flag").arg(device).stdin(Stdio::null());
    let output = match around(Step::CheckMetadata, || command.output()) {
        Ok(output) => output,
        Err(error) => return refused(unchecked(error.to_string())),
    };
    if output.status.success() {
        tracing::warn!(device = %device.display(), why, "thin_check found the pool's metadata whole; going on with it");
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let output = format!("{}, {}", output.status, String::from_utf8_lossy(&said).trim());
    refused(Refusal::Damaged { device: device.to_owned(), output })
}
