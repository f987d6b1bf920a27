//! Images: the formats that tools write, and ours read back.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::layer_store::Error;
use crate::layer_store::image::{ImportImage, ImportedImage, Source};
use crate::types::DiffId;

fn digest(bytes: &[u8]) -> String {
    DiffId::from_bytes(Sha256::digest(bytes).into()).to_string()
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// An image's configuration, as far as it matters.
fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    }))
    .unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[("bin/sh", &[7; 20_000]), ("etc/passwd", b"root")]),
        tar(&[("etc/.wh.passwd", b""), ("etc/group", b"root")]),
        tar(&[("app", b"app")]),
    ]
}

/// Files of an archive, in order.
type Files = Vec<(String, Vec<u8>)>;

fn add_blob(files: &mut Files, bytes: Vec<u8>) -> serde_json::Value {
    let digest = digest(&bytes);
    let size = bytes.len();
    files.push((path_of(&digest), bytes));
    serde_json::json!({"digest": digest, "size": size})
}

/// An OCI layout with compressed layers, behind an index of several platforms.
fn oci(layers: &[Vec<u8>], name: Option<&str>) -> Files {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let compress = [gzip, zstd, |bytes: &[u8]| bytes.to_vec()];
    let blobs: Vec<_> = layers
        .iter()
        .zip(compress.iter().cycle())
        .map(|(layer, compress)| add_blob(&mut files, compress(layer)))
        .collect();
    let config = add_blob(&mut files, config(layers));
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": blobs});
    let mut manifest = add_blob(&mut files, serde_json::to_vec(&manifest).unwrap());
    manifest["platform"] = serde_json::json!({"architecture": "amd64", "os": "linux"});
    let attestation = serde_json::json!({
        "digest": digest(b"left out"), "size": 8, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "platform": {"architecture": "unknown", "os": "unknown"}
    });
    let arm = serde_json::json!({
        "digest": digest(b"for another machine"), "size": 19,
        "platform": {"architecture": "arm64", "os": "linux"}
    });
    let nested = serde_json::json!({"schemaVersion": 2, "manifests": [attestation, arm, manifest]});
    let mut index = add_blob(&mut files, serde_json::to_vec(&nested).unwrap());
    index["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    if let Some(name) = name {
        index["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [index]});
    files.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
    files
}

fn archive(files: &Files) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    tar(&files)
}

/// What `docker save` wrote for years: a directory a layer, equal layers as symlinks.
fn docker(layers: &[Vec<u8>], names: &[&str]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut file = |path: &str, bytes: &[u8]| {
        tar.extend(write::header(&entry(Kind::File, path, bytes)));
        tar.extend_from_slice(bytes);
        tar.extend_from_slice(write::padding(bytes.len() as u64));
    };
    let mut members = Vec::new();
    let mut links = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let path = format!("{number}/layer.tar");
        match layers.iter().position(|other| other == layer) {
            Some(first) if first < number => {
                links.push((path.clone(), format!("../{first}/layer.tar")));
            }
            _ => file(&path, layer),
        }
        members.push(path);
    }
    let config = config(layers);
    let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    file(&config_name, &config);
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": names, "Layers": members}]);
    file("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    for (path, target) in links {
        let link = Entry { link: target.into_bytes(), ..entry(Kind::Symlink, &path, b"") };
        tar.extend(write::header(&link));
    }
    tar.extend_from_slice(&write::END);
    tar
}

fn file_of(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.into()
}

fn import(rig: &Rig, input: OwnedFd, given: Option<&str>) -> Result<Vec<ImportedImage>> {
    import_only(rig, input, given, None)
}

fn import_only(
    rig: &Rig,
    input: OwnedFd,
    given: Option<&str>,
    only: Option<&str>,
) -> Result<Vec<ImportedImage>> {
    let progress = &Progress::default();
    let source = Source::open(rig.layers(), input, |file| file, progress)?;
    rig.layers().import_image(&source, ImportImage { name: given.map(name), only, progress })
}

#[track_caller]
fn assert_holds(rig: &Rig, image: &str, layers: &[Vec<u8>]) {
    let image = rig.layers().image(&name(image)).unwrap();
    let chain = rig.layers().chain(image.top).unwrap();
    assert_eq!(chain.len(), layers.len());
    chain.iter().zip(layers).for_each(|((chain, _), layer)| rig.assert_tar(chain, layer));
    assert_eq!(image.config, config(layers));
}

