//! Dockerfiles become images.
#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;
mod run;
mod sources;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kit::{Tool, outside};
use rrun_tests::{Need, require};

/// Writes files of a build context.
fn context(tool: &Tool, files: &[(&str, &str)]) -> String {
    let dir = tool.path("context");
    let _ = fs::remove_dir_all(&dir);
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

fn flat(tool: &Tool, image: &str) -> PathBuf {
    let dir = tool.path("flat");
    let _ = fs::remove_dir_all(&dir);
    tool.ok(&[
        "unpack",
        "--flat",
        "--rootfs-only",
        image,
        dir.to_str().unwrap(),
    ]);
    dir
}

fn inspect(tool: &Tool, image: &str) -> serde_json::Value {
    serde_json::from_str(&tool.ok(&["inspect", image])).unwrap()
}

#[test]
fn copies_lie_where_the_dockerfile_says() {
    require!(Need::Root);
    let tool = Tool::new();
    let base = tool.path("base");
    fs::create_dir_all(base.join("usr/lib")).unwrap();
    fs::create_dir_all(base.join("tmp")).unwrap();
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::symlink("usr/lib", base.join("lib")).unwrap();
    fs::create_dir(base.join("etc")).unwrap();
    fs::write(base.join("etc/passwd"), "web:x:33:34::/:/bin/sh\n").unwrap();
    tool.ok(&[
        "build-layers",
        base.to_str().unwrap(),
        "--tag",
        "base.test/base:1",
    ]);
    let context = context(
        &tool,
        &[
            (
                "Dockerfile",
                "ARG TAG\nFROM base.test/base:$TAG AS one\nARG WHO=nobody\nENV GREETING=\"hello $WHO\"\n\
              WORKDIR /srv\nCOPY a.txt b.txt dir/\nCOPY tree /tmp/\nCOPY --chown=web --chmod=0600 a.txt /lib/\n\
              FROM scratch\nCOPY --from=one /srv/ /from\nCOPY --from=one /lib/a.txt /x\nLABEL who=\"${WHO:-none}\"\n\
              EXPOSE 80 53/udp\nVOLUME [\"/data\"]\nUSER 7\nSTOPSIGNAL SIGQUIT\nENTRYPOINT [\"/x\"]\nCMD one two\n\
              HEALTHCHECK --interval=5s CMD [\"/x\", \"-h\"]\n",
            ),
            ("a.txt", "a"),
            ("b.txt", "b"),
            ("tree/deep/c", "c"),
            ("tree/secret", "s"),
            ("tree/x.log", "l"),
            (".dockerignore", "**/secret\ntree/*.log\n"),
        ],
    );
    let args = [
        "build",
        &context,
        "--quiet",
        "--build-arg",
        "TAG=1",
        "--build-arg",
        "WHO=you",
    ];
    tool.ok(&[&args[..], &["--target", "one", "--tag", "base.test/one:1"]].concat());
    let root = flat(&tool, "base.test/one:1");
    assert_eq!(fs::read_to_string(root.join("srv/dir/b.txt")).unwrap(), "b");
    assert_eq!(fs::read_to_string(root.join("tmp/deep/c")).unwrap(), "c");
    assert!(!root.join("tmp/secret").exists() && !root.join("tmp/x.log").exists());
    assert_eq!(
        fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
        0o1777
    );
    assert!(fs::symlink_metadata(root.join("lib")).unwrap().is_symlink());
    let owned = fs::metadata(root.join("usr/lib/a.txt")).unwrap();
    assert_eq!(
        (owned.uid(), owned.gid(), owned.mode() & 0o7777),
        (33, 34, 0o600)
    );
    let image = inspect(&tool, "base.test/one:1");
    assert_eq!(
        image["config"]["env"],
        serde_json::json!(["GREETING=hello you"])
    );
    assert_eq!(image["config"]["working_dir"], "/srv");

    tool.ok(&[&args[..], &["--tag", "base.test/two:1"]].concat());
    let root = flat(&tool, "base.test/two:1");
    assert_eq!(
        fs::read_to_string(root.join("from/dir/a.txt")).unwrap(),
        "a"
    );
    assert_eq!(fs::read_to_string(root.join("x")).unwrap(), "a");
    let config = &inspect(&tool, "base.test/two:1")["config"];
    assert_eq!(config["entrypoint"], serde_json::json!(["/x"]));
    assert_eq!(
        config["cmd"],
        serde_json::json!(["/bin/sh", "-c", "one two"])
    );
    assert_eq!(
        config["exposed_ports"],
        serde_json::json!(["53/udp", "80/tcp"])
    );
    assert_eq!(
        (config["user"].as_str(), config["stop_signal"].as_str()),
        (Some("7"), Some("SIGQUIT"))
    );
    assert_eq!(config["labels"]["who"], "none");
}

#[test]
fn the_same_build_gives_the_same_image() {
    require!(Need::Root);
    let digests: Vec<String> = (0..2)
        .map(|i| {
            let tool = Tool::new();
            let files = [
                ("Dockerfile", "FROM scratch\nCOPY a /\nWORKDIR /w\n"),
                ("a", "1"),
            ];
            let context = context(&tool, &files);
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 + i);
            fs::File::options()
                .append(true)
                .open(Path::new(&context).join("a"))
                .unwrap()
                .set_modified(time)
                .unwrap();
            let mut command = tool.command(&["build", &context, "-q"]);
            let output = command
                .env("SOURCE_DATE_EPOCH", "1000000000")
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn mistakes_are_named_with_their_line() {
    require!(Need::Root);
    let tool = Tool::new();
    let cases = [
        (
            "FROM scratch\n\nCOPY none /\n",
            "line 3",
            "\"none\" is not there",
        ),
        (
            "FROM scratch\nCOPY ../../etc/passwd /\n",
            "line 2",
            "not there",
        ),
        ("FROM scratch\nCOPY link /\n", "line 2", "not there"),
        ("FROM scratch\nRUN true\n", "line 2", "nothing was copied"),
        (
            "FROM scratch\nCOPY a <<E /\n1\nE\nCOPY a <<E /x\n1\nE\n",
            "line 5",
            "must end with /",
        ),
        ("FROM scratch\nADD a.tar /\n", "line 2", "wrong checksum"),
        (
            "FROM scratch\nCOPY a a.tar /x\n",
            "line 2",
            "must end with /",
        ),
        ("FROM scratch\nONBUILD RUN x\n", "line 2", "ONBUILD"),
        ("FROM a//b\n", "line 1", "the repository"),
        ("FROM scratch\nENV A=${B\n", "line 2", "not closed"),
        ("FROM scratch\nEXPOSE http\n", "line 2", "no port"),
        (
            "FROM scratch\nCOPY --chown=web a /\n",
            "line 2",
            "no such user",
        ),
    ];
    for (text, line, why) in cases {
        let tar = "\0".repeat(257) + "ustar" + &"\0".repeat(250);
        let context = context(&tool, &[("Dockerfile", text), ("a", "1"), ("a.tar", &tar)]);
        std::os::unix::fs::symlink("/etc/passwd", Path::new(&context).join("link")).unwrap();
        let error = tool.fails(&["build", &context, "--quiet"]);
        assert!(
            error.contains(line) && error.contains(why),
            "{text}: {error}"
        );
    }
    assert_eq!(tool.ok(&["list", "-q"]), "");
    tool.ok(&["prune"]);
    for dir in [
        "blobs/sha256",
        "layers",
        "ingest",
        "build",
        "rootfs",
        "leases",
    ] {
        assert_eq!(
            fs::read_dir(tool.path("store").join(dir)).unwrap().count(),
            0,
            "{dir}"
        );
    }
}

#[test]
fn archives_are_added_unpacked_with_their_owners() {
    require!(Need::Root, Need::Program("tar"));
    let tool = Tool::new();
    let context = context(
        &tool,
        &[("Dockerfile", ""), ("tree/bin/tool", "one"), ("plain", "2")],
    );
    let tree = format!("{context}/tree");
    std::os::unix::fs::symlink("tool", format!("{tree}/bin/link")).unwrap();
    let archive = format!("{context}/root.tar.gz");
    outside(
        "tar",
        &[
            "-C",
            &tree,
            "--owner=7",
            "--group=8",
            "--mode=0750",
            "-czf",
            &archive,
            ".",
        ],
    );
    let text = "FROM scratch\nADD root.tar.gz plain /opt/\n";
    fs::write(format!("{context}/Dockerfile"), text).unwrap();
    tool.ok(&["build", &context, "--tag", "example.org/added:1", "-q"]);
    let flat = tool.path("flat");
    let name = "example.org/added:1";
    tool.ok(&[
        "unpack",
        "--flat",
        "--rootfs-only",
        name,
        flat.to_str().unwrap(),
    ]);
    let tool_file = flat.join("opt/bin/tool");
    assert_eq!(fs::read_to_string(&tool_file).unwrap(), "one");
    assert_eq!(
        fs::read_link(flat.join("opt/bin/link")).unwrap(),
        Path::new("tool")
    );
    assert_eq!(fs::read_to_string(flat.join("opt/plain")).unwrap(), "2");
    let meta = fs::metadata(tool_file).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (7, 8, 0o750)
    );
    assert!(!flat.join("opt/root.tar.gz").exists());
}
