//! `namespace`: made, listed, labelled, deleted.

use std::io;

use super::client::Client;
use super::error::{Asked, Result, several};
use super::gc_args::{NamespaceCommand, NamespaceCreateArgs};
use super::json;
use super::output::{Out, age, printable, text};
use crate::gc::{COLLECT_LABEL, COLLECT_UNREFERENCED};
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn namespace(
    command: NamespaceCommand,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    match command {
        NamespaceCommand::Create(args) => create(args, client).await,
        NamespaceCommand::Ls => ls(client, out).await,
        NamespaceCommand::Label { name, labels } => {
            let request = admin::UpdateNamespaceRequest {
                name: name.clone(),
                labels: labels.into_iter().collect(),
            };
            let reply = client.namespaces.update(request).await;
            reply.asked(|| format!("label namespace {name:?}")).map(drop)
        }
        NamespaceCommand::Rm { names } => {
            let (of, mut errors) = (names.len(), Vec::new());
            for name in names {
                let request = admin::DeleteNamespaceRequest { name: name.clone() };
                let reply = client.namespaces.delete(request).await;
                errors.extend(reply.asked(|| format!("delete namespace {name:?}")).err());
            }
            several(errors, of)
        }
    }
}

async fn create(args: NamespaceCreateArgs, client: &mut Client) -> Result<()> {
    let NamespaceCreateArgs { name, labels, collect } = args;
    let collect = collect.then(|| (COLLECT_LABEL.to_owned(), COLLECT_UNREFERENCED.to_owned()));
    let labels = labels.labels.into_iter().chain(collect).collect();
    let request = admin::CreateNamespaceRequest { name: name.clone(), labels };
    let reply = client.namespaces.create(request).await;
    reply.asked(|| format!("create namespace {name:?}")).map(drop)
}

async fn ls(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let reply = client.namespaces.list(admin::ListNamespacesRequest {}).await;
    let namespaces = reply.asked(|| "list namespaces".to_owned())?.into_inner().namespaces;
    print_namespaces(namespaces, out)?;
    Ok(())
}

pub(super) fn print_namespaces(all: Vec<admin::Namespace>, out: &mut Out) -> io::Result<()> {
    if out.json {
        return all.into_iter().try_for_each(|ns| out.object(&json::Namespace::from(ns)));
    }
    let now = out.now;
    let rows = all.iter().map(|ns| {
        let labels = ns.labels.iter().map(|(k, v)| printable(&format!("{k}={v}")));
        [
            ns.name.clone(),
            ns.created.map_or_else(|| "-".to_owned(), |created| age(created, now)),
            labels.collect::<Vec<_>>().join(","),
        ]
    });
    out.table([text("NAMESPACE"), text("AGE"), text("LABELS")], rows.collect())
}
