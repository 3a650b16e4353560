//! Compiles the proto files with protox, so that no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([root.join("runtime/v1/api.proto")], [root])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .skip_debug(["runtime.v1.AuthConfig"])
        .client_mod_attribute("runtime.v1", "#[cfg(feature = \"client\")]")
        .server_mod_attribute("runtime.v1", "#[cfg(feature = \"server\")]")
        .compile_fds(files)?;
    let probe = root.join("probe/v1/probe.proto");
    tonic_prost_build::configure()
        .client_mod_attribute("rrun.probe.v1", "#[cfg(feature = \"client\")]")
        .server_mod_attribute("rrun.probe.v1", "#[cfg(feature = \"server\")]")
        .compile_fds(protox::compile([probe], [root])?)?;
    let nri = root.join("nri/v1alpha1/nri.proto");
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(protox::compile([nri], [root])?)?;
    let otlp = root.join("otlp/trace.proto");
    tonic_prost_build::configure()
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(protox::compile([otlp], [root])?)?;
    Ok(())
}
