//! What distribution-spec 1.1 asks of clients, and where it is held.
//!
//! | the client … | here |
//! |---|---|
//! | SHOULD say which manifests it takes (Accept) | `manifests_are_asked_for_by_type` |
//! | SHOULD ignore parameters of Content-Type, and SHOULD refuse a manifest whose `mediaType` is another | `a_manifest_is_what_the_registry_says_it_is` |
//! | SHOULD verify a manifest that was asked for by digest | `documents::a_manifest_asked_for_by_digest_must_have_it` |
//! | SHOULD verify blobs | `refusals::wrong_bytes_and_lengths_are_refused_and_leave_nothing` |
//! | SHOULD follow redirects, and MUST NOT send Authorization to another host | `auth::credentials_do_not_follow_a_redirect` |
//! | SHOULD NOT assemble an upload's address by hand | `push::a_push_goes_on_after_the_process_was_gone` (the double gives addresses of its own) |
//! | goes on with a chunked upload where the registry says it is | the same |
//! | SHOULD cancel an upload that it gives up, and SHOULD ignore that this fails | `an_upload_that_is_given_up_is_cancelled` |
//! | MAY go on with the session where a blob could not be mounted (202) | cli `registry::a_large_layer_is_pushed_in_pieces_and_taken_over_by_another_repository` |
//! | MUST send a manifest's `mediaType` as Content-Type, SHOULD NOT add parameters | `a_subject_is_noted_where_the_registry_does_not` |
//! | SHOULD support manifests of 4 MB | `documents::documents_that_are_no_image_are_refused_by_name` (the limit) |
//! | MUST note a manifest with a subject under the referrers' tag where OCI-Subject is not set | `a_subject_is_noted_where_the_registry_does_not` |
//! | SHOULD fail where that tag holds something else | the same |
//! | MUST ask the referrers' tag where the referrers API is not there; SHOULD take what is no index for none | cli `registry::referrers_are_listed_also_where_the_registry_knows_only_tags`, `a_tag_that_holds_no_index_names_no_referrers` |
//! | follows Link of a list that comes in pages | `referrers_come_in_pages`, `lists::tags_come_in_pages_and_not_without_end` |
//! | SHOULD take a deleted manifest out of the referrers' tag of its subject | `lists::a_deleted_manifest_is_taken_out_of_its_subjects_referrers` |
//! | SHOULD NOT send `ns` to a registry that is no proxy | `manifests_are_asked_for_by_type` |
//! | SHOULD wait as long as Retry-After says (429) | `refusals::throttling_is_waited_out` |
//! | SHOULD report warnings, each once, and MUST NOT act on them | unit test of `registry::warnings` |
//! | SHOULD NOT depend on Docker's headers and error codes | every double here is without them |
//!
//! Of digests, sha256 is known.

use std::sync::{Arc, Mutex};

use rrun_images::{Digest, RegistryOptions, referrers};
use rrun_tests::{Need, require};

use crate::kit::double::{Content, Double, Reply, Request};
use crate::kit::{self, Tar, plain};
use crate::{Client, image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

#[test]
fn manifests_are_asked_for_by_type() {
    require!(Need::Root);
    let content = Content::new(&image());
    let accepts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&accepts);
    let double = Double::start(move |request| {
        assert!(!request.path.contains("ns="), "{}", request.path);
        if request.path.contains("/manifests/") {
            let accept = request.headers.get("accept").cloned();
            seen.lock().unwrap().push(accept.unwrap_or_default());
        }
        content.answer(request)
    });
    Client::new()
        .pull(&format!("{}/app:1", double.host))
        .unwrap();
    let accepts = accepts.lock().unwrap();
    assert!(!accepts.is_empty());
    assert!(
        accepts
            .iter()
            .all(|a| a.contains(MANIFEST) && a.contains(INDEX))
    );
}

