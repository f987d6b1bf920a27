//! The Kubernetes example against Kubernetes's own schema, and against what else it depends on.
//!
//! The schema comes with the program `kubernetes-validate`, which `scripts/test` installs; `THINFS_KUBERNETES_VALIDATE`
//! names it where it isn't on the path.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::proc::Output;
use crate::harness::run;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kubernetes/thinfs.yaml");
const CONTAINERD: &str = include_str!("../scripts/containerd-config.toml");

/// Checks a file; a field that the schema doesn't have is an error.
fn validate(file: &str) -> Output {
    let program = std::env::var("THINFS_KUBERNETES_VALIDATE");
    let program = program.unwrap_or_else(|_| "kubernetes-validate".to_owned());
    run(program, ["--strict", "--kubernetes-version", "1.34", file])
}

#[test]
fn every_object_of_the_example_is_what_kubernetes_takes() {
    let valid = validate(EXAMPLE);
    let said = format!("{}{}", valid.stdout, valid.stderr);
    assert_eq!(valid.code, Some(0), "{said}");
    for object in ["namespace/thinfs", "daemonset/thinfs", "runtimeclass/thinfs", "pod/on-thinfs"] {
        assert!(said.contains(&format!("passed for resource {object}")), "{said}");
    }
}

#[test]
fn the_schema_check_finds_a_misspelt_field_and_a_wrong_type() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (right, wrong) in [
        ("volumeMounts:", "volumeMount:"),
        ("terminationGracePeriodSeconds: 300", "terminationGracePeriodSeconds: soon"),
        ("handler: thinfs", "handlers: thinfs"),
    ] {
        assert!(example.contains(right), "{right}");
        let file = dir.path().join("example.yaml");
        std::fs::write(&file, example.replacen(right, wrong, 1)).unwrap();
        assert_ne!(validate(file.to_str().unwrap()).code, Some(0), "{wrong}");
    }
}

/// The example's objects by kind.
fn objects() -> BTreeMap<String, Value> {
    let program =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let json = run("python3", ["-c", program, EXAMPLE]).ok();
    let documents: Vec<Value> = serde_json::from_str(&json).expect("python3 writes JSON");
    let kind = |object: &Value| object["kind"].as_str().expect("an object has a kind").to_owned();
    documents.into_iter().map(|object| (kind(&object), object)).collect()
}

/// One handler, one root, one set of flags: what the schema can't know.
#[test]
fn the_example_fits_containerds_configuration_and_the_daemons_flags() {
    let objects = objects();
    let config: toml::Table = CONTAINERD.parse().expect("the configuration is TOML");
    let handler = objects["RuntimeClass"]["handler"].as_str().unwrap();
    let runtimes = &config["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(runtimes[handler]["snapshotter"].as_str(), Some("thinfs"));
    assert_eq!(
        objects["Pod"]["spec"]["runtimeClassName"],
        objects["RuntimeClass"]["metadata"]["name"]
    );

    let pod = &objects["DaemonSet"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let root = pod["volumes"][0]["hostPath"]["path"].as_str().unwrap();
    assert_eq!(container["volumeMounts"][0]["mountPath"], root);
    assert_eq!(container["volumeMounts"][0]["mountPropagation"], "Bidirectional");
    let socket = config["proxy_plugins"]["thinfs"]["address"].as_str().unwrap();
    assert_eq!(socket, format!("{root}/thinfs.sock"));

    let args: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    assert!(args.windows(2).any(|pair| pair == ["--root", root]), "{args:?}");
    // The daemon itself reads the line; `--help` after it keeps it from starting.
    run(env!("CARGO_BIN_EXE_thinfs"), args.iter().copied().chain(["--help"])).ok();
    let wrong = ["serve", "--no-such-flag", "--help"];
    assert_ne!(run(env!("CARGO_BIN_EXE_thinfs"), wrong).code, Some(0));
}

/// containerd's `rebase` capability promises that a layer can be unpacked on nothing and be put onto its parent at
/// Commit. A snapshot here holds its whole tree, so a layer unpacked so would lack all that is below it: images would be
/// broken in silence.
#[test]
fn the_configuration_claims_no_capability() {
    let config: toml::Table = CONTAINERD.parse().expect("the configuration is TOML");
    assert!(!config["proxy_plugins"]["thinfs"].as_table().unwrap().contains_key("capabilities"));
}
