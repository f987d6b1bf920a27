//! Which images a source holds: OCI's `index.json`, or docker's `manifest.json`.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::Source;
use super::json::{Config, Descriptor, Index, Manifest, NAME, Platform, REF_NAME, Saved};
use crate::layer_store::error::{Error, Result};
use crate::types::DiffId;

/// How deep indexes may be nested.
const MOST_NESTED: u32 = 4;

/// An image that a source holds.
#[derive(Debug)]
pub(super) struct Found {
    /// Its names there, best first.
    pub(super) names: Vec<String>,
    /// Whether they are names of equal rank, as docker's are; else each says the same in another way.
    pub(super) all: bool,
    /// Its configuration.
    pub(super) config: Vec<u8>,
    /// From the base upward: the member that holds the layer, and what its tar must be.
    pub(super) layers: Vec<(String, DiffId)>,
}

/// All images of a source for this machine.
pub(super) fn images(source: &Source) -> Result<Vec<Found>> {
    let mut images = if source.has("index.json") {
        oci(source)?
    } else if source.has("manifest.json") {
        docker(source)?
    } else {
        return Err(invalid("it has neither index.json (OCI) nor manifest.json (docker save)"));
    };
    if images.is_empty() {
        return Err(invalid(&format!("it has no image for {}", machine().architecture)));
    }
    for image in &mut images {
        let mut seen = HashSet::new();
        image.names.retain(|name| seen.insert(name.clone()));
    }
    Ok(images)
}

fn oci(source: &Source) -> Result<Vec<Found>> {
    let index: Index = parse("index.json", &source.document("index.json")?)?;
    let mut images = Vec::new();
    for descriptor in fitting(index.manifests) {
        let mut names = names_of(&descriptor);
        let all = names.is_empty() && source.has("manifest.json");
        if all {
            names = saved_names(source)?;
        }
        if let Some(image) = image(source, &descriptor, names, MOST_NESTED)? {
            images.push(Found { all, ..image });
        }
    }
    Ok(images)
}

/// The image of a descriptor; of an index, the one for this machine. `None`: there is none.
fn image(
    source: &Source,
    descriptor: &Descriptor,
    names: Vec<String>,
    nested: u32,
) -> Result<Option<Found>> {
    let bytes = blob(source, &descriptor.digest)?;
    if is_index(descriptor, &bytes) {
        if nested == 0 {
            return Err(invalid("its indexes are nested too deeply"));
        }
        let index: Index = parse(&descriptor.digest, &bytes)?;
        for below in fitting(index.manifests) {
            // An index may name platforms whose blobs were left out.
            if source.has(&path_of(&below.digest)?)
                && let Some(image) = image(source, &below, names.clone(), nested - 1)?
            {
                return Ok(Some(image));
            }
        }
        return Ok(None);
    }
    let manifest: Manifest = parse(&descriptor.digest, &bytes)?;
    let config = blob(source, &manifest.config.digest)?;
    let members: Result<Vec<String>> = manifest.layers.iter().map(|l| path_of(&l.digest)).collect();
    found(names, config, members?).map(Some)
}

fn is_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    let said = &descriptor.media_type;
    said.ends_with("image.index.v1+json")
        || said.ends_with("manifest.list.v2+json")
        || (said.is_empty() && parse::<Manifest>("", bytes).is_err())
}

/// Manifests for this machine; those that say nothing fit. Attestations have an unknown platform.
fn fitting(manifests: Vec<Descriptor>) -> impl Iterator<Item = Descriptor> {
    let machine = machine();
    manifests
        .into_iter()
        .filter(move |found| found.platform.as_ref().is_none_or(|platform| *platform == machine))
}

fn machine() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: "linux".to_owned() }
}

fn names_of(descriptor: &Descriptor) -> Vec<String> {
    let annotations = &descriptor.annotations;
    [NAME, REF_NAME].iter().filter_map(|key| annotations.get(*key)).cloned().collect()
}

/// `docker save` writes names into its own file too.
fn saved_names(source: &Source) -> Result<Vec<String>> {
    let saved: Vec<Saved> = parse("manifest.json", &source.document("manifest.json")?)?;
    match <[Saved; 1]>::try_from(saved) {
        Ok([only]) => Ok(only.names.unwrap_or_default()),
        Err(_) => Ok(Vec::new()),
    }
}

fn docker(source: &Source) -> Result<Vec<Found>> {
    let saved: Vec<Saved> = parse("manifest.json", &source.document("manifest.json")?)?;
    let one = |saved: Saved| {
        let config = source.document(&saved.config)?;
        let name = saved.config.rsplit('/').next().unwrap_or_default();
        let digest = name.strip_suffix(".json").unwrap_or(name);
        if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            verify(&format!("sha256:{digest}"), &config)?;
        }
        let image = found(saved.names.unwrap_or_default(), config, saved.layers)?;
        Ok(Found { all: true, ..image })
    };
    saved.into_iter().map(one).collect()
}

fn found(names: Vec<String>, config: Vec<u8>, members: Vec<String>) -> Result<Found> {
    let parsed: Config = parse("the configuration", &config)?;
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != members.len() {
        return Err(invalid(&format!(
            "it has {} layers, but its configuration has {}",
            members.len(),
            diff_ids.len()
        )));
    }
    let layer = |(member, diff_id): (String, String)| {
        let diff_id = diff_id.parse().map_err(|e| invalid(&format!("its configuration: {e}")))?;
        Ok((member, diff_id))
    };
    let layers: Result<_> = members.into_iter().zip(diff_ids).map(layer).collect();
    Ok(Found { names, all: false, config, layers: layers? })
}

/// A small blob, its digest verified.
fn blob(source: &Source, digest: &str) -> Result<Vec<u8>> {
    let bytes = source.document(&path_of(digest)?)?;
    verify(digest, &bytes)?;
    Ok(bytes)
}

fn verify(digest: &str, bytes: &[u8]) -> Result<()> {
    let has = DiffId::from_bytes(Sha256::digest(bytes).into()).to_string();
    if has == digest {
        return Ok(());
    }
    Err(invalid(&format!("the blob {digest} is damaged: its digest is {has}")))
}

/// Where an OCI layout keeps a blob.
fn path_of(digest: &str) -> Result<String> {
    let digest: DiffId = digest.parse().map_err(|e| invalid(&format!("{e}")))?;
    Ok(format!("blobs/{}", digest.to_string().replace(':', "/")))
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| invalid(&format!("{what}: {e}")))
}

fn invalid(what: &str) -> Error {
    Error::InvalidImage(what.to_owned())
}
