//! Generates the messages of `proto/overweave.proto`; the stubs are generated at each end.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/overweave.proto");
    let files = protox::compile(["proto/overweave.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
