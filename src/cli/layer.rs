//! `layer`: OCI layers.

use super::client::Client;
use super::error::{Asked, Result, several};
use super::layer_args::LayerCommand;
use super::moving::{Input, follow, stdout_descriptor};
use super::output::{Out, age, number, size, text, time};
use super::progress::during;
use super::tree::{Standing, arrange};
use super::{json, layer_json};
use crate::grpc::proto::thinfs::layers::v1 as layers;

pub(super) async fn run(
    command: LayerCommand,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    match command {
        LayerCommand::Import { parent, file } => {
            let input = Input::open(file.as_deref())?;
            import(parent.unwrap_or_default(), &input, client, out).await
        }
        LayerCommand::Export { chain, from, flat } => {
            export(chain, from.unwrap_or_default(), flat, client).await
        }
        LayerCommand::Ls => print_list(all(String::new(), client).await?, out),
        LayerCommand::Tree => print_tree(all(String::new(), client).await?, out),
        LayerCommand::Info { chain } => info(chain, client, out).await,
        LayerCommand::Get { chain } => get(chain, client).await,
        LayerCommand::Rm { chains } => release(chains, client, out).await,
        LayerCommand::Prune => {
            let reply = client.layers.prune(layers::PruneRequest {}).await;
            print_removed(reply.asked(|| "prune layers".to_owned())?.into_inner(), out)
        }
    }
}

async fn import(
    parent: String,
    input: &Input,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    let request = layers::ImportRequest { input: Some(input.descriptor()?), parent };
    let reply = follow("importing", client.layers.import(request)).await;
    print_imported(reply.asked(|| "import the layer".to_owned())?, out)
}

/// The chain id, so that `base=$(thinfs layer import …)` works.
pub(super) fn print_imported(reply: layers::ImportReply, out: &mut Out) -> Result<()> {
    let layer = reply.layer.unwrap_or_default();
    if out.json {
        out.object(&layer_json::Layer::from(layer))?;
    } else {
        out.line(layer.chain_id)?;
    }
    Ok(())
}

async fn export(chain_id: String, from: String, flat: bool, client: &mut Client) -> Result<()> {
    let what = format!("export layer {chain_id}");
    let output = Some(stdout_descriptor()?);
    let request = layers::ExportRequest { output, chain_id, from, flat };
    follow("exporting", client.layers.export(request)).await.asked(|| what)?;
    Ok(())
}

async fn all(chain_id: String, client: &mut Client) -> Result<Vec<layers::Layer>> {
    let request = layers::ListRequest { chain_id };
    let reply = during(|| "listing layers".to_owned(), client.layers.list(request)).await;
    Ok(reply.asked(|| "list layers".to_owned())?.into_inner().layers)
}

pub(super) fn print_list(layers: Vec<layers::Layer>, out: &mut Out) -> Result<()> {
    if out.json {
        return print_json(layers, out);
    }
    let now = out.now;
    let rows = layers.iter().map(|layer| {
        [
            layer.chain_id.clone(),
            layer.depth.to_string(),
            size(layer.size),
            size(layer.chain_size),
            references(layer).to_string(),
            layer.created.map(|created| age(created, now)).unwrap_or_default(),
        ]
    });
    let columns = [
        text("CHAIN ID"),
        number("DEPTH"),
        number("SIZE"),
        number("WITH PARENTS"),
        number("REFS"),
        number("AGE"),
    ];
    Ok(out.table(columns, rows.collect())?)
}

fn print_json(layers: Vec<layers::Layer>, out: &mut Out) -> Result<()> {
    for layer in layers {
        out.object(&layer_json::Layer::from(layer))?;
    }
    Ok(())
}

fn references(layer: &layers::Layer) -> u32 {
    layer.holders.iter().map(|holder| holder.count).sum()
}

impl Standing for layers::Layer {
    fn key(&self) -> &str {
        &self.chain_id
    }

    fn parent(&self) -> &str {
        &self.parent
    }
}

fn print_tree(layers: Vec<layers::Layer>, out: &mut Out) -> Result<()> {
    if out.json {
        return print_json(layers, out);
    }
    let nodes = arrange(layers);
    let rows = nodes.iter().map(|node| {
        let layer = &node.snapshot;
        let holders: Vec<&str> = layer.holders.iter().map(|holder| holder.name.as_str()).collect();
        let others: Vec<&str> =
            holders.into_iter().filter(|name| !name.starts_with("layer ")).collect();
        [format!("{}{}", node.branch, layer.chain_id), size(layer.size), others.join(", ")]
    });
    Ok(out.table([text("LAYER"), number("SIZE"), text("HELD BY")], rows.collect())?)
}

async fn info(chain: String, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = layers::ListRequest { chain_id: chain.clone() };
    let reply = client.layers.list(request).await;
    let found = reply.asked(|| format!("show layer {chain}"))?.into_inner().layers;
    for layer in found {
        if out.json {
            out.object(&layer_json::Layer::from(layer))?;
            continue;
        }
        let holders =
            layer.holders.iter().map(|holder| format!("{} ({})", holder.name, holder.count));
        let held_by = holders.collect::<Vec<_>>().join("\n");
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        out.fields(&[
            ("chain id", layer.chain_id.clone()),
            ("diff id", layer.diff_id.clone()),
            ("parent", dash(&layer.parent)),
            ("depth", layer.depth.to_string()),
            ("entries", layer.entries.to_string()),
            ("size", size(layer.size)),
            ("with parents", size(layer.chain_size)),
            ("tar size", size(layer.tar_size)),
            ("record size", size(layer.record_size)),
            ("created", layer.created.map(time).unwrap_or_default()),
            ("held by", dash(&held_by)),
            ("path", layer.path.clone()),
        ])?;
    }
    Ok(())
}

async fn get(chain: String, client: &mut Client) -> Result<()> {
    let request = layers::GetRequest { chain_id: chain.clone() };
    client.layers.get(request).await.asked(|| format!("take a reference of layer {chain}"))?;
    Ok(())
}

async fn release(chains: Vec<String>, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let (of, mut errors) = (chains.len(), Vec::new());
    for chain in chains {
        let request = layers::ReleaseRequest { chain_id: chain.clone() };
        let reply = client.layers.release(request).await;
        match reply.asked(|| format!("release layer {chain}")) {
            Ok(reply) => print_removed(reply.into_inner(), out)?,
            Err(error) => errors.push(error),
        }
    }
    several(errors, of)
}

/// A line for each layer that went.
pub(super) fn print_removed(reply: layers::ReleaseReply, out: &mut Out) -> Result<()> {
    for removed in reply.removed {
        if out.json {
            out.object(&layer_json::Removed::from(removed))?;
        } else {
            out.line(format!("removed {} ({})", removed.chain_id, size(removed.diff_size)))?;
        }
    }
    Ok(())
}

/// A change of a read-write layer, as `diff` prints it.
pub(super) fn change_of(change: layers::RwChange) -> crate::grpc::proto::thinfs::admin::v1::Change {
    crate::grpc::proto::thinfs::admin::v1::Change {
        kind: i32::try_from(change.kind).unwrap_or(0),
        path: change.path,
    }
}

/// What a read-write layer holds of its own, where that was asked for and could be measured.
pub(super) fn usage_of(layer: &layers::Rw) -> Option<json::Usage> {
    Some(json::Usage { size: layer.size?, inodes: layer.inodes? })
}
