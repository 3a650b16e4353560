//! The tool against Debian's docker-registry, with skopeo and umoci as judges.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kit::gate::Gate;
use kit::{Tool, outside};
use rrun_tests::{Need, Registry, require};

#[test]
fn an_image_goes_to_a_registry_and_back() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("skopeo")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/team/app:1", registry.host());
    let id = tool.build(&name);
    let digest = tool.ok(&["push", &name]);
    let raw = outside(
        "skopeo",
        &[
            "inspect",
            "--tls-verify=false",
            "--config",
            &format!("docker://{name}"),
        ],
    );
    assert!(raw.contains("/bin/tool"), "{raw}");
    tool.ok(&["remove", &name]);
    assert_eq!(fs::read_dir(tool.path("store/layers")).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(tool.path("store/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(tool.ok(&["pull", "--quiet", &name]), id);
    let by_digest = format!("{}/team/app@{digest}", registry.host());
    assert_eq!(tool.ok(&["pull", "--quiet", &by_digest]), id);
    let image: serde_json::Value =
        serde_json::from_str(&tool.ok(&["inspect", &by_digest])).unwrap();
    assert_eq!(image["repo_tags"], serde_json::json!([name]));
    assert_eq!(image["repo_digests"], serde_json::json!([by_digest]));
    assert_eq!(
        image["config"]["cmd"],
        serde_json::json!(["/bin/tool", "-v"])
    );
    assert_eq!(tool.ok(&["list", "--quiet"]), id);
    assert!(tool.ok(&["remove", &id[7..19]]).contains("removed"));
    assert!(tool.fails(&["inspect", &name]).contains("no image"));
}

#[test]
fn the_store_is_a_layout_that_others_read() {
    require!(Need::Root, Need::Program("skopeo"));
    let tool = Tool::new();
    let id = tool.build("example.org/app:1");
    let layout = format!("oci:{}:example.org/app:1", tool.path("store").display());
    let copy = tool.path("copy");
    outside(
        "skopeo",
        &[
            "copy",
            "--quiet",
            &layout,
            &format!("dir:{}", copy.display()),
        ],
    );
    assert!(copy.join(&id[7..]).exists());
}

#[test]
fn the_same_directories_give_the_same_image() {
    require!(Need::Root);
    let (one, two) = (Tool::new(), Tool::new());
    assert_eq!(
        one.build("example.org/app:1"),
        two.build("example.org/app:1")
    );
}

#[test]
fn images_of_other_tools_unpack_as_umoci_unpacks_them() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("skopeo"),
        Need::Program("umoci")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    tool.build("example.org/app:1");
    let archive = tool.path("app.tar");
    tool.ok(&[
        "save",
        "example.org/app:1",
        "--format",
        "oci-archive",
        "-o",
        archive.to_str().unwrap(),
    ]);
    let oci = format!("oci-archive:{}:example.org/app:1", archive.display());
    let remote = format!("docker://{}/app:zstd", registry.host());
    let flags = [
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        "--dest-compress-format",
        "zstd",
    ];
    outside("skopeo", &[&flags[..], &[&oci, &remote]].concat());
    let name = format!("{}/app:zstd", registry.host());
    tool.ok(&["pull", "--quiet", &name]);
    let flat = tool.path("flat");
    tool.ok(&[
        "unpack",
        "--flat",
        "--rootfs-only",
        &name,
        flat.to_str().unwrap(),
    ]);
    let layout = tool.path("layout");
    outside(
        "skopeo",
        &[
            "copy",
            "--quiet",
            &oci,
            &format!("oci:{}:x", layout.display()),
        ],
    );
    let bundle = tool.path("umoci");
    let image = format!("{}:x", layout.display());
    outside(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    assert_eq!(tree(&flat), tree(&bundle.join("rootfs")));
    assert_eq!(fs::metadata(flat.join("bin/tool")).unwrap().nlink(), 2);
}

/// Path, mode, size, time and content or target of all below a directory.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_dir() {
                pending.push(path.clone());
                String::new()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().display();
            found.push(format!(
                "{name} {:o} {} {content}",
                meta.mode(),
                meta.mtime()
            ));
        }
    }
    found.sort();
    found
}

