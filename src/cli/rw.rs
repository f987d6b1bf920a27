//! `rw`: read-write layers.

use std::collections::BTreeMap;

use super::client::Client;
use super::diff::print_change;
use super::error::{Asked, Result, several};
use super::layer::{change_of, print_imported, print_removed, usage_of};
use super::layer_args::RwCommand;
use super::layer_json;
use super::moving::{Input, follow};
use super::output::{Out, age, number, printable, size, text, time};
use super::progress::during;
use crate::grpc::proto::thinfs::layers::v1 as layers;

pub(super) async fn run(command: RwCommand, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    match command {
        RwCommand::Create { name, parent, init, mount_label, size } => {
            let init = init.map(|path| Input::open(Some(&path))).transpose()?;
            let request = layers::CreateRwRequest {
                name: name.clone(),
                parent: parent.unwrap_or_default(),
                init: init.as_ref().map(Input::descriptor).transpose()?,
                mount_label,
                storage: storage(size),
            };
            let reply = during(|| format!("making {name}"), client.layers.create_rw(request)).await;
            made(reply.asked(|| format!("make read-write layer {name:?}"))?.into_inner(), out)
        }
        RwCommand::Get { name } => {
            let reply = client.layers.get_rw(layers::RwRequest { name: name.clone() }).await;
            made(reply.asked(|| format!("get read-write layer {name:?}"))?.into_inner(), out)
        }
        RwCommand::Ls { usage } => print_list(all(String::new(), usage, client).await?, out),
        RwCommand::Info { name } => info(name, client, out).await,
        RwCommand::Changes { name } => changes(name, client, out).await,
        RwCommand::Commit { name } => {
            let what = format!("commit read-write layer {name:?}");
            let reply =
                follow("committing", client.layers.commit_rw(layers::RwRequest { name })).await;
            print_imported(reply.asked(|| what)?, out)
        }
        RwCommand::Rm { names } => {
            let (of, mut errors) = (names.len(), Vec::new());
            for name in names {
                let reply =
                    client.layers.release_rw(layers::RwRequest { name: name.clone() }).await;
                match reply.asked(|| format!("release read-write layer {name:?}")) {
                    Ok(reply) => print_removed(reply.into_inner(), out)?,
                    Err(error) => errors.push(error),
                }
            }
            several(errors, of)
        }
    }
}

fn storage(size: Option<crate::config::Bytes>) -> BTreeMap<String, String> {
    size.map(|size| ("size".to_owned(), size.0.to_string())).into_iter().collect()
}

/// Prints the directory, so that `cd "$(thinfs rw create …)"` works.
fn made(layer: layers::Rw, out: &mut Out) -> Result<()> {
    if out.json {
        out.object(&layer_json::Rw::from(layer))?;
    } else {
        out.line(layer.path)?;
    }
    Ok(())
}

async fn all(name: String, usage: bool, client: &mut Client) -> Result<Vec<layers::Rw>> {
    let request = layers::ListRwRequest { name, usage };
    let reply =
        during(|| "listing read-write layers".to_owned(), client.layers.list_rw(request)).await;
    Ok(reply.asked(|| "list read-write layers".to_owned())?.into_inner().layers)
}

pub(super) fn print_list(layers: Vec<layers::Rw>, out: &mut Out) -> Result<()> {
    if out.json {
        for layer in layers {
            out.object(&layer_json::Rw::from(layer))?;
        }
        return Ok(());
    }
    let (now, dash) = (out.now, || "-".to_owned());
    let rows = layers.iter().map(|layer| {
        [
            printable(&layer.name),
            if layer.parent.is_empty() { dash() } else { layer.parent.clone() },
            usage_of(layer).map_or_else(dash, |usage| size(usage.size)),
            layer.references.to_string(),
            layer.created.map(|created| age(created, now)).unwrap_or_default(),
        ]
    });
    let columns = [text("NAME"), text("PARENT"), number("SIZE"), number("REFS"), number("AGE")];
    Ok(out.table(columns, rows.collect())?)
}

async fn info(name: String, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    for layer in all(name, true, client).await? {
        if out.json {
            out.object(&layer_json::Rw::from(layer))?;
            continue;
        }
        let usage = usage_of(&layer);
        let inodes = usage.as_ref().map(|usage| usage.inodes.to_string());
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let storage = layer.storage.iter().map(|(key, value)| format!("{key}={value}"));
        out.fields(&[
            ("name", layer.name.clone()),
            ("parent", dash(&layer.parent)),
            ("init layer", if layer.has_init { "yes" } else { "no" }.to_owned()),
            ("mount label", dash(&layer.mount_label)),
            ("storage", dash(&storage.collect::<Vec<_>>().join("\n"))),
            ("references", layer.references.to_string()),
            ("size", dash(&usage.map(|usage| size(usage.size)).unwrap_or_default())),
            ("inodes", dash(&inodes.unwrap_or_default())),
            ("created", layer.created.map(time).unwrap_or_default()),
            ("path", layer.path.clone()),
        ])?;
    }
    Ok(())
}

async fn changes(name: String, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let what = || format!("list the changes of read-write layer {name:?}");
    let request = layers::RwRequest { name: name.clone() };
    let mut stream = client.layers.rw_changes(request).await.asked(what)?.into_inner();
    loop {
        let reply = during(|| "comparing".to_owned(), stream.message()).await.asked(what)?;
        let Some(reply) = reply else { return Ok(()) };
        for change in reply.changes {
            print_change(&change_of(change), out)?;
        }
    }
}
