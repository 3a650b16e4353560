//! The partial pull of layers that another tool made.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;

use kit::{Tool, outside};
use rrun_tests::{Need, Registry, noise, require};

#[test]
fn layers_that_skopeo_made_chunked_are_pulled_in_part() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("skopeo")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let dir = tool.path("files");
    fs::create_dir_all(dir.join("usr/lib")).unwrap();
    fs::write(dir.join("usr/lib/same"), noise(1, 400_000)).unwrap();
    std::os::unix::fs::symlink("same", dir.join("usr/lib/link")).unwrap();
    let named = |repository: &str, tag| format!("{}/{repository}:{tag}", registry.host());
    for tag in [1, 2] {
        fs::write(dir.join("usr/lib/changed"), noise(tag + 1, 60_000)).unwrap();
        let (plain, chunked) = (named("plain", tag), named("chunked", tag));
        tool.ok(&["build-layers", dir.to_str().unwrap(), "--tag", &plain]);
        tool.ok(&["push", "--quiet", &plain]);
        let (from, to) = (format!("docker://{plain}"), format!("docker://{chunked}"));
        let format = ["--format", "oci", "--dest-compress-format", "zstd:chunked"];
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        outside(
            "skopeo",
            &[&["copy", "--quiet"], &format[..], &plain, &[&from, &to]].concat(),
        );
    }
    let pull = |tag, keep: bool| {
        let name = named("chunked", tag);
        let flags: &[&str] = if keep { &[] } else { &["--discard-blobs"] };
        let output = tool.ok(&[&["pull", "--json"], flags, &[&name]].concat());
        let events = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let reused = |event: serde_json::Value| {
            event["count"]
                .as_u64()
                .filter(|_| event["event"] == "reused")
        };
        events.filter_map(reused).sum::<u64>()
    };
    // The plain images have the same layers unpacked: as if this machine had none of them.
    tool.ok(&["remove", &named("plain", 1), &named("plain", 2)]);
    for keep in [true, false] {
        assert_eq!(pull(1, keep), 0);
        let reused = pull(2, keep);
        assert!(
            reused > 390_000,
            "of the file that both have {reused} bytes"
        );
        tool.ok(&["check"]);
        if keep {
            tool.ok(&["remove", &named("chunked", 1), &named("chunked", 2)]);
        }
    }
    let flat = tool.path("flat");
    let name = named("chunked", 2);
    tool.ok(&[
        "unpack",
        "--flat",
        "--rootfs-only",
        &name,
        flat.to_str().unwrap(),
    ]);
    let read = |file: &str| fs::read(flat.join("usr/lib").join(file)).unwrap();
    assert_eq!(read("link"), noise(1, 400_000));
    assert_eq!(read("changed"), noise(3, 60_000));
    tool.ok(&["check"]);
}
