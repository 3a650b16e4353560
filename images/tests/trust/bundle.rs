//! Sigstore bundles as referrers of an image, as cosign 3 stores them.

use rrun_tests::{Need, require};

use crate::keyless::{Authority, authority, leaf_signs, rule};
use crate::*;

pub const KIND: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// An in-toto statement of one subject.
pub fn statement(predicate: &str, name: Option<&str>, hex: &str) -> Vec<u8> {
    let mut subject = json!({"digest": {"sha256": hex}});
    if let Some(name) = name {
        subject["name"] = name.into();
    }
    json!({"_type": "https://in-toto.io/Statement/v1", "subject": [subject],
        "predicateType": predicate, "predicate": {}})
    .to_string()
    .into_bytes()
}

pub fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let kind = "application/vnd.in-toto+json";
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

pub fn envelope(payload: &[u8], signature: &[u8]) -> serde_json::Value {
    json!({"payload": base64(payload), "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": base64(signature), "keyid": ""}]})
}

/// A registry whose image has one bundle.
pub fn with_bundle(
    bundle: impl Fn(&str, &Digest) -> serde_json::Value + Send + Sync + 'static,
) -> Signed {
    // Made once: no two signatures are the same.
    let made = std::sync::OnceLock::new();
    Signed::serving(move |content, request, name, digest| {
        let blob = made.get_or_init(|| bundle(name, digest).to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": KIND,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                "digest": Digest::of(b"{}"), "size": 2},
            "layers": [{"mediaType": KIND, "digest": Digest::of(blob), "size": blob.len()}],
            "subject": {"mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": content.manifest.len()}})
        .to_string();
        let path = request.path.as_str();
        if path.rsplit('.').next() == Some("sig") {
            Reply::new(404, "")
        } else if path.ends_with(&format!("/referrers/{digest}")) {
            let list = json!({"schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "artifactType": KIND, "digest": Digest::of(manifest.as_bytes()),
                    "size": manifest.len()}]});
            Reply::new(200, list.to_string())
        } else if path.ends_with(Digest::of(manifest.as_bytes()).as_str()) {
            Reply::new(200, manifest)
        } else if path.ends_with(Digest::of(blob).as_str()) {
            Reply::new(200, blob.clone())
        } else {
            content.answer(request)
        }
    })
}

pub fn matching(mut rule: serde_json::Value, identity: &str) -> serde_json::Value {
    rule["signedIdentity"] = json!({"type": identity});
    rule
}

/// What an image's bundle by a key says.
type Says = fn(&str, &Digest) -> Vec<u8>;

#[test]
fn a_bundle_by_the_policys_key_is_taken_for_what_it_says() {
    require!(Need::Root);
    let good: Says = |_, digest| statement(SIGN, None, digest.hex());
    let named: Says = |name, digest| statement(SIGN, Some(name), digest.hex());
    let other_name: Says = |_, digest| statement(SIGN, Some("evil.example/x"), digest.hex());
    let other_image: Says = |_, _| statement(SIGN, None, Digest::of(b"").hex());
    let sbom: Says = |_, digest| statement("https://spdx.dev/Document", None, digest.hex());
    let cases = [
        (good, "matchDigest", None),
        (named, "matchRepository", None),
        (good, "matchRepository", Some("names no repository")),
        (other_name, "matchRepository", Some("names no repository")),
        (other_image, "matchDigest", Some("another image")),
        (sbom, "matchDigest", Some("no signature")),
    ];
    for (says, identity, why) in cases {
        let key = Key::new();
        let rule = matching(by_key(&key), identity);
        let signed = with_bundle(move |name, digest| {
            let payload = says(name, digest);
            let signature = key.sign(&pre_authentication(&payload));
            json!({"mediaType": KIND, "verificationMaterial": {"publicKey": {"hint": "k"}},
                "dsseEnvelope": envelope(&payload, &signature)})
        });
        let strange = matching(by_key(&Key::new()), identity);
        assert!(
            signed
                .refused(strange)
                .contains("not by a key of the policy")
        );
        match why {
            None => signed.pull("team/app", rule).unwrap(),
            Some(why) => {
                let text = signed.refused(rule);
                assert!(text.contains(why), "{text}");
            }
        }
    }
}

pub fn der(pem: &str) -> String {
    pem.lines()
        .filter(|line| !line.starts_with("---"))
        .collect()
}

pub fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, &parts.concat());
    digest.as_ref().to_vec()
}

