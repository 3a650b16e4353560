//! Lists of a registry, and deleting, with registries that are not as they should be.

use std::sync::{Arc, Mutex};

use rrun_images::{Digest, Error, Reference, RegistryOptions, Result, delete, tags};
use serde_json::{Value, json};

use crate::kit::double::{Double, Reply, Request};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn options() -> RegistryOptions {
    RegistryOptions {
        credentials: rrun_images::Credentials::Anonymous,
        attempts: 1,
        ..Default::default()
    }
}

fn list(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Vec<String>> {
    let double = Double::start(handler);
    let name: Reference = format!("{}/app", double.host).parse().unwrap();
    wait(tags(&name, &options()))
}

/// Each page alone is short enough, and there are few.
#[test]
fn pages_are_not_held_without_bound() {
    let page = json!({"name": "app", "tags": ["x".repeat(4_000_000)]}).to_string();
    let error = list(move |_| {
        Reply::new(200, page.clone()).header("Link", "</v2/app/tags/list?more>; rel=\"next\"")
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("its pages are longer"), "{error}");
}

#[test]
fn tags_come_in_pages_and_not_without_end() {
    let paged = |last: usize| {
        list(move |request| {
            let page: usize = request
                .path
                .split("page=")
                .nth(1)
                .map_or(0, |n| n.parse().unwrap());
            let reply = Reply::new(
                200,
                json!({"name": "app", "tags": [page.to_string()]}).to_string(),
            );
            if page == last {
                return reply;
            }
            let next = format!("</v2/app/tags/list?page={}>; rel=\"next\"", page + 1);
            reply.header("Link", next)
        })
    };
    assert_eq!(paged(2).unwrap(), ["0", "1", "2"]);
    assert!(
        paged(usize::MAX)
            .unwrap_err()
            .to_string()
            .contains("more than 100 pages")
    );
}

#[test]
fn a_repository_without_tags_has_an_empty_list_and_what_is_no_list_is_refused() {
    let of = |status, text: &'static str| list(move |_| Reply::new(status, text));
    assert!(of(200, r#"{"name":"app","tags":null}"#).unwrap().is_empty());
    for text in ["", "[]", r#"{"tags":"a"}"#, r#"{"tags":[1]}"#] {
        let error = of(200, text).unwrap_err();
        assert!(matches!(error, Error::Document { .. }), "{text}: {error}");
    }
    assert!(matches!(of(404, "{}"), Err(Error::NotFound { .. })));
    assert!(matches!(of(403, "{}"), Err(Error::Denied { .. })));
}

/// A manifest that refers to another at a registry that knows referrers by their tag alone.
fn deleting(status: u16, index: Value) -> (Double, Arc<Mutex<Vec<Vec<u8>>>>, Digest) {
    let subject = Digest::of(b"subject");
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": 7}});
    let own = Digest::of(manifest.to_string().as_bytes());
    let noted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&noted);
    let tag = format!("manifests/sha256-{}", subject.hex());
    let double = Double::start(move |request| match request.method.as_str() {
        "DELETE" => Reply::new(status, ""),
        "PUT" => {
            seen.lock().unwrap().push(request.body.clone());
            Reply::new(201, "")
        }
        _ if request.path.ends_with(&tag) && index.is_null() => Reply::new(404, ""),
        _ if request.path.ends_with(&tag) => Reply::new(200, index.to_string()),
        _ => Reply::new(200, manifest.to_string()).header("Content-Type", MANIFEST),
    });
    (double, noted, own)
}

#[test]
fn a_deleted_manifest_is_taken_out_of_its_subjects_referrers() {
    let other = json!({"digest": Digest::of(b"o"), "mediaType": MANIFEST, "size": 1});
    let index = |own: &Digest| {
        let own = json!({"digest": own, "mediaType": MANIFEST, "size": 1});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [own, other]})
    };
    let (_, _, own) = deleting(202, Value::Null);
    for (before, after) in [
        (index(&own), Some(json!([other]))),
        (index(&Digest::of(b"stranger")), None),
        (Value::Null, None),
    ] {
        let (double, noted, own) = deleting(202, before);
        let name: Reference = format!("{}/app:1", double.host).parse().unwrap();
        assert_eq!(wait(delete(&name, &options())).unwrap(), own);
        assert_eq!(double.count(&format!("DELETE /v2/app/manifests/{own}")), 1);
        let noted = noted.lock().unwrap();
        let noted = noted.first().map(|bytes| {
            let index: Value = serde_json::from_slice(bytes).unwrap();
            index["manifests"].clone()
        });
        assert_eq!(noted, after);
    }
}

#[test]
fn a_registry_that_deletes_nothing_is_named() {
    for (status, why) in [
        (405, "allows no deleting"),
        (403, "denied"),
        (404, "not found"),
    ] {
        let (double, noted, _) = deleting(status, Value::Null);
        let name: Reference = format!("{}/app:1", double.host).parse().unwrap();
        let error = wait(delete(&name, &options())).unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains(&double.host),
            "{error}"
        );
        assert!(noted.lock().unwrap().is_empty());
    }
}
