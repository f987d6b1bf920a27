//! `check`, `backup` and `restore`: is the store sound, and what if it isn't.

use std::path::PathBuf;

use super::args::{BackupArgs, CheckArgs, RestoreArgs};
use super::client::Client;
use super::error::{Asked, Error, Result};
use super::json;
use super::output::Out;
use super::progress::during;
use crate::config::Config;
use crate::daemon::offline;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn check(args: CheckArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::CheckRequest { repair: args.repair };
    let reply = during(|| "checking".to_owned(), client.admin.check(request)).await;
    let reply = reply.asked(|| "check".to_owned())?.into_inner();
    report(&reply.mended, &reply.findings, out)
}

/// Without a daemon, on the root itself.
pub(super) fn check_offline(args: &CheckArgs, config: &Config, out: &mut Out) -> Result<()> {
    let found = offline::check(config, args.repair)?;
    let message = |finding: crate::types::Finding| admin::Finding {
        object: finding.object,
        problem: finding.problem,
        remedy: finding.remedy,
        mendable: finding.mendable,
    };
    if let Some(set_aside) = &found.set_aside {
        eprintln!("thinfs: the damaged store is now {}", set_aside.display());
    }
    if !found.volumes_checked {
        eprintln!(
            "thinfs: volumes were not compared: `thinfs check` does that with the daemon running"
        );
    }
    let mended: Vec<_> = found.mended.into_iter().map(message).collect();
    let left: Vec<_> = found.left.into_iter().map(message).collect();
    report(&mended, &left, out)
}

pub(super) fn report(
    mended: &[admin::Finding],
    left: &[admin::Finding],
    out: &mut Out,
) -> Result<()> {
    if out.json {
        let problems: Vec<_> = left.iter().map(line).collect();
        out.object(&json::Check {
            sound: left.is_empty(),
            problems: &problems,
            findings: left.iter().map(json::Finding::from).collect(),
            mended: mended.iter().map(json::Finding::from).collect(),
        })?;
    } else {
        for finding in mended {
            out.line(format!("mended: {}\n  done: {}", line(finding), finding.remedy))?;
        }
        for finding in left {
            let by = if finding.mendable { "--repair" } else { "help" };
            out.line(format!("{}\n  {by}: {}", line(finding), finding.remedy))?;
        }
        if left.is_empty() {
            out.line("sound: the store and the backend agree")?;
        }
    }
    match left.len() {
        0 => Ok(()),
        found => Err(Error::Unsound {
            found,
            mendable: left.iter().filter(|finding| finding.mendable).count(),
        }),
    }
}

fn line(finding: &admin::Finding) -> String {
    format!("{}: {}", finding.object, finding.problem)
}

pub(super) async fn backup(args: BackupArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let dir =
        std::path::absolute(&args.dir).map_err(|source| Error::Write { path: args.dir, source })?;
    let name = dir.to_str().ok_or_else(|| Error::SocketPath(dir.clone()))?.to_owned();
    let request = admin::BackupRequest { dir: name.clone() };
    let reply = during(|| "copying the store".to_owned(), client.admin.backup(request)).await;
    reply.asked(|| format!("back up the store to {name:?}"))?;
    out.line(name)?;
    Ok(())
}

pub(super) fn restore(args: &RestoreArgs, config: &Config, out: &mut Out) -> Result<()> {
    let from: PathBuf = args.dir.clone();
    let restored = offline::restore(config, &from)?;
    if let Some(aside) = &restored.set_aside {
        out.line(format!("the replaced store is now {}", aside.display()))?;
    }
    if !restored.replaced_was_readable {
        out.line(
            "the replaced store could not be read: snapshot ids go on far beyond the backup's",
        )?;
    }
    out.line("restored; volumes that no record names are kept until `thinfs check --repair`")?;
    if restored.findings > 0 {
        out.line(format!(
            "{} findings: start the daemon and run `thinfs check`",
            restored.findings
        ))?;
    }
    Ok(())
}
