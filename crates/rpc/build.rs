//! Compiles the wire format with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for at run time: a build script may have been compiled in a checkout that has moved since.
    let root = std::path::PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files =
        ["types", "worker", "blob", "study", "model", "admin"].map(|f| format!("kapell/v1/{f}.proto"));
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
