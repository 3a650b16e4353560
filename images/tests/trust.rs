//! policy.json: what is taken, what is rejected, and cosign signatures, good and bad.
#![allow(clippy::unwrap_used)]

mod kit;

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use kit::double::{Content, Double, Reply, Request};
use kit::{Tar, plain};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rrun_images::{
    Credentials, Digest, Error, PullOptions, Reference, RegistryOptions, Result, Store,
};
use rrun_tests::{Need, require};
use serde_json::json;

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        Self(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    /// As `cosign generate-key-pair` writes it.
    fn public_pem(&self) -> String {
        let mut der = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        der.extend_from_slice(self.0.public_key().as_ref());
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64(&der)
        )
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    }
}

fn payload(reference: &str, digest: &str) -> Vec<u8> {
    json!({"critical": {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }, "optional": null})
    .to_string()
    .into_bytes()
}

/// An image at a registry, with what is to be its signature.
struct Signed {
    double: Double,
    dir: tempfile::TempDir,
}

impl Signed {
    fn new(
        sign: impl Fn(&str, &str) -> (Vec<u8>, serde_json::Value) + Send + Sync + 'static,
    ) -> Self {
        let content = Content::new(&[plain(Tar::default().file("a", "1").end())]);
        let digest = Digest::of(&content.manifest);
        let host = Arc::new(std::sync::Mutex::new(String::new()));
        let own = Arc::clone(&host);
        let double = Double::start(move |request| {
            let name = format!("{}/team/app", own.lock().unwrap());
            let (payload, notes) = sign(&name, digest.as_str());
            answer(&content, request, &digest, &payload, &notes)
        });
        host.lock().unwrap().clone_from(&double.host);
        let dir = tempfile::tempdir().unwrap();
        Self { double, dir }
    }

    fn policy(&self, rule: serde_json::Value) -> PathBuf {
        let path = self.dir.path().join("policy.json");
        let text = json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {format!("{}/team", self.double.host): [rule]}},
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    fn pull(&self, repository: &str, rule: serde_json::Value) -> Result<()> {
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        let options = PullOptions {
            registry: RegistryOptions {
                credentials: Credentials::Anonymous,
                ..Default::default()
            },
            policy: Some(self.policy(rule)),
            ..Default::default()
        };
        let name = format!("{}/{repository}:1", self.double.host);
        let reference: Reference = name.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let pulled = runtime.block_on(store.pull(&reference, &options, Arc::new(())));
        let listed = store.list().unwrap().len();
        assert_eq!(listed, usize::from(pulled.is_ok()));
        if pulled.is_err() {
            let layers = std::fs::read_dir(store.root().join("layers")).unwrap();
            assert_eq!(layers.count(), 0, "something was unpacked");
        }
        pulled.map(drop)
    }

    fn refused(&self, rule: serde_json::Value) -> String {
        let error = self.pull("team/app", rule).unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{error}");
        error.to_string()
    }
}

fn answer(
    content: &Content,
    request: &Request,
    digest: &Digest,
    payload: &[u8],
    notes: &serde_json::Value,
) -> Reply {
    if request
        .path
        .ends_with(&format!("manifests/sha256-{}.sig", digest.hex()))
    {
        if notes.is_null() {
            return Reply::new(404, "");
        }
        let config = content
            .blobs
            .iter()
            .find(|(_, b)| b.starts_with(b"{"))
            .unwrap();
        let manifest = json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0, "size": config.1.len()},
            "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": Digest::of(payload), "size": payload.len(), "annotations": notes}]});
        return Reply::new(200, manifest.to_string());
    }
    if request.path.ends_with(Digest::of(payload).as_str()) {
        return Reply::new(200, payload);
    }
    content.answer(request)
}

fn by_key(key: &Key) -> serde_json::Value {
    json!({"type": "sigstoreSigned", "keyData": base64(key.public_pem().as_bytes()),
        "signedIdentity": {"type": "matchRepository"}})
}

#[test]
fn a_signature_by_the_policys_key_is_taken_and_nothing_else() {
    require!(Need::Root);
    let (key, other) = (Key::new(), Key::new());
    let rule = by_key(&key);
    let other = by_key(&other);
    let good = Signed::new(move |name, digest| {
        let payload = payload(name, digest);
        let notes = json!({"dev.cosignproject.cosign/signature": base64(&key.sign(&payload))});
        (payload, notes)
    });
    assert!(good.refused(other).contains("not by a key of the policy"));
    good.pull("team/app", rule).unwrap();
}

