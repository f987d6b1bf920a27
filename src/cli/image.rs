//! `image`: names for chains of layers.

use super::client::Client;
use super::error::{Asked, Error, Result, several};
use super::layer::print_removed;
use super::layer_args::ImageCommand;
use super::layer_json;
use super::moving::{Input, follow, stdout_descriptor};
use super::output::{Out, age, number, printable, size, text};
use crate::grpc::proto::thinfs::layers::v1 as layers;

pub(super) async fn run(
    command: ImageCommand,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    match command {
        ImageCommand::Import { file, name, only } => {
            let input = Input::open(file.as_deref())?;
            let request = layers::ImportImageRequest {
                input: Some(input.descriptor()?),
                name: name.unwrap_or_default(),
                only: only.unwrap_or_default(),
            };
            import(request, client, out).await
        }
        ImageCommand::Ls => print_list(all(client).await?, out),
        ImageCommand::Path { name } => path(&name, client, out).await,
        ImageCommand::Export { name } => export(name, client).await,
        ImageCommand::Rm { names } => {
            let (of, mut errors) = (names.len(), Vec::new());
            for name in names {
                let request = layers::RemoveImageRequest { name: name.clone() };
                let reply = client.layers.remove_image(request).await;
                match reply.asked(|| format!("remove image {name:?}")) {
                    Ok(reply) => print_removed(reply.into_inner(), out)?,
                    Err(error) => errors.push(error),
                }
            }
            several(errors, of)
        }
    }
}

async fn import(
    request: layers::ImportImageRequest,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    let reply = follow("importing", client.layers.import_image(request)).await;
    for image in reply.asked(|| "import the image".to_owned())?.images {
        if out.json {
            out.object(&layer_json::Imported::from(image))?;
        } else {
            out.line(image.name)?;
        }
    }
    Ok(())
}

async fn all(client: &mut Client) -> Result<Vec<layers::Image>> {
    let reply = client.layers.list_images(layers::ListImagesRequest {}).await;
    Ok(reply.asked(|| "list images".to_owned())?.into_inner().images)
}

fn print_list(images: Vec<layers::Image>, out: &mut Out) -> Result<()> {
    if out.json {
        for image in images {
            out.object(&layer_json::Image::from(image))?;
        }
        return Ok(());
    }
    let now = out.now;
    let rows = images.iter().map(|image| {
        [
            printable(&image.name),
            image.id.get(7..19).unwrap_or_default().to_owned(),
            image.diff_ids.len().to_string(),
            size(image.size),
            image.created.map(|created| age(created, now)).unwrap_or_default(),
            image.path.clone(),
        ]
    });
    let columns =
        [text("IMAGE"), text("ID"), number("LAYERS"), number("SIZE"), number("AGE"), text("PATH")];
    Ok(out.table(columns, rows.collect())?)
}

async fn path(name: &str, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let image = all(client).await?.into_iter().find(|image| image.name == name);
    match image {
        Some(image) if image.path.is_empty() => Err(Error::NoLayers(name.to_owned())),
        Some(image) => Ok(out.line(image.path)?),
        None => Err(Error::NoImage(name.to_owned())),
    }
}

async fn export(name: String, client: &mut Client) -> Result<()> {
    let what = format!("export image {name:?}");
    let request = layers::ExportImageRequest { output: Some(stdout_descriptor()?), name };
    follow("exporting", client.layers.export_image(request)).await.asked(|| what)?;
    Ok(())
}
