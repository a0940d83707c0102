//! Generates the server's stub of `hostconfig/proto/overweave.proto`, and the client's for tests; the messages are those of
//! `hostconfig::wire`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../hostconfig/proto/overweave.proto");
    let files = protox::compile(["overweave.proto"], ["../hostconfig/proto"])?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(test)]")
        .build_transport(false)
        .extern_path(".overweave.v1", "::hostconfig::wire")
        .compile_fds(files)?;
    Ok(())
}