#[test]
fn every_format_of_the_same_image_gives_the_same_layers() {
    let rig = Rig::native();
    let layers = layers();
    let archive = archive(&oci(&layers, Some("docker.io/library/app:1")));
    let [image] = import(&rig, file_of(&archive), None).unwrap().try_into().unwrap();
    assert_eq!(
        (image.name.as_str(), image.layers, image.existed),
        ("docker.io/library/app:1", 3, 0)
    );

    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in oci(&layers, None) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let refused = import(&rig, File::open(dir.path()).unwrap().into(), None).unwrap_err();
    assert!(refused.to_string().contains("give a name"), "{refused}");
    let inputs: [(&str, OwnedFd); 5] = [
        ("layout", File::open(dir.path()).unwrap().into()),
        ("docker", file_of(&docker(&layers, &["other:latest"]))),
        ("gzipped", file_of(&gzip(&archive))),
        ("zstd", file_of(&zstd(&docker(&layers, &[])))),
        ("pipe", {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let archive = archive.clone();
            std::thread::spawn(move || writer.write_all(&archive));
            reader.into()
        }),
    ];
    for (given, input) in inputs {
        let [again] = import(&rig, input, Some(given)).unwrap().try_into().unwrap();
        assert_eq!((again.top, again.existed), (image.top, 3), "{given}");
        assert_holds(&rig, given, &layers);
    }
    assert_eq!(rig.chains().len(), 3);
    for (image, _) in rig.layers().images().unwrap() {
        let removed = rig.layers().remove_image(&image).unwrap();
        let last = rig.layers().images().unwrap().is_empty();
        assert_eq!(removed.len(), if last { 3 } else { 0 });
    }
    rig.assert_sound();
}

#[test]
fn an_exported_image_comes_back_with_the_same_configuration_and_layers() {
    let rig = Rig::native();
    let mut layers = layers();
    layers.push(layers[2].clone());
    import(&rig, file_of(&docker(&layers, &["a/app:2"])), None).unwrap();
    let export = |progress: &Progress| {
        let mut archive = Vec::new();
        rig.layers().export_image(&name("a/app:2"), &mut archive, progress).unwrap();
        archive
    };
    let archive = export(&Progress::default());
    assert_eq!(archive, export(&Progress::default()), "the same bytes each time");
    rig.layers().remove_image(&name("a/app:2")).unwrap();
    assert_eq!(rig.chains(), []);
    let [image] = import(&rig, file_of(&archive), None).unwrap().try_into().unwrap();
    assert_eq!((image.name.as_str(), image.layers), ("a/app:2", 4));
    assert_holds(&rig, "a/app:2", &layers);
    rig.assert_sound();
}

#[test]
fn a_name_that_is_taken_names_the_new_image_and_the_old_layers_go() {
    let rig = Rig::native();
    let old = layers();
    import(&rig, file_of(&docker(&old, &["app:1"])), None).unwrap();
    let new = vec![old[0].clone(), tar(&[("new", b"new")])];
    import(&rig, file_of(&docker(&new, &["app:1"])), None).unwrap();
    assert_holds(&rig, "app:1", &new);
    assert_eq!(rig.chains().len(), 2);
    rig.assert_sound();
}

/// `docker save app:1 app:2`, both tags of one image.
#[test]
fn every_tag_of_a_docker_archive_names_the_image_and_either_can_be_chosen() {
    let rig = Rig::native();
    let layers = layers();
    let archive = docker(&layers, &["app:1", "app:2", "app:1"]);
    let [first, second] = import(&rig, file_of(&archive), None).unwrap().try_into().unwrap();
    assert_eq!((first.name.as_str(), second.name.as_str()), ("app:1", "app:2"));
    assert_holds(&rig, "app:1", &layers);
    assert_holds(&rig, "app:2", &layers);
    assert_eq!(rig.layers().remove_image(&name("app:1")).unwrap(), [], "the other name holds them");
    assert_holds(&rig, "app:2", &layers);
    assert_eq!(rig.layers().remove_image(&name("app:2")).unwrap().len(), 3);

    import_only(&rig, file_of(&archive), None, Some("app:2")).unwrap();
    import(&rig, file_of(&archive), Some("mine")).unwrap();
    let images = rig.layers().images().unwrap();
    let names: Vec<_> = images.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["app:2", "mine"]);
    rig.assert_sound();
}

/// A pipe that never ends, from a client that has gone.
#[test]
fn an_image_that_comes_without_an_end_is_given_up_when_nobody_wants_it() {
    struct Endless<'a>(&'a Progress);
    impl std::io::Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    let rig = Rig::native();
    let (progress, (input, _writer)) = (Progress::default(), std::io::pipe().unwrap());
    let opened = Source::open(rig.layers(), input.into(), |_| Endless(&progress), &progress);
    assert!(matches!(opened, Err(Error::Layer(crate::layer::Error::Cancelled))), "{opened:?}");
}