#[test]
fn archives_round_trip_byte_for_byte() {
    require!(Need::Root, Need::Program("skopeo"));
    let tool = Tool::new();
    let id = tool.build("docker.io/library/app:1");
    for format in ["docker-archive", "oci-archive"] {
        let (first, second) = (tool.path("first.tar"), tool.path("second.tar"));
        tool.ok(&[
            "save",
            "app:1",
            "--format",
            format,
            "-o",
            first.to_str().unwrap(),
        ]);
        let other = Tool::new();
        assert_eq!(other.ok(&["load", first.to_str().unwrap()]), id);
        other.ok(&[
            "save",
            "app:1",
            "--format",
            format,
            "-o",
            second.to_str().unwrap(),
        ]);
        assert_eq!(
            fs::read(&first).unwrap(),
            fs::read(&second).unwrap(),
            "{format}"
        );
        let kind = if format == "oci-archive" {
            "oci-archive"
        } else {
            "docker-archive"
        };
        let source = format!("{kind}:{}", first.display());
        assert!(outside("skopeo", &["inspect", "--config", &source]).contains("/bin/tool"));
    }
}

#[test]
fn docker_archives_of_others_load() {
    require!(Need::Root, Need::Program("skopeo"));
    let tool = Tool::new();
    let id = tool.build("docker.io/library/app:1");
    let layout = format!(
        "oci:{}:docker.io/library/app:1",
        tool.path("store").display()
    );
    let archive = tool.path("docker.tar");
    let target = format!("docker-archive:{}:app:2", archive.display());
    outside("skopeo", &["copy", "--quiet", &layout, &target]);
    let other = Tool::new();
    let loaded = other.ok(&["load", archive.to_str().unwrap()]);
    // skopeo writes the configuration anew for Docker; the layers are the same.
    let image: serde_json::Value = serde_json::from_str(&other.ok(&["inspect", "app:2"])).unwrap();
    let own: serde_json::Value = serde_json::from_str(&tool.ok(&["inspect", &id])).unwrap();
    assert_eq!(image["id"], loaded);
    assert_eq!(image["layers"][1]["chain_id"], own["layers"][1]["chain_id"]);
    outside("gzip", &[archive.to_str().unwrap()]);
    let zipped = Tool::new();
    assert_eq!(
        zipped.ok(&["load", &format!("{}.gz", archive.display())]),
        loaded
    );
}

#[test]
fn bad_input_is_answered_with_one_line() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, mut registry) = (Tool::new(), Registry::start());
    let host = registry.host();
    assert!(
        tool.fails(&["pull", &format!("{host}/nothing:1")])
            .contains("not found")
    );
    assert!(tool.fails(&["inspect", "Bad//Name"]).contains("lower case"));
    assert!(tool.fails(&["remove", "nothing:1"]).contains("no image"));
    assert!(
        tool.fails(&["unpack", "nothing:1", "x"])
            .contains("no image")
    );
    assert!(
        tool.fails(&["load", "/nonexistent.tar"])
            .contains("/nonexistent.tar")
    );
    assert!(
        tool.fails(&["push", &format!("{host}/nothing:1")])
            .contains("no image")
    );
    let empty = tool.path("empty.tar");
    fs::write(&empty, [0; 1024]).unwrap();
    assert!(
        tool.fails(&["load", empty.to_str().unwrap()])
            .contains("neither index.json")
    );
    // Its port stays ours: nobody else answers there.
    registry.kill();
    let gone = tool.fails(&["pull", &format!("{host}/app:1")]);
    assert!(
        gone.contains("5 attempts") && gone.contains(&host),
        "{gone}"
    );
}

