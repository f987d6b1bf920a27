//! Import of images: each layer that isn't there yet, then one batch that names the image.
//!
//! Layers of one image are unpacked one after the other: each starts as a snapshot of the one below,
//! which on thin is a copy of its blocks, and cannot be given other blocks to stand on later. What
//! runs at the same time is reading and decompressing, digesting, and writing of one layer; layers
//! of different images; and a layer that is there already costs nothing.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Source;
use super::manifest::{self, Found};
use crate::crashpoint::Step;
use crate::layer_store::error::{Error, Result};
use crate::layer_store::{Counting, LayerStore, Progress, Register, Removed, keys};
use crate::meta::Batch;
use crate::snapshot::locks::Mode;
use crate::types::{ChainId, GivenName, Holder, Image};

/// What is to be imported, and how.
pub struct ImportImage<'a> {
    /// The name to give; `None`: those that the source has.
    pub name: Option<GivenName>,
    /// Which image of a source that holds several, as the source calls it; `None`: all.
    pub only: Option<&'a str>,
    /// Told how far it is, and asked whether to go on.
    pub progress: &'a Progress,
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its name.
    pub name: GivenName,
    /// Its topmost layer.
    pub top: Option<ChainId>,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were there before.
    pub existed: usize,
}

impl LayerStore {
    /// Imports all images of `source` for this machine. A name that is taken names the new image
    /// afterwards.
    ///
    /// After a crash, an image is there with all its layers, or it is not there; layers that were
    /// imported for it go at the next start if nobody else holds them.
    pub fn import_image(
        &self,
        source: &Source,
        import: ImportImage<'_>,
    ) -> Result<Vec<ImportedImage>> {
        let found = select(manifest::images(source)?, import.only)?;
        if import.name.is_some() && found.len() > 1 {
            return Err(Error::InvalidArgument(format!(
                "the file holds several images ({}): choose one with --only, or import all without giving a name",
                called(&found)
            )));
        }
        announce(source, &found, import.progress)?;
        let mut imported = Vec::new();
        for image in found {
            let names = names(&image, &import)?;
            imported.extend(self.import_one(source, image, names, import.progress)?);
        }
        Ok(imported)
    }

    fn import_one(
        &self,
        source: &Source,
        image: Found,
        names: Vec<GivenName>,
        progress: &Progress,
    ) -> Result<Vec<ImportedImage>> {
        // Holds the layers until the image does; a start forgets such references.
        let hold = Holder::Import(self.store().next_snapshot_id()?);
        let mut held = Vec::new();
        let imported = self.import_layers(source, &image, &hold, &mut held, progress);
        let named = imported.and_then(|existed| {
            let top = held.last().copied();
            let record = Image { top, config: image.config, created: SystemTime::now() };
            names
                .into_iter()
                .map(|name| {
                    self.put_image(&name, &record)?;
                    Ok(ImportedImage { name, top, layers: held.len(), existed })
                })
                .collect()
        });
        self.let_go(&hold, &held)?;
        named
    }

    fn import_layers(
        &self,
        source: &Source,
        image: &Found,
        hold: &Holder,
        held: &mut Vec<ChainId>,
        progress: &Progress,
    ) -> Result<usize> {
        let mut existed = 0;
        let mut parent = None;
        for (member, diff_id) in &image.layers {
            progress.layer.fetch_add(1, Ordering::Relaxed);
            progress.unpacked.store(0, Ordering::Relaxed);
            let chain = ChainId::new(parent, *diff_id);
            let (bytes, size) = source.blob(member)?;
            if self.hold_existing(&chain, hold)? {
                progress.moved.fetch_add(size, Ordering::Relaxed);
                existed += 1;
            } else {
                let register =
                    Register { parent, expected: Some(*diff_id), holder: hold.clone(), progress };
                self.register(Counting::new(bytes, progress), register)?;
            }
            held.push(chain);
            parent = Some(chain);
        }
        Ok(existed)
    }

    /// Adds a reference to a layer if it is there.
    fn hold_existing(&self, chain: &ChainId, holder: &Holder) -> Result<bool> {
        let _held = self.locks.hold(&self.ns, &[(&keys::layer(chain), Mode::Shared)]);
        let exists = self.store().layer(chain)?.is_some();
        if exists {
            self.add_reference(chain, holder)?;
        }
        Ok(exists)
    }

