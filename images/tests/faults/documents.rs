//! Manifests that are none.

use rrun_images::Error;

use crate::kit::double::{Content, Double, Reply};
use crate::{Client, image};

#[test]
fn documents_that_are_no_image_are_refused_by_name() {
    let cases = [
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
        ("{}", "neither an image manifest nor an index"),
        ("[]", "invalid length"),
        ("7", "invalid type"),
        (
            r#"{"schemaVersion":2,"manifests":[]}"#,
            "no manifest for linux",
        ),
    ];
    for (text, why) in cases {
        let double = Double::start(move |_| Reply::new(200, text));
        let error = Client::new()
            .pull(&format!("{}/app:1", double.host))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
    let huge = Double::start(|_| Reply::new(200, vec![b' '; 5 << 20]));
    let error = Client::new()
        .pull(&format!("{}/app:1", huge.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("limit"), "{error}");
}

#[test]
fn a_manifest_asked_for_by_digest_must_have_it() {
    let content = Content::new(&image());
    let double = Double::start(move |request| content.answer(request));
    let other = rrun_images::Digest::of(b"other");
    let error = Client::new()
        .pull(&format!("{}/app@{other}", double.host))
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}
