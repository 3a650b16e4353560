//! Sizes are what `du` says.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kit::{Tool, outside};
use rrun_tests::{Need, Registry, require};

/// Bytes and inodes, each inode once.
fn du(path: &Path) -> (u64, u64) {
    let path = path.to_str().unwrap();
    let number = |args: &[&str]| -> u64 {
        let text = outside("du", &[args, &["-s", path]].concat());
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number(&["--block-size=1"]), number(&["--inodes"]))
}

fn json(tool: &Tool, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&tool.ok(args)).unwrap()
}

/// Every number of `usage`, and of each image, beside `du`'s.
fn agrees(tool: &Tool, when: &str) {
    let store = tool.path("store");
    let usage = json(tool, &["usage", "--json"]);
    let told = |part: &str| {
        let number = |what: &str| usage[part][what].as_u64().unwrap();
        (number("bytes"), number("inodes"))
    };
    for (part, dir) in [
        ("layers", "layers"),
        ("blobs", "blobs"),
        ("downloads", "ingest"),
    ] {
        assert_eq!(told(part), du(&store.join(dir)), "{when}: {part}");
    }
    assert_eq!(told("total"), du(&store), "{when}: total");
    for image in json(tool, &["list", "--json"]).as_array().unwrap() {
        let mut bytes = 0;
        let hex = |digest: &serde_json::Value| digest.as_str().unwrap()[7..].to_owned();
        let blob = |digest: &serde_json::Value| {
            let path = store.join("blobs/sha256").join(hex(digest));
            if path.exists() { du(&path).0 } else { 0 }
        };
        for layer in image["layers"].as_array().unwrap() {
            bytes += du(&store.join("layers").join(hex(&layer["chain_id"]))).0;
            bytes += blob(&layer["digest"]);
        }
        bytes += blob(&image["id"]) + blob(&image["manifest"]);
        assert_eq!(image["size"], bytes, "{when}: {}", image["repo_tags"]);
    }
}

#[test]
fn sizes_are_what_du_says() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("du")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/app:1", registry.host());
    let (base, top) = tool.directories();
    let base = Path::new(&base);
    // Hard links, a hole, more names than a block of a directory holds, odd kinds.
    fs::write(base.join("bin/large"), vec![7; 300_001]).unwrap();
    fs::hard_link(base.join("bin/large"), base.join("other")).unwrap();
    let sparse = fs::File::create(base.join("sparse")).unwrap();
    sparse.write_all_at(b"x", 5 << 20).unwrap();
    fs::create_dir(base.join("many")).unwrap();
    for n in 0..600 {
        fs::write(base.join(format!("many/a-name-of-some-length-{n}")), "").unwrap();
    }
    outside("mkfifo", &[base.join("fifo").to_str().unwrap()]);
    agrees(&tool, "empty");
    tool.ok(&["build-layers", base.to_str().unwrap(), "--tag", &name]);
    let both = [base.to_str().unwrap(), top.as_str()];
    tool.ok(&["build-layers", both[0], both[1], "--tag", "u.test/two:1"]);
    agrees(&tool, "built, one layer in two images");
    tool.ok(&["push", "--quiet", &name]);
    tool.ok(&["remove", "u.test/two:1"]);
    agrees(&tool, "one removed");
    let store = tool.path("store");
    let parts = || du(&store.join("layers")).0 + du(&store.join("blobs")).0;
    let before = parts();
    let told = tool.ok(&["remove", "--json", &name]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["bytes"], before - parts(), "what a removal gives back");
    tool.ok(&["pull", "--quiet", "--discard-blobs", &name]);
    agrees(&tool, "pulled without blobs");
    let bundle = tool.path("box");
    tool.ok(&["unpack", &name, bundle.to_str().unwrap(), "/bin/tool"]);
    agrees(&tool, "with a container");
    let layer = fs::read_dir(store.join("layers")).unwrap().next().unwrap();
    fs::write(layer.unwrap().path().join("layer.json"), "{").unwrap();
    let usage = json(&tool, &["usage", "--json"]);
    assert_eq!(usage["total"]["bytes"], du(&store).0, "a damaged note");
}