#[test]
fn a_bundle_stands_on_the_store_and_is_released() {
    require!(Need::Root);
    let tool = Tool::new();
    tool.build("example.org/app:1");
    let bundle = tool.path("bundle");
    let path = bundle.to_str().unwrap();
    tool.ok(&[
        "unpack",
        "example.org/app:1",
        path,
        "--id",
        "c1",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids",
        "7",
    ]);
    let text = fs::read_to_string(bundle.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        config["process"]["args"],
        serde_json::json!(["/bin/tool", "-v"])
    );
    assert_eq!(config["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(config["linux"]["resources"]["cpu"]["quota"], 50_000);
    assert_eq!(config["linux"]["resources"]["pids"]["limit"], 7);
    let root = &config["mounts"][0];
    assert_eq!(
        (root["destination"].as_str(), root["type"].as_str()),
        (Some("/"), Some("overlay"))
    );
    let lower = root["options"][0]
        .as_str()
        .unwrap()
        .strip_prefix("lowerdir=")
        .unwrap();
    assert!(lower.split(':').all(|dir| Path::new(dir).is_dir()) && lower.split(':').count() == 2);
    assert!(
        tool.fails(&["unpack", "example.org/app:1", path])
            .contains("bundle already")
    );
    tool.ok(&["remove", "example.org/app:1"]);
    assert!(lower.split(':').all(|dir| Path::new(dir).is_dir()));
    tool.ok(&["release", "c1"]);
    tool.ok(&["prune"]);
    assert!(!lower.split(':').any(|dir| Path::new(dir).exists()));
}

#[test]
fn damage_is_found_and_repaired() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/app:1", registry.host());
    tool.build(&name);
    tool.ok(&["push", "--quiet", &name]);
    tool.ok(&["remove", &name]);
    tool.ok(&["pull", "--quiet", &name]);
    assert!(tool.ok(&["check"]).contains("compared 2 layers"));
    let image: serde_json::Value = serde_json::from_str(&tool.ok(&["inspect", &name])).unwrap();
    let hex =
        |layer: usize, key: &str| image["layers"][layer][key].as_str().unwrap()[7..].to_owned();
    let blob = |layer| tool.path("store/blobs/sha256").join(hex(layer, "digest"));
    let fs = |layer| {
        tool.path("store/layers")
            .join(hex(layer, "chain_id"))
            .join("fs")
    };
    let damage: [(&str, &dyn Fn()); 5] = [
        ("its bytes have digest", &|| {
            fs::write(blob(0), "x").unwrap();
        }),
        ("content is not the layer's", &|| {
            fs::write(fs(0).join("bin/tool"), "two").unwrap();
        }),
        ("inodes", &|| {
            fs::remove_file(fs(1).join("etc/passwd")).unwrap();
        }),
        ("layer.json", &|| {
            fs::remove_file(fs(1).with_file_name("layer.json")).unwrap();
        }),
        ("its bytes have digest", &|| {
            fs::write(blob(1), "").unwrap();
            fs::remove_dir_all(fs(1)).unwrap();
        }),
    ];
    for (what, break_it) in damage {
        break_it();
        let output = tool.run(&["check"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            !output.status.success() && text.contains(what),
            "{what}: {text}"
        );
        assert!(
            tool.ok(&["check", "--repair", "--quiet"])
                .contains("repaired"),
            "{what}"
        );
        tool.ok(&["check"]);
        assert_eq!(fs::read_to_string(fs(0).join("bin/tool")).unwrap(), "one");
    }
}

#[test]
fn mirrors_are_asked_in_turn() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry, empty) = (Tool::new(), Registry::start(), Registry::start());
    let id = tool.build("example.org/team/app:1");
    let there = format!("{}/team/app:1", registry.host());
    tool.ok(&["push", "--quiet", "example.org/team/app:1", &there]);
    tool.ok(&["remove", &id]);
    let hosts = tool.path("hosts");
    fs::create_dir_all(hosts.join("example.org")).unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n\
         [host.\"http://127.0.0.1:2\"]\n capabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{}\"]\n capabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{}\"]\n capabilities = [\"pull\", \"resolve\"]\n",
        empty.host(),
        registry.host()
    );
    fs::write(hosts.join("example.org/hosts.toml"), text).unwrap();
    let dir = hosts.to_str().unwrap();
    assert_eq!(
        tool.ok(&[
            "pull",
            "--quiet",
            "--hosts-dir",
            dir,
            "example.org/team/app:1"
        ]),
        id
    );
    assert!(
        tool.ok(&["inspect", "example.org/team/app:1"])
            .contains("example.org/team/app@sha256")
    );
    let gone = tool.fails(&[
        "pull",
        "--quiet",
        "--hosts-dir",
        dir,
        "example.org/team/none:1",
    ]);
    assert!(gone.contains("127.0.0.1:1"), "{gone}");
    fs::write(hosts.join("example.org/hosts.toml"), "host = 7").unwrap();
    let bad = tool.fails(&[
        "pull",
        "--quiet",
        "--hosts-dir",
        dir,
        "example.org/team/app:1",
    ]);
    assert!(bad.contains("example.org/hosts.toml"), "{bad}");
}

