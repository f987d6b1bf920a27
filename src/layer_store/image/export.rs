//! Export of an image: an OCI archive that docker reads too.
//!
//! Layers are written uncompressed, byte for byte as they were registered, so their digests are
//! their diff ids, and the configuration with them stays what it was. The same image gives the same
//! archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::json::{
    CONFIG, Descriptor, INDEX, Index, LAYER, MANIFEST, Manifest, NAME, REF_NAME, Saved,
};
use crate::layer;
use crate::layer::tar::{Entry, Kind, Time, write};
use crate::layer_store::error::{Error, Result};
use crate::layer_store::export::Source;
use crate::layer_store::{Counting, LayerStore, Progress};
use crate::types::{DiffId, GivenName};

impl LayerStore {
    /// Writes an image as an OCI archive. All layers are held open before the first byte is
    /// written; removing the image meanwhile doesn't hurt.
    pub fn export_image(
        &self,
        name: &GivenName,
        out: impl Write + Send,
        progress: &Progress,
    ) -> Result<()> {
        let image = self.image(name)?;
        let chain = self.chain(image.top)?;
        let layers: Result<Vec<Source<'_>>> =
            chain.iter().map(|(chain, _)| self.source(chain)).collect();
        let layers = layers?;
        let total = layers.iter().map(|layer| layer.layer.tar_size).sum();
        progress.total.store(total, Ordering::Relaxed);
        progress.layers.store(u32::try_from(layers.len()).unwrap_or(0), Ordering::Relaxed);
        let mut archive =
            Archive { out: Counting::writing(out, progress), written: BTreeSet::new() };
        archive.write(name, &image.config, &layers, progress)
    }
}

struct Archive<W> {
    out: W,
    /// Blobs that are in it: an image may have a layer twice.
    written: BTreeSet<String>,
}

impl<W: Write + Send> Archive<W> {
    fn write(
        &mut self,
        name: &GivenName,
        config: &[u8],
        layers: &[Source<'_>],
        progress: &Progress,
    ) -> Result<()> {
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for layer in layers {
            progress.layer.fetch_add(1, Ordering::Relaxed);
            self.layer(layer, &progress.cancel)?;
        }
        let config = self.blob(CONFIG, config)?;
        let layers: Vec<Descriptor> = layers.iter().map(descriptor).collect();
        let saved = Saved {
            config: path_of(&config.digest),
            names: Some(vec![name.to_string()]),
            layers: layers.iter().map(|layer| path_of(&layer.digest)).collect(),
        };
        let manifest =
            Manifest { schema_version: 2, media_type: MANIFEST.to_owned(), config, layers };
        let mut manifest = self.blob(MANIFEST, &json(&manifest)?)?;
        manifest.annotations = annotations(name);
        let index =
            Index { schema_version: 2, media_type: INDEX.to_owned(), manifests: vec![manifest] };
        self.file("index.json", &json(&index)?)?;
        self.file("manifest.json", &json(&[saved])?)?;
        self.put(&write::END)?;
        self.out.flush().map_err(layer::Error::Output)?;
        Ok(())
    }

    fn layer(&mut self, layer: &Source<'_>, cancel: &AtomicBool) -> Result<()> {
        let path = path_of(&layer.layer.diff_id.to_string());
        if !self.written.insert(path.clone()) {
            return Ok(());
        }
        self.put(&header(&path, layer.layer.tar_size))?;
        layer.write(&mut self.out, cancel)?;
        self.put(write::padding(layer.layer.tar_size))
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = DiffId::from_bytes(Sha256::digest(bytes).into()).to_string();
        self.file(&path_of(&digest), bytes)?;
        let media_type = media_type.to_owned();
        Ok(Descriptor { media_type, digest, size: bytes.len() as u64, ..Default::default() })
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.put(&header(path, size))?;
        self.put(bytes)?;
        self.put(write::padding(size))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.out.write_all(bytes).map_err(layer::Error::Output)?)
    }
}

fn descriptor(layer: &Source<'_>) -> Descriptor {
    Descriptor {
        media_type: LAYER.to_owned(),
        digest: layer.layer.diff_id.to_string(),
        size: layer.layer.tar_size,
        ..Default::default()
    }
}

/// containerd reads the name, other tools the tag.
fn annotations(name: &GivenName) -> BTreeMap<String, String> {
    let tag = name.as_str().rsplit_once(':').map_or("latest", |(_, tag)| tag);
    BTreeMap::from([(NAME.to_owned(), name.to_string()), (REF_NAME.to_owned(), tag.to_owned())])
}

fn header(path: &str, size: u64) -> Vec<u8> {
    write::header(&Entry {
        kind: Kind::File,
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        mode: 0o444,
        uid: 0,
        gid: 0,
        device: (0, 0),
        mtime: Time { seconds: 0, nanoseconds: 0 },
        atime: None,
        size,
        extents: None,
        xattrs: Vec::new(),
    })
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::InvalidImage(e.to_string()))
}