#[test]
fn signatures_of_something_else_are_refused() {
    require!(Need::Root);
    let empty = Digest::of(b"").to_string();
    let cases: [(&str, Option<String>, &str); 2] = [
        ("", Some(empty), "another image"),
        ("evil.example/team/app", None, "made for"),
    ];
    for (name, digest, why) in cases {
        let key = Key::new();
        let rule = by_key(&key);
        let bad = Signed::new(move |own, right| {
            let name = if name.is_empty() { own } else { name };
            let payload = payload(name, digest.as_deref().unwrap_or(right));
            let notes = json!({"dev.cosignproject.cosign/signature": base64(&key.sign(&payload))});
            (payload, notes)
        });
        let text = bad.refused(rule);
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn unsigned_and_unlisted_images_are_refused() {
    require!(Need::Root);
    let key = Key::new();
    let rule = by_key(&key);
    let unsigned = Signed::new(|_, _| (Vec::new(), serde_json::Value::Null));
    assert!(unsigned.refused(rule).contains("has none"));
    let accept = json!({"type": "insecureAcceptAnything"});
    let error = unsigned.pull("elsewhere/app", accept.clone()).unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    let asked = unsigned.double.count("elsewhere");
    assert_eq!(asked, 0, "a rejected name is not asked for");
    unsigned.pull("team/app", accept).unwrap();
}

/// A certificate authority and a log of our own, as sigstore's are.
mod keyless {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
        Issuer, KeyPair as CertificateKey, KeyUsagePurpose, SanType,
    };

    use super::*;

    fn issuer_extension(issuer: &str) -> CustomExtension {
        let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 1];
        CustomExtension::from_oid_content(&oid, issuer.as_bytes().to_vec())
    }

    struct Authority {
        ca_pem: String,
        leaf_pem: String,
        leaf: CertificateKey,
    }

    fn authority(subject: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = CertificateKey::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let ca_pem = ca.pem();
        let issuer = Issuer::new(params, ca_key);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::Rfc822Name(subject.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.custom_extensions = vec![issuer_extension("https://issuer.example")];
        let leaf = CertificateKey::generate().unwrap();
        let leaf_pem = params.signed_by(&leaf, &issuer).unwrap().pem();
        Authority {
            ca_pem,
            leaf_pem,
            leaf,
        }
    }

    fn leaf_signs(leaf: &CertificateKey, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &leaf.serialize_der(), &random).unwrap();
        pair.sign(&random, message).unwrap().as_ref().to_vec()
    }

    fn notes(authority: &Authority, log: &Key, payload: &[u8], logged: &[u8]) -> serde_json::Value {
        let signature = base64(&leaf_signs(&authority.leaf, payload));
        let body = json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::of(logged).hex()}},
            "signature": {"content": signature,
                "publicKey": {"content": base64(authority.leaf_pem.as_bytes())}}}});
        let time = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let entry = format!(
            r#"{{"body":"{}","integratedTime":{time},"logID":"00","logIndex":7}}"#,
            base64(body.to_string().as_bytes())
        );
        let bundle = format!(
            r#"{{"SignedEntryTimestamp":"{}","Payload":{entry}}}"#,
            base64(&log.sign(entry.as_bytes()))
        );
        json!({"dev.cosignproject.cosign/signature": signature,
            "dev.sigstore.cosign/certificate": authority.leaf_pem,
            "dev.sigstore.cosign/bundle": bundle})
    }

    fn rule(ca: &str, log: &str, issuer: &str, subject: &str) -> serde_json::Value {
        json!({"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"},
            "rekorPublicKeyData": base64(log.as_bytes()),
            "fulcio": {"caData": base64(ca.as_bytes()), "oidcIssuer": issuer,
                "subjectEmail": subject}})
    }

    #[test]
    fn a_keyless_signature_is_taken_from_its_signer_only() {
        require!(Need::Root);
        let (log, stranger) = (Key::new(), Key::new());
        let (pem, strange) = (log.public_pem(), stranger.public_pem());
        let own = authority("dev@example.com");
        let other = authority("dev@example.com");
        let (ca, other_ca) = (own.ca_pem.clone(), other.ca_pem);
        let signed = Signed::new(move |name, digest| {
            let payload = payload(name, digest);
            let notes = notes(&own, &log, &payload, &payload);
            (payload, notes)
        });
        let issuer = "https://issuer.example";
        let cases = [
            (&ca, &pem, issuer, "boss@example.com", "its signer is not"),
            (
                &ca,
                &pem,
                "https://else.example",
                "dev@example.com",
                "was known to",
            ),
            (
                &ca,
                &strange,
                issuer,
                "dev@example.com",
                "not of the policy's log",
            ),
            (
                &other_ca,
                &pem,
                issuer,
                "dev@example.com",
                "not of the policy's authority",
            ),
        ];
        for (ca, log, issuer, subject, why) in cases {
            let text = signed.refused(rule(ca, log, issuer, subject));
            assert!(text.contains(why), "{text}");
        }
        let good = rule(&ca, &pem, issuer, "dev@example.com");
        signed.pull("team/app", good).unwrap();
    }

    #[test]
    fn a_log_entry_of_another_signature_is_refused() {
        require!(Need::Root);
        let log = Key::new();
        let pem = log.public_pem();
        let own = authority("dev@example.com");
        let ca = own.ca_pem.clone();
        let signed = Signed::new(move |name, digest| {
            let payload = payload(name, digest);
            let notes = notes(&own, &log, &payload, b"something else");
            (payload, notes)
        });
        let text = signed.refused(rule(&ca, &pem, "https://issuer.example", "dev@example.com"));
        assert!(text.contains("another signature"), "{text}");
    }
}