/// Sends 33 MiB that do not compress: more than goes in one request.
fn build_large(tool: &Tool, tag: &str) {
    let dir = tool.path("large");
    fs::create_dir_all(&dir).unwrap();
    outside(
        "sh",
        &[
            "-c",
            &format!("head -c 34603008 /dev/urandom > {}/noise", dir.display()),
        ],
    );
    // zstd, whose library is fast also in a test build.
    let kind = ["--compression", "zstd", "--tag", tag];
    tool.ok(&[&["build-layers", dir.to_str().unwrap()][..], &kind].concat());
}

#[test]
fn a_large_layer_is_pushed_in_pieces_and_taken_over_by_another_repository() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/team/large:1", registry.host());
    build_large(&tool, &name);
    tool.ok(&["push", "--quiet", &name]);
    let left = fs::read_dir(tool.path("store/ingest")).unwrap().count();
    assert_eq!(left, 0, "a finished upload keeps no session");
    let other = format!("{}/other/large:1", registry.host());
    let json = tool.ok(&["push", "--json", &name, &other]);
    assert!(
        !json.contains(r#""bytes""#) || json.contains("existed"),
        "{json}"
    );
    tool.ok(&["remove", &name]);
    tool.ok(&["prune", "--all"]);
    tool.ok(&["pull", "--quiet", &other]);
    tool.ok(&["check"]);
}

#[test]
fn a_login_is_verified_kept_and_forgotten() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let file = tool.path("auth.json");
    let login = tool
        .command(&["login", &registry.host(), "-u", "user", "--password-stdin"])
        .env("REGISTRY_AUTH_FILE", &file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map(|mut child| {
            use std::io::Write;
            child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
            child.wait().unwrap()
        });
    assert!(login.unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(&registry.host()) && text.contains("dXNlcjpzZWNyZXQ="),
        "{text}"
    );
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let logout = |file: &Path| {
        tool.command(&["logout", &registry.host()])
            .env("REGISTRY_AUTH_FILE", file)
            .output()
            .unwrap()
    };
    assert!(logout(&file).status.success());
    assert!(!logout(&file).status.success());
    assert!(
        !fs::read_to_string(&file)
            .unwrap()
            .contains("dXNlcjpzZWNyZXQ=")
    );
}

#[test]
fn a_registry_killed_in_the_middle_is_waited_for() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, mut registry) = (Tool::new(), Registry::start());
    build_large(&tool, &format!("{}/team/large:1", registry.host()));
    let (id, there) = (tool.ok(&["list", "--quiet"]), registry.host());
    tool.ok(&["push", "--quiet", &id, &format!("{there}/team/large:1")]);
    tool.ok(&["remove", &id]);
    let gate = Gate::new(&there, 8 << 20);
    let name = format!("{}/team/large:1", gate.host);
    // Attempts enough for a registry that takes minutes to come back.
    let mut pull = tool.command(&["pull", "--json", "--attempts", "12", &name]);
    let pull = pull.stdout(std::process::Stdio::piped()).spawn().unwrap();
    gate.await_held();
    registry.kill();
    gate.cut();
    registry.start_again();
    let output = pull.wait_with_output().unwrap();
    let events = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && events.contains("retry"),
        "{events}"
    );
    tool.ok(&["check"]);
}
