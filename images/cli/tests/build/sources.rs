//! Where a build takes files from: images of other platforms, linked layers, URLs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rrun_tests::{Need, Registry, require};

use crate::kit::{Tool, outside};
use crate::{context, flat, inspect};

fn build(tool: &Tool, dockerfile: &str, args: &[&str]) -> String {
    let context = context(tool, &[("Dockerfile", dockerfile), ("a", "a\n")]);
    tool.ok(&[&["build", &context, "--quiet"], args].concat())
}

/// Pushes an image for each of two platforms, and the index that names both.
fn push_index(tool: &Tool, registry: &Registry) -> String {
    let mut manifests = Vec::new();
    for arch in ["amd64", "riscv64"] {
        let platform = format!("linux/{arch}");
        let name = format!("{}/multi:{arch}", registry.host());
        let text = "FROM scratch\nCOPY a /a\nARG TARGETARCH\nENV FOR=$TARGETARCH\n";
        build(tool, text, &["--platform", &platform, "--tag", &name]);
        let digest = tool.ok(&["push", "--quiet", &name]);
        let file = tool.path("store/blobs/sha256").join(&digest[7..]);
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": fs::metadata(file).unwrap().len(),
            "platform": {"os": "linux", "architecture": arch},
        }));
        tool.ok(&["remove", &name]);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let url = format!("http://{}/v2/multi/manifests/1", registry.host());
    let header = format!("Content-Type: {kind}");
    let put = [
        "-sSf",
        "-X",
        "PUT",
        "-H",
        &header,
        "-d",
        &index.to_string(),
        &url,
    ];
    outside("curl", &put);
    format!("{}/multi:1", registry.host())
}

#[test]
fn stages_stand_on_the_platform_that_from_says() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("curl")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let multi = push_index(&tool, &registry);
    let text = format!(
        "ARG TARGETPLATFORM\nFROM --platform=linux/amd64 {multi} AS one\n\
         FROM --platform=$TARGETPLATFORM {multi} AS two\n\
         COPY --from=one /a /from-one\nARG BUILDPLATFORM\nLABEL built=$BUILDPLATFORM\n"
    );
    let tagged = ["--platform", "linux/riscv64", "--tag", "p.test/a:1"];
    build(&tool, &text, &tagged);
    let image = inspect(&tool, "p.test/a:1");
    assert_eq!(image["platform"]["architecture"], "riscv64");
    assert_eq!(image["config"]["env"], serde_json::json!(["FOR=riscv64"]));
    assert_ne!(image["config"]["labels"]["built"], "linux/riscv64");
    let root = flat(&tool, "p.test/a:1");
    assert_eq!(fs::read_to_string(root.join("from-one")).unwrap(), "a\n");
    // What the store has of that name is for another platform: it is fetched.
    let text = format!("FROM --platform=linux/amd64 {multi}\n");
    build(&tool, &text, &["--tag", "p.test/b:1"]);
    let image = inspect(&tool, "p.test/b:1");
    assert_eq!(image["platform"]["architecture"], "amd64");
    let text = format!("FROM --platform=linux/s390x {multi}\n");
    let context = context(&tool, &[("Dockerfile", &text)]);
    let error = tool.fails(&["build", &context, "--quiet"]);
    assert!(
        error.contains("line 1") && error.contains("s390x"),
        "{error}"
    );
}

#[test]
fn a_linked_copy_does_not_depend_on_what_is_below() {
    require!(Need::Root);
    let tool = Tool::new();
    let base = tool.path("base");
    fs::create_dir_all(base.join("tmp")).unwrap();
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::symlink("tmp", base.join("link")).unwrap();
    tool.ok(&[
        "build-layers",
        base.to_str().unwrap(),
        "--tag",
        "l.test/base:1",
    ]);
    let copies = "COPY --link a /tmp/\nCOPY --link --chown=7:8 a /new/deep/\n";
    let [based, scratch] = ["l.test/base:1", "scratch"].map(|f| format!("FROM {f}\n{copies}"));
    let files = [
        ("based", based.as_str()),
        ("scratch", &scratch),
        ("a", "a\n"),
    ];
    let context = context(&tool, &files);
    for (file, name) in [("based", "l.test/a:1"), ("scratch", "l.test/b:1")] {
        let file = format!("{context}/{file}");
        tool.ok(&["build", &context, "-q", "--file", &file, "--tag", name]);
    }
    let (on_base, alone) = (inspect(&tool, "l.test/a:1"), inspect(&tool, "l.test/b:1"));
    for n in 0..2 {
        let digest = |image: &serde_json::Value, n: usize| image["layers"][n]["digest"].clone();
        assert_eq!(digest(&on_base, n + 1), digest(&alone, n));
    }
    let root = flat(&tool, "l.test/a:1");
    let look = |path: &str| {
        let meta = fs::metadata(root.join(path)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(look("tmp"), (0o1777, 0, 0), "the layer says nothing of it");
    assert_eq!((look("new"), look("new/deep").1), ((0o755, 0, 0), 7));
    assert!(root.join("tmp/a").exists() && root.join("new/deep/a").exists());
}

#[test]
fn files_of_urls_are_added_and_verified() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/files:1", registry.host());
    tool.build(&name);
    tool.ok(&["push", "--quiet", &name]);
    let digest = inspect(&tool, &name)["layers"][0]["digest"].clone();
    let digest = digest.as_str().unwrap();
    let url = format!("http://{}/v2/files/blobs", registry.host());
    let text = format!(
        "FROM scratch\nARG D={digest}\nADD --checksum={digest} {url}/$D /whole\n\
         ADD --chmod=0644 --chown=3:4 {url}/$D a /dir/\n"
    );
    build(&tool, &text, &["--tag", "u.test/a:1"]);
    let root = flat(&tool, "u.test/a:1");
    let blob = fs::read(tool.path("store/blobs/sha256").join(&digest[7..])).unwrap();
    let within = format!("dir/{digest}");
    for (path, look) in [("whole", (0o600, 0, 0)), (&within, (0o644, 3, 4))] {
        let file = root.join(path);
        assert!(fs::read(&file).unwrap() == blob, "{path}: not unpacked");
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            look,
            "{path}"
        );
    }
    assert!(root.join("dir/a").exists());
    let other = inspect(&tool, &name)["layers"][1]["digest"].clone();
    let other = other.as_str().unwrap();
    let cases = [
        (format!("--checksum={other} {url}/{digest} /x"), "digest"),
        (format!("{url}/sha256:{} /x", "0".repeat(64)), "not found"),
        (format!("{url}/ /x/"), "no file name"),
        ("http://files.example/x /x".to_owned(), "no TLS"),
    ];
    for (line, why) in cases {
        let text = format!("FROM scratch\nADD {line}\n");
        let context = context(&tool, &[("Dockerfile", &text)]);
        let error = tool.fails(&["build", &context, "--quiet"]);
        assert!(
            error.contains("line 2") && error.contains(why),
            "{line}: {error}"
        );
    }
    assert_eq!(fs::read_dir(tool.path("store/build")).unwrap().count(), 0);
}
