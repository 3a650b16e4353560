//! Compiles the protocol files with a pure-Rust compiler, so that no protoc is needed.

use std::io;

const FILES: [&str; 13] = [
    "bootstrap.proto",
    "cgroups_v1.proto",
    "cgroups_v2.proto",
    "events.proto",
    "events_service.proto",
    "runc.proto",
    "runtime_options.proto",
    "sandbox.proto",
    "shim.proto",
    "task.proto",
    "task_types.proto",
    "ttrpc.proto",
    "types.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"]).map_err(io::Error::other)?;
    prost_build::Config::new()
        .compile_well_known_types()
        .btree_map(["."])
        .disable_comments(["google"])
        .include_file("all.rs")
        .compile_fds(files)
}