/// CVE-2021-41190: who reads it by its header and who reads it by its own word must read the same.
#[test]
fn a_manifest_is_what_the_registry_says_it_is() {
    require!(Need::Root);
    for (kind, taken) in [
        (INDEX, false),
        (
            "application/vnd.docker.distribution.manifest.v2+json",
            false,
        ),
        (MANIFEST, true),
        (
            "Application/VND.oci.image.manifest.v1+json; charset=utf-8",
            true,
        ),
        ("text/plain", true),
        ("", true),
    ] {
        let content = Content::new(&image());
        let double = Double::start(move |request| {
            let mut reply = content.answer(request);
            for (name, value) in &mut reply.headers {
                if name == "Content-Type" {
                    kind.clone_into(value);
                }
            }
            reply
        });
        let pulled = Client::new().pull(&format!("{}/app:1", double.host));
        match pulled {
            Ok(_) => assert!(taken, "{kind}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!taken && text.contains("says it is"), "{kind}: {text}");
            }
        }
    }
}

/// A registry that takes everything, and what was sent where.
#[derive(Default)]
struct Taken(Mutex<Vec<(String, String, Vec<u8>)>>);

impl Taken {
    fn answer(&self, request: &Request) -> Reply {
        let kind = request.headers.get("content-type").cloned();
        let part = (
            format!("{} {}", request.method, request.path),
            kind.unwrap_or_default(),
            request.body.clone(),
        );
        self.0.lock().unwrap().push(part);
        match request.method.as_str() {
            "POST" => Reply::new(202, "").header("Location", "/v2/app/blobs/uploads/1"),
            "PUT" => Reply::new(201, ""),
            "DELETE" => Reply::new(204, ""),
            _ => Reply::new(404, ""),
        }
    }

    fn of(&self, start: &str) -> Vec<(String, Vec<u8>)> {
        let all = self.0.lock().unwrap();
        let those = all.iter().filter(|(what, ..)| what.starts_with(start));
        those
            .map(|(_, kind, body)| (kind.clone(), body.clone()))
            .collect()
    }
}

/// Loads an image whose manifest says something more, and gives the manifest.
fn load_with(client: &Client, more: serde_json::Value) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let layers = [plain(Tar::default().file("f", "1").end())];
    kit::layout(dir.path(), "example.org/app:1", &layers);
    let path = dir.path().join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&kit::documents(&layers).1).unwrap();
    let serde_json::Value::Object(more) = more else {
        panic!("more is an object");
    };
    manifest.as_object_mut().unwrap().extend(more);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::of(&bytes);
    std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    index["manifests"][0]["digest"] = digest.as_str().into();
    index["manifests"][0]["size"] = bytes.len().into();
    std::fs::write(&path, index.to_string()).unwrap();
    let limits = rrun_images::Limits::default();
    client.store.load(dir.path(), None, &limits).unwrap();
    bytes
}

fn push(client: &Client, double: &Double) -> rrun_images::Result<Digest> {
    let target = format!("{}/app:1", double.host).parse().unwrap();
    let options = &client.options.registry;
    let sink = Arc::new(());
    wait(
        client
            .store
            .push("example.org/app:1", &target, options, sink),
    )
}