    /// Gives the import's references back, from the top: what nobody holds goes.
    fn let_go(&self, holder: &Holder, held: &[ChainId]) -> Result<()> {
        let mut batch = Batch::of(Step::StoreLayer);
        held.iter().for_each(|chain| batch.put_layer_ref(chain, holder, 0));
        self.store().write(batch)?;
        for chain in held.iter().rev() {
            self.collect_or_warn(Some(*chain), &mut Vec::new());
        }
        Ok(())
    }

    /// Names an image, whatever the name meant before.
    fn put_image(&self, name: &GivenName, image: &Image) -> Result<()> {
        let (name_key, top_key) = (keys::image(name), image.top.as_ref().map(keys::layer));
        let mut wanted = vec![(&name_key, Mode::Exclusive)];
        wanted.extend(top_key.iter().map(|key| (key, Mode::Shared)));
        let held = self.locks.hold(&self.ns, &wanted);
        let before = self.store().image(name)?;
        let mut batch = Batch::of(Step::StoreLayer);
        if let Some(before) = &before {
            batch.remove_image(name, before);
        }
        batch.put_image(name, image);
        self.store().write(batch)?;
        drop(held);
        self.images_changed();
        tracing::info!(%name, top = ?image.top, "image named");
        if let Some(before) = before {
            self.collect_or_warn(before.top, &mut Vec::new());
        }
        Ok(())
    }

    /// The image with this name.
    pub fn image(&self, name: &GivenName) -> Result<Image> {
        self.store().image(name)?.ok_or_else(|| Error::ImageNotFound(name.to_string()))
    }

    /// Removes an image, and every layer that nobody holds then; these are returned. After a crash,
    /// either the name is still there, or it is gone and the next start removes the layers.
    pub fn remove_image(&self, name: &GivenName) -> Result<Vec<Removed>> {
        let top = {
            let _held = self.locks.hold(&self.ns, &[(&keys::image(name), Mode::Exclusive)]);
            let image = self.image(name)?;
            let mut batch = Batch::of(Step::StoreLayer);
            batch.remove_image(name, &image);
            self.store().write(batch)?;
            image.top
        };
        self.images_changed();
        let mut removed = Vec::new();
        self.collect_or_warn(top, &mut removed);
        tracing::info!(%name, layers = removed.len(), "image removed");
        Ok(removed)
    }
}

/// What the source calls its images.
fn called(found: &[Found]) -> String {
    let names: Vec<_> = found.iter().flat_map(|image| image.names.clone()).collect();
    names.join(", ")
}

fn select(found: Vec<Found>, only: Option<&str>) -> Result<Vec<Found>> {
    let Some(only) = only else { return Ok(found) };
    let all = called(&found);
    let is_it = |image: &Found| image.names.iter().any(|name| name == only);
    let selected: Vec<_> = found.into_iter().filter(is_it).collect();
    if selected.is_empty() {
        let text = format!("the file holds no image that it calls {only:?}, but: {all}");
        return Err(Error::InvalidArgument(text));
    }
    Ok(selected)
}

/// Tells how much there is to read.
fn announce(source: &Source, found: &[Found], progress: &Progress) -> Result<()> {
    let (mut total, mut layers) = (0_u64, 0);
    for (member, _) in found.iter().flat_map(|image| &image.layers) {
        total = total.saturating_add(source.blob(member)?.1);
        layers += 1;
    }
    progress.moved.store(0, Ordering::Relaxed);
    progress.total.store(total, Ordering::Relaxed);
    progress.layers.store(layers, Ordering::Relaxed);
    Ok(())
}

/// What to call the image.
fn names(image: &Found, import: &ImportImage<'_>) -> Result<Vec<GivenName>> {
    if let Some(name) = &import.name {
        return Ok(vec![name.clone()]);
    }
    let best = || {
        // A tag alone is no name.
        image.names.iter().find(|name| name.contains([':', '/'])).or(image.names.first())
    };
    let chosen: Vec<&String> = match import.only {
        _ if !image.all => best().into_iter().collect(),
        Some(only) => image.names.iter().filter(|name| *name == only).collect(),
        None => image.names.iter().collect(),
    };
    if chosen.is_empty() {
        return Err(Error::InvalidArgument(
            "the file doesn't say what its image is called: give a name".to_owned(),
        ));
    }
    let name = |name: &String| {
        GivenName::new(name.clone()).map_err(|error| Error::InvalidImage(error.to_string()))
    };
    chosen.into_iter().map(name).collect()
}
