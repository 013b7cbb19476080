//! Compiles the gRPC definitions with protox, so that no protoc is needed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["ateapi.proto", "node.proto"];
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(files, ["src/proto"])?;
    std::fs::write(
        out.join("ateapi_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .skip_debug(["atenode.PullSecret"])
        .compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=src/proto");
    Ok(())
}
