//! The whole line: registry, images, runtime, shim, CRI server, pod manager, as the quickstart
//! shows them to a user. Here with the programs that the tests were built with.

use std::process::Command;

use rrun_tests::{Need, program, require};

/// Runs `integration/quickstart`, which exits non-zero on the first thing that is not as it should be.
#[test]
fn quickstart_goes_from_a_registry_to_a_pod_that_heals_itself() {
    require!(
        Need::Root,
        Need::Network,
        Need::Program("docker-registry"),
        Need::Program("nft"),
        Need::Program("jq"),
    );
    let rrun = program("rrun");
    let programs = rrun.parent().expect("a program lies in a directory");
    let output = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../integration/quickstart"
    ))
    .env("RRUN_BIN_DIR", programs)
    .output()
    .expect("the quickstart starts");
    assert!(
        output.status.success(),
        "the quickstart failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
