//! Thin ids that are set aside.

use super::args::FaultyArgs;
use super::client::Client;
use super::error::{Asked, Error, Result};
use super::json;
use super::output::{Out, number, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn faulty(args: FaultyArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    if args.retry {
        return retry(args.ids, client, out).await;
    }
    let reply = client.admin.status(admin::StatusRequest {}).await;
    let faulty =
        reply.asked(|| "list the thin ids that are set aside".to_owned())?.into_inner().faulty;
    print_faulty(faulty, out)?;
    Ok(())
}

pub(super) fn print_faulty(faulty: Vec<admin::FaultyId>, out: &mut Out) -> std::io::Result<()> {
    if out.json {
        let mut lines = faulty.into_iter().map(|faulty| json::Faulty::new(faulty, None));
        return lines.try_for_each(|line| out.object(&line));
    }
    let rows = faulty.into_iter().map(|faulty| [faulty.thin_id.to_string(), faulty.why]);
    out.table([number("THIN ID"), text("WHY")], rows.collect())
}

async fn retry(thin_ids: Vec<u32>, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::RetryFaultyRequest { thin_ids };
    let reply =
        during(|| "deleting thin devices".to_owned(), client.admin.retry_faulty(request)).await;
    let reply = reply.asked(|| "delete thin devices that are set aside".to_owned())?.into_inner();
    let left = reply.left.len();
    print_retried(reply, out)?;
    if left == 0 { Ok(()) } else { Err(Error::StillFaulty(left)) }
}

pub(super) fn print_retried(reply: admin::RetryFaultyReply, out: &mut Out) -> std::io::Result<()> {
    for thin_id in reply.gone {
        match out.json {
            true => {
                let gone = admin::FaultyId { thin_id, why: String::new() };
                out.object(&json::Faulty::new(gone, Some(true)))?;
            }
            false => out.line(format!("{thin_id}: gone"))?,
        }
    }
    for left in reply.left {
        match out.json {
            true => out.object(&json::Faulty::new(left, Some(false)))?,
            false => out.line(format!("{}: still set aside: {}", left.thin_id, left.why))?,
        }
    }
    Ok(())
}
