//! Holds the table of allowed edges of ARCHITECTURE.md against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crate → our crates that it may use as a normal or build dependency.
const ALLOWED: &[(&str, &[&str])] = &[
    ("rrun-sys", &[]),
    ("rrun-process", &["rrun-sys"]),
    ("rrun-core", &["rrun-process", "rrun-sys"]),
    ("rrun", &["rrun-core", "rrun-sys"]),
    ("rrun-task-api", &[]),
    (
        "containerd-shim-rrun-v2",
        &["rrun-process", "rrun-sys", "rrun-task-api"],
    ),
    ("rrun-images", &["rrun-sys"]),
    ("rrun-image", &["rrun-images", "rrun-sys"]),
    ("rrun-cri-api", &[]),
    ("rrun-streaming", &[]),
    (
        "rrun-cri",
        &[
            "rrun-sys",
            "rrun-images",
            "rrun-cri-api",
            "rrun-task-api",
            "rrun-streaming",
        ],
    ),
    ("rrun-pods", &["rrun-sys", "rrun-cri-api", "rrun-streaming"]),
    ("rrun-tests", &[]),
];

/// Crates that start a container must not wait for a runtime: no async of any kind.
const NO_ASYNC: &[&str] = &[
    "rrun-sys",
    "rrun-process",
    "rrun-core",
    "rrun",
    "containerd-shim-rrun-v2",
];
const ASYNC: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "futures-util",
    "tracing-subscriber",
];

/// What the person this is built for asked for, each doing real work somewhere.
const ASKED_FOR: &[&str] = &[
    "oci-spec",
    "nix",
    "libc",
    "caps",
    "libseccomp",
    "cgroups-rs",
    "tonic",
    "prost",
    "tokio",
    "tar",
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Crate → names of its normal and build dependencies.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let names = dependencies
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .filter_map(|dependency| dependency["name"].as_str())
                .map(str::to_owned);
            (
                package["name"].as_str().expect("name").to_owned(),
                names.collect(),
            )
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let edges = edges();
    let ours: BTreeSet<_> = edges.keys().cloned().collect();
    for (name, dependencies) in &edges {
        let allowed = ALLOWED.iter().find(|(crate_name, _)| crate_name == name);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("{name} is not in ARCHITECTURE.md's table of edges"));
        for used in dependencies.intersection(&ours) {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} must not use {used}"
            );
        }
    }
}

#[test]
fn programs_that_start_containers_have_no_async() {
    for (name, dependencies) in edges() {
        if NO_ASYNC.contains(&name.as_str()) {
            let found: Vec<_> = ASYNC
                .iter()
                .filter(|a| dependencies.contains(**a))
                .collect();
            assert!(found.is_empty(), "{name} must not use {found:?}");
        }
    }
}

#[test]
fn every_crate_that_was_asked_for_is_used() {
    let used: BTreeSet<String> = edges().into_values().flatten().collect();
    for name in ASKED_FOR {
        assert!(used.contains(*name), "{name} is used by no crate");
    }
}

#[test]
fn all_crates_but_sys_forbid_unsafe_code() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        if package["name"] == "rrun-sys" {
            continue;
        }
        for target in package["targets"].as_array().expect("targets") {
            let kind = target["kind"][0].as_str().expect("kind");
            if !["lib", "bin"].contains(&kind) {
                continue;
            }
            let path = target["src_path"].as_str().expect("src_path");
            let source = std::fs::read_to_string(path).expect("the source is readable");
            assert!(
                source.contains("#![forbid(unsafe_code)]"),
                "{path} lacks forbid(unsafe_code)"
            );
        }
    }
}