#[test]
fn an_archive_of_countless_files_is_no_image() {
    let rig = Rig::native();
    let many = write::header(&entry(Kind::File, "f", b"")).repeat(100_001);
    let error = import(&rig, file_of(&many), Some("a")).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    assert!(error.to_string().contains("more than 100000 files"), "{error}");
}

#[test]
fn damaged_and_incomplete_images_are_refused_and_leave_nothing() {
    let rig = Rig::native();
    let layers = layers();
    let whole = oci(&layers, Some("app:1"));
    let spoil = |at: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = oci(&layers, Some("app:1"));
        change(&mut files[at].1);
        archive(&files)
    };
    let count = whole.len();
    // In order: layout, three layers, configuration, manifest, nested index, index.
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("a layer", spoil(3, &|bytes| bytes[2000] ^= 1)),
        ("the configuration", spoil(4, &|bytes| bytes.push(b' '))),
        ("the manifest", spoil(5, &|bytes| bytes.push(b' '))),
        ("the index below", spoil(6, &|bytes| bytes.push(b' '))),
        ("no JSON", spoil(count - 1, &|bytes| bytes.truncate(9))),
        ("nothing known", tar(&[("etc/passwd", b"root")])),
        ("no tar", b"what is this?".repeat(100)),
        ("not even an archive", Vec::new()),
        ("one that is cut inside a file", {
            let mut cut = archive(&whole);
            cut.truncate(3 * 512);
            cut
        }),
        ("for another machine", {
            let mut files = oci(&layers, None);
            let text = String::from_utf8(files[6].1.clone()).unwrap();
            files[6].1 = text.replace("amd64", "s390x").into_bytes();
            let digest = digest(&files[6].1);
            files[6].0 = path_of(&digest);
            let index = serde_json::json!({"schemaVersion": 2, "manifests": [
                {"digest": digest, "mediaType": "application/vnd.oci.image.index.v1+json"}]});
            files[7].1 = serde_json::to_vec(&index).unwrap();
            archive(&files)
        }),
        ("a name outside", {
            let mut files = whole.clone();
            let index = serde_json::json!({"schemaVersion": 2, "manifests": [
                {"digest": "sha256:../../../../etc/passwd"}]});
            files[count - 1].1 = serde_json::to_vec(&index).unwrap();
            archive(&files)
        }),
    ];
    for (what, bytes) in bad {
        let error = import(&rig, file_of(&bytes), Some("app:1")).unwrap_err();
        assert!(
            matches!(error, Error::InvalidImage(_) | Error::WrongDiffId { .. } | Error::Layer(_)),
            "{what}: {error}"
        );
        assert_eq!(rig.chains(), [], "{what}");
        assert_eq!(rig.layers().images().unwrap(), [], "{what}");
    }
    rig.assert_sound();
}

/// A layout collects images, tag by tag, as skopeo and umoci write it.
#[test]
fn one_image_of_several_can_be_chosen_and_named() {
    let rig = Rig::native();
    let layers = layers();
    let mut files = oci(&layers, Some("v1"));
    let index: serde_json::Value = serde_json::from_slice(&files.last().unwrap().1).unwrap();
    let (mut first, mut second) = (index["manifests"][0].clone(), index["manifests"][0].clone());
    first["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "v1"});
    second["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "v2"});
    let both = serde_json::json!({"schemaVersion": 2, "manifests": [first, second]});
    files.last_mut().unwrap().1 = serde_json::to_vec(&both).unwrap();
    let bytes = archive(&files);

    let error = import(&rig, file_of(&bytes), Some("app:1")).unwrap_err().to_string();
    assert!(error.contains("v1, v2") && error.contains("--only"), "{error}");
    let error = import_only(&rig, file_of(&bytes), None, Some("v3")).unwrap_err().to_string();
    assert!(error.contains("v1, v2"), "{error}");
    assert_eq!(rig.layers().images().unwrap(), []);

    import_only(&rig, file_of(&bytes), Some("app:2"), Some("v2")).unwrap();
    assert_holds(&rig, "app:2", &layers);
    assert_eq!(rig.layers().images().unwrap().len(), 1);
    rig.assert_sound();
}

/// A layout's links lead nowhere outside of it.
#[test]
fn a_layout_directory_is_not_left_through_a_link() {
    let rig = Rig::native();
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, b"{}").unwrap();
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    std::os::unix::fs::symlink(&outside, layout.join("index.json")).unwrap();
    let error = import(&rig, File::open(&layout).unwrap().into(), Some("a")).unwrap_err();
    assert!(matches!(error, Error::InvalidImage(_)), "{error}");
}