/// A keyless bundle, its entry the second of two in the log.
fn keyless(own: &Authority, log: &Key, digest: &Digest, logged: &[u8]) -> serde_json::Value {
    let payload = statement(SIGN, None, digest.hex());
    let signature = leaf_signs(&own.leaf, &pre_authentication(&payload));
    let body = json!({"apiVersion": "0.0.1", "kind": "dsse", "spec": {
        "envelopeHash": {"algorithm": "sha256", "value": "00"},
        "payloadHash": {"algorithm": "sha256",
            "value": Digest::of(if logged.is_empty() { &payload } else { logged }).hex()},
        "signatures": [{"signature": base64(&signature),
            "verifier": base64(own.leaf_pem.as_bytes())}]}})
    .to_string();
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let promised = format!(
        r#"{{"body":"{}","integratedTime":{time},"logID":"00ff","logIndex":1}}"#,
        base64(body.as_bytes())
    );
    let other = sha256(&[&[0], b"other"]);
    let root = sha256(&[&[1], &other, &sha256(&[&[0], body.as_bytes()])]);
    let note = format!("rekor.example\n2\n{}\n", base64(&root));
    let signed = [&[1, 2, 3, 4], &log.sign(note.as_bytes())[..]].concat();
    json!({"mediaType": KIND,
        "verificationMaterial": {"certificate": {"rawBytes": der(&own.leaf_pem)},
            "tlogEntries": [{"logIndex": "1", "logId": {"keyId": base64(&[0, 255])},
                "kindVersion": {"kind": "dsse", "version": "0.0.1"},
                "integratedTime": time.to_string(),
                "inclusionPromise":
                    {"signedEntryTimestamp": base64(&log.sign(promised.as_bytes()))},
                "inclusionProof": {"logIndex": "1", "treeSize": "2", "rootHash": base64(&root),
                    "hashes": [base64(&other)], "checkpoint": {"envelope":
                        format!("{note}\n\u{2014} rekor.example {}\n", base64(&signed))}},
                "canonicalizedBody": base64(body.as_bytes())}]},
        "dsseEnvelope": envelope(&payload, &signature)})
}

/// What is changed in a good bundle.
type Spoil = fn(&mut serde_json::Value);

#[test]
fn a_keyless_bundle_is_taken_with_promise_proof_and_certificate() {
    require!(Need::Root);
    fn entry(bundle: &mut serde_json::Value) -> &mut serde_json::Value {
        &mut bundle["verificationMaterial"]["tlogEntries"][0]
    }
    fn drop_proof(bundle: &mut serde_json::Value) {
        entry(bundle)
            .as_object_mut()
            .unwrap()
            .remove("inclusionProof");
    }
    let cases: [(Spoil, Option<&str>); 9] = [
        (|_| {}, None),
        (drop_proof, Some("its log entry has no proof")),
        (
            |b| {
                drop_proof(b);
                b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
            },
            None,
        ),
        (
            |b| b["mediaType"] = "application/vnd.dev.sigstore.bundle.v1.0+json".into(),
            Some("has none for it"),
        ),
        (
            |b| entry(b)["logIndex"] = "-1".into(),
            Some("a negative number"),
        ),
        (
            |b| entry(b)["inclusionProof"]["logIndex"] = "0".into(),
            Some("where its proof says"),
        ),
        (
            |b| entry(b)["inclusionProof"]["checkpoint"]["envelope"] = "x".into(),
            Some("malformed checkpoint"),
        ),
        (
            |b| drop(entry(b).as_object_mut().unwrap().remove("inclusionPromise")),
            Some("no promise of the log"),
        ),
        (
            |b| entry(b)["integratedTime"] = "1".into(),
            Some("not of the policy's log"),
        ),
    ];
    for (spoil, why) in cases {
        let (own, log) = (authority("dev@example.com"), Key::new());
        let (ca, pem) = (own.ca_pem.clone(), log.public_pem());
        let signed = with_bundle(move |_, digest| {
            let mut bundle = keyless(&own, &log, digest, b"");
            spoil(&mut bundle);
            bundle
        });
        let rule = |subject| {
            let rule = rule(&ca, &pem, "https://issuer.example", subject);
            matching(rule, "matchDigest")
        };
        match why {
            None => {
                assert!(
                    signed
                        .refused(rule("boss@example.com"))
                        .contains("its signer is not")
                );
                signed.pull("team/app", rule("dev@example.com")).unwrap();
            }
            Some(why) => {
                let text = signed.refused(rule("dev@example.com"));
                assert!(text.contains(why), "{text}");
            }
        }
    }
}

#[test]
fn a_log_entry_of_another_statement_is_refused() {
    require!(Need::Root);
    let (own, log) = (authority("dev@example.com"), Key::new());
    let (ca, pem) = (own.ca_pem.clone(), log.public_pem());
    let signed = with_bundle(move |_, digest| keyless(&own, &log, digest, b"another"));
    let rule = rule(&ca, &pem, "https://issuer.example", "dev@example.com");
    let text = signed.refused(matching(rule, "matchDigest"));
    assert!(text.contains("another signature"), "{text}");
}
