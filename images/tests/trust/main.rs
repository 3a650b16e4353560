//! policy.json: what is taken, what is rejected, and cosign signatures, good and bad.
#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;

mod bundle;
mod keyless;
mod logged;
mod rekor2;
mod sct;
mod stamp;

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
    /// `sign` gives payload and annotations of a cosign tag for the repository and the digest.
    fn new(
        sign: impl Fn(&str, &str) -> (Vec<u8>, serde_json::Value) + Send + Sync + 'static,
    ) -> Self {
        Self::serving(move |content, request, name, digest| {
            let (payload, notes) = sign(name, digest.as_str());
            answer(content, request, digest, &payload, &notes)
        })
    }

    fn serving(
        handler: impl Fn(&Content, &Request, &str, &Digest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let content = Content::new(&[plain(Tar::default().file("a", "1").end())]);
        let digest = Digest::of(&content.manifest);
        let host = Arc::new(std::sync::Mutex::new(String::new()));
        let own = Arc::clone(&host);
        let double = Double::start(move |request| {
            let name = format!("{}/team/app", own.lock().unwrap());
            handler(&content, request, &name, &digest)
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

/// Not by our own code: a key and a signature of openssl's.
#[test]
fn a_signature_made_by_openssl_is_taken() {
    require!(Need::Root, Need::Program("openssl"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| {
        let output = std::process::Command::new("openssl").args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        output.stdout
    };
    let (key, public) = (path("key"), path("cosign.pub"));
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        &key,
    ]);
    openssl(&["ec", "-in", &key, "-pubout", "-out", &public]);
    let rule = json!({"type": "sigstoreSigned", "keyPath": public,
        "signedIdentity": {"type": "matchRepository"}});
    let message = path("message");
    let good = Signed::new(move |name, digest| {
        let payload = payload(name, digest);
        std::fs::write(&message, &payload).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-sign", &key, &message])
            .output()
            .unwrap();
        let notes = json!({"dev.cosignproject.cosign/signature": base64(&output.stdout)});
        (payload, notes)
    });
    assert!(good.refused(by_key(&Key::new())).contains("not by a key"));
    good.pull("team/app", rule).unwrap();
}
