//! What is at a registry: tags, referrers, and deleting, with skopeo as judge.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;

use kit::{Tool, outside};
use rrun_tests::{Need, Registry, require};

#[test]
fn tags_are_listed_and_a_deleted_image_is_gone_with_all_of_its_tags() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("skopeo")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.host());
    let repository = format!("{}/team/app", registry.host());
    assert!(
        tool.fails(&["list-tags", &repository])
            .contains("not found")
    );
    let id = tool.build(&name("1"));
    let digest = tool.ok(&["push", "--quiet", &name("1")]);
    tool.ok(&["push", "--quiet", &id, &name("same")]);
    fs::write(tool.path("b/etc/more"), "2").unwrap();
    let changed = tool.path("b").to_str().unwrap().to_owned();
    tool.ok(&["build-layers", &changed, "--tag", &name("2")]);
    tool.ok(&["push", "--quiet", &name("2")]);
    assert_eq!(tool.ok(&["list-tags", &repository]), "1\n2\nsame");
    let of_skopeo = outside(
        "skopeo",
        &[
            "list-tags",
            "--tls-verify=false",
            &format!("docker://{repository}"),
        ],
    );
    let sorted = |text: &str| {
        let mut list: serde_json::Value = serde_json::from_str(text).unwrap();
        let tags = list["Tags"].as_array_mut().unwrap();
        tags.sort_by_key(ToString::to_string);
        list
    };
    assert_eq!(
        sorted(&tool.ok(&["list-tags", "--json", &repository])),
        sorted(&of_skopeo)
    );
    assert_eq!(tool.ok(&["delete", &name("1")]), digest);
    for tag in ["1", "same"] {
        assert!(tool.fails(&["pull", &name(tag)]).contains("not found"));
        assert!(tool.fails(&["delete", &name(tag)]).contains("not found"));
    }
    assert_eq!(tool.ok(&["list-tags", &repository]), "2");
    // The store's own is untouched.
    assert!(tool.ok(&["inspect", &name("1")]).contains(&id));
}

#[test]
fn referrers_are_listed_also_where_the_registry_knows_only_tags() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = format!("{}/app:1", registry.host());
    tool.build(&name);
    let digest = tool.ok(&["push", "--quiet", &name]);
    assert_eq!(tool.ok(&["referrers", "--json", &name]), "[]");
    // The fall-back tag, put there as a client of the older specification would.
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7,"artifactType":"application/spdx+json"}}]}}"#
    );
    let file = tool.path("index.json");
    fs::write(&file, index).unwrap();
    let url = format!(
        "http://{}/v2/app/manifests/sha256-{}",
        registry.host(),
        &digest[7..]
    );
    let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
    let body = format!("@{}", file.display());
    outside(
        "curl",
        &[
            "-sSf",
            "-X",
            "PUT",
            "-H",
            kind,
            "--data-binary",
            &body,
            &url,
        ],
    );
    assert!(
        tool.ok(&["referrers", &name])
            .contains("application/spdx+json")
    );
}
