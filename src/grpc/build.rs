//! Generates the gRPC services and messages from `proto/`, without needing `protoc`.

use std::error::Error;
use std::path::PathBuf;

const PROTOS: [&str; 5] =
    ["mount.proto", "snapshots.proto", "admin.proto", "leases.proto", "layers.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir =
        std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let protos = PathBuf::from(manifest_dir).join("src/grpc/proto");
    println!("cargo::rerun-if-changed={}", protos.display());
    println!("cargo::rerun-if-changed=src/grpc/build.rs");
    let descriptors = protox::compile(PROTOS, [protos])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .include_file("services.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