#[test]
fn a_subject_is_noted_where_the_registry_does_not() {
    require!(Need::Root);
    let subject = Digest::of(b"subject");
    let other = serde_json::json!({"digest": Digest::of(b"o"), "mediaType": MANIFEST, "size": 1});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]});
    let more = serde_json::json!({
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": 7},
        "artifactType": "application/example", "annotations": {"a": "b"},
    });
    let tag = format!("/v2/app/manifests/sha256-{}", subject.hex());
    // What is under the tag, whether the registry notes subjects itself, what is there afterwards.
    let cases = [
        (None, false, Some(1)),
        (Some(index.to_string()), false, Some(2)),
        (Some(r#"{"layers":[]}"#.to_owned()), false, None),
        (None, true, Some(0)),
    ];
    for (before, notes, after) in cases {
        let (client, taken) = (Client::new(), Arc::new(Taken::default()));
        let manifest = load_with(&client, more.clone());
        let (shared, at) = (Arc::clone(&taken), tag.clone());
        let double = Double::start(move |request| {
            let mut reply = shared.answer(request);
            if let Some(before) = before.as_ref().filter(|_| request.path == at)
                && request.method == "GET"
            {
                return Reply::new(200, before.as_str());
            }
            if notes {
                reply = reply.header("OCI-Subject", "noted");
            }
            reply
        });
        let pushed = push(&client, &double);
        let sent = taken.of("PUT /v2/app/manifests/1");
        assert_eq!(sent, [(MANIFEST.to_owned(), manifest.clone())]);
        let noted = taken.of(&format!("PUT {tag}"));
        let Some(after) = after else {
            assert!(pushed.unwrap_err().to_string().contains("no image index"));
            assert!(noted.is_empty());
            continue;
        };
        pushed.unwrap();
        assert_eq!(noted.len(), usize::from(after > 0));
        let Some((kind, index)) = noted.first() else {
            continue;
        };
        let index: serde_json::Value = serde_json::from_slice(index).unwrap();
        assert_eq!(kind, INDEX);
        let list = index["manifests"].as_array().unwrap();
        assert_eq!(list.len(), after);
        let last = &list[after - 1];
        assert_eq!(last["digest"], Digest::of(&manifest).as_str());
        assert_eq!(last["artifactType"], "application/example");
        assert_eq!(last["annotations"]["a"], "b");
    }
}

#[test]
fn referrers_come_in_pages() {
    let digests: Vec<Digest> = (0..3u8).map(|n| Digest::of(&[n])).collect();
    let listed = digests.clone();
    let double = Double::start(move |request| {
        let page = request
            .path
            .split("page=")
            .nth(1)
            .map_or(0, |n| n.parse().unwrap());
        let one = serde_json::json!({"digest": listed[page], "size": 1, "mediaType": MANIFEST});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [one]});
        let reply = Reply::new(200, index.to_string());
        if page < 2 {
            let path = request.path.split('?').next().unwrap();
            return reply.header("Link", format!("<{path}?page={}>; rel=\"next\"", page + 1));
        }
        reply
    });
    let of = Digest::of(b"x");
    let name = format!("{}/app@{of}", double.host).parse().unwrap();
    let found = wait(referrers(&name, &RegistryOptions::default())).unwrap();
    let found: Vec<Digest> = found.into_iter().map(|r| r.digest).collect();
    assert_eq!(found, digests);
}

#[test]
fn a_tag_that_holds_no_index_names_no_referrers() {
    let double = Double::start(|request| {
        if request.path.contains("/referrers/") {
            return Reply::new(404, "");
        }
        Reply::new(200, r#"{"manifests":"none"}"#)
    });
    let of = Digest::of(b"x");
    let name = format!("{}/app@{of}", double.host).parse().unwrap();
    let found = wait(referrers(&name, &RegistryOptions::default())).unwrap();
    assert!(found.is_empty());
    assert_eq!(double.count("/manifests/sha256-"), 1);
}

#[test]
fn an_upload_that_is_given_up_is_cancelled() {
    require!(Need::Root);
    let (mut client, dir) = (Client::new(), tempfile::tempdir().unwrap());
    client.options.registry.attempts = 2;
    let noise = vec![7; 33 << 20];
    let layer = plain(Tar::default().raw(b"n", b'0', b"", &noise, 0o644).end());
    kit::layout(dir.path(), "example.org/app:1", &[layer]);
    let limits = rrun_images::Limits::default();
    client.store.load(dir.path(), None, &limits).unwrap();
    let taken = Arc::new(Taken::default());
    let shared = Arc::clone(&taken);
    let double = Double::start(move |request| {
        let reply = shared.answer(request);
        match request.method.as_str() {
            // It has more than was sent.
            "PATCH" => Reply::new(202, "")
                .header("Location", "/v2/app/blobs/uploads/1")
                .header("Range", "0-99999999999"),
            "DELETE" => Reply::new(500, ""),
            _ => reply,
        }
    });
    let error = push(&client, &double).unwrap_err().to_string();
    assert!(error.contains("bytes after"), "{error}");
    let cancelled = taken.of("DELETE /v2/app/blobs/uploads/1").len();
    assert_eq!(cancelled, 2, "once for each attempt");
}
