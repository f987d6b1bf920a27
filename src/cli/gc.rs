//! `gc`: collects now, or tells what would go.

use std::io;

use super::client::Client;
use super::error::{Asked, Result};
use super::gc_args::GcArgs;
use super::json;
use super::output::{Out, printable, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn gc(args: GcArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let GcArgs { dry_run, wait } = args;
    let request = admin::GcRequest { dry_run, wait };
    let reply = during(|| "collecting".to_owned(), client.admin.gc(request)).await;
    let reply = reply.asked(|| "collect".to_owned())?.into_inner();
    print_gc(reply, dry_run, out)?;
    Ok(())
}

pub(super) fn print_gc(reply: admin::GcReply, dry: bool, out: &mut Out) -> io::Result<()> {
    if out.json {
        return out.object(&json::Gc::from(reply));
    }
    let row = |item: &admin::GcItem| {
        [item.namespace.clone(), item.kind.clone(), printable(&item.id), item.why.clone()]
    };
    let columns = [text("NAMESPACE"), text("KIND"), text("ID"), text("WHY")];
    let collected = reply.collected.len();
    if dry {
        out.table(columns, reply.collected.iter().map(row).collect())?;
        out.line(format!("{collected} would be collected"))?;
        reply
            .expired
            .iter()
            .try_for_each(|lease| out.line(format!("lease {lease} has expired")))?;
    } else {
        let (destroyed, waiting) = (reply.destroyed, reply.waiting);
        let failed = reply.failed.len();
        out.line(format!(
            "{collected} collected, {destroyed} destroyed, {waiting} still in use, {failed} failed"
        ))?;
        out.table(columns, reply.stayed.iter().map(row).collect())?;
    }
    reply.failed.iter().try_for_each(|line| out.line(format!("failed: {line}")))
}
