//! `diff`: which paths differ between two snapshots.

use std::fmt::Write as _;

use tonic::Streaming;

use super::args::DiffArgs;
use super::client::Client;
use super::error::{Asked, Result};
use super::json;
use super::output::{Out, quoted_path};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn diff(args: DiffArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let DiffArgs { a, b } = args;
    let request = admin::DiffRequest { namespace: client.ns(), a: a.clone(), b: b.clone() };
    let what = || format!("compare {a:?} with {b:?}");
    let mut stream = client.admin.diff(request).await.asked(what)?.into_inner();
    while let Some(changes) = next(&mut stream).await.asked(what)? {
        for change in changes {
            print_change(&change, out)?;
        }
    }
    Ok(())
}

async fn next(
    stream: &mut Streaming<admin::DiffReply>,
) -> std::result::Result<Option<Vec<admin::Change>>, tonic::Status> {
    let reply = during(|| "comparing".to_owned(), stream.message()).await?;
    Ok(reply.map(|reply| reply.changes))
}

pub(super) fn print_change(change: &admin::Change, out: &mut Out) -> std::io::Result<()> {
    let (letter, word) = match change.kind() {
        admin::ChangeKind::Added => ('A', "added"),
        admin::ChangeKind::Modified => ('M', "modified"),
        admin::ChangeKind::Deleted => ('D', "deleted"),
        admin::ChangeKind::Unspecified => ('?', "unknown"),
    };
    if !out.json {
        return out.line(format!("{letter} {}", quoted_path(&change.path)));
    }
    let path = String::from_utf8_lossy(&change.path).into_owned();
    let path_hex = std::str::from_utf8(&change.path).is_err().then(|| hex(&change.path));
    out.object(&json::Change { change: word, path, path_hex })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
