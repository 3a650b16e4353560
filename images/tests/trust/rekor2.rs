//! Bundles of the second Rekor: no promise, but a proof and a timestamp (RFC 3161), against a
//! `trusted_root.json`.

use rcgen::{Issuer, KeyPair as CertificateKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rrun_tests::{Need, require};
use serde_json::Value;

use crate::bundle::{
    KIND, SIGN, der, envelope, pre_authentication, sha256, statement, with_bundle,
};
use crate::keyless::{Authority, ca_params, leaf_params, leaf_signs};
use crate::stamp::{Lie, TimestampAuthority};
use crate::*;

const ORIGIN: &str = "log.example/2026";
pub const NOW: &str = "20260701120000Z";

/// All that a sigstore has.
pub struct Sigstore {
    pub signer: Authority,
    pub log: Ed25519KeyPair,
    pub stamps: TimestampAuthority,
}

impl Sigstore {
    pub fn new(lie: Lie) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self {
            signer: signer(),
            log: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap(),
            stamps: TimestampAuthority::new(lie),
        }
    }

    /// As C2SP's signed-note has it for Ed25519.
    fn note_key(&self) -> Vec<u8> {
        let key = self.log.public_key().as_ref();
        sha256(&[ORIGIN.as_bytes(), b"\n\x01", key])[..4].to_vec()
    }

    fn log_spki(&self) -> Vec<u8> {
        let head = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        [&head, self.log.public_key().as_ref()].concat()
    }

    /// Hexadecimal.
    pub fn log_id(&self) -> String {
        Digest::of(&self.log_spki()).hex().to_owned()
    }

    pub fn trusted_root(&self) -> Value {
        let spki = self.log_spki();
        let year = json!({"start": "2026-01-01T00:00:00Z", "end": "2026-12-31T00:00:00.000Z"});
        let authority = |chain: &[String]| {
            let chain: Vec<Value> = chain.iter().map(|c| json!({"rawBytes": c})).collect();
            json!({"uri": "https://ca.example", "certChain": {"certificates": chain},
                "validFor": year})
        };
        json!({"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{"baseUrl": format!("https://{ORIGIN}"), "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": base64(&spki), "keyDetails": "PKIX_ED25519",
                    "validFor": year},
                "logId": {"keyId": base64(&sha256(&[&spki]))},
                "checkpointKeyId": {"keyId": base64(&self.note_key())}}],
            "certificateAuthorities": [authority(&[der(&self.signer.ca_pem)])],
            "timestampAuthorities":
                [authority(&[base64(&self.stamps.leaf), base64(&self.stamps.root)])]})
    }

    /// An entry of this kind, the second of two in the log.
    fn bundle(&self, kind: &str, digest: &Digest, stamp: impl Fn(&[u8]) -> Vec<u8>) -> Value {
        let payload = statement(SIGN, None, digest.hex());
        let message = pre_authentication(&payload);
        let signature = leaf_signs(&self.signer.leaf, &message);
        let certificate = json!({"rawBytes": der(&self.signer.leaf_pem)});
        let logged = json!({"content": base64(&signature), "verifier": {
            "keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": certificate}});
        let hash = |bytes| json!({"algorithm": "SHA2_256", "digest": base64(&sha256(&[bytes]))});
        let spec = if kind == "dsse" {
            json!({"dsseV002": {"payloadHash": hash(&payload), "signatures": [logged]}})
        } else {
            json!({"hashedRekordV002": {"data": hash(&message), "signature": logged}})
        };
        let body = json!({"apiVersion": "0.0.2", "kind": kind, "spec": spec}).to_string();
        let other = sha256(&[&[0], b"other"]);
        let root = sha256(&[&[1], &other, &sha256(&[&[0], body.as_bytes()])]);
        let note = format!("{ORIGIN}\n2\n{}\n", base64(&root));
        let own = [&self.note_key(), self.log.sign(note.as_bytes()).as_ref()].concat();
        // A witness beside the log.
        let lines = format!(
            "\u{2014} witness.example {}\n\u{2014} {ORIGIN} {}\n",
            base64(&[9; 76]),
            base64(&own)
        );
        json!({"mediaType": KIND,
            "verificationMaterial": {"certificate": certificate,
                "tlogEntries": [{"logIndex": "1", "logId": {"keyId": base64(&self.note_key())},
                    "kindVersion": {"kind": kind, "version": "0.0.2"},
                    "inclusionProof": {"logIndex": "1", "treeSize": "2",
                        "rootHash": base64(&root), "hashes": [base64(&other)],
                        "checkpoint": {"envelope": format!("{note}\n{lines}")}},
                    "canonicalizedBody": base64(body.as_bytes())}],
                "timestampVerificationData": {"rfc3161Timestamps":
                    [{"signedTimestamp": base64(&stamp(&signature))}]}},
            "dsseEnvelope": envelope(&payload, &signature)})
    }
}

/// Whose certificate is good for a day of July.
fn signer() -> Authority {
    let ca_key = CertificateKey::generate().unwrap();
    let ca_pem = ca_params().self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca_params(), ca_key);
    let leaf = CertificateKey::generate().unwrap();
    let mut params = leaf_params("dev@example.com");
    params.not_before = rcgen::date_time_ymd(2026, 7, 1);
    params.not_after = rcgen::date_time_ymd(2026, 7, 2);
    let leaf_pem = params.signed_by(&leaf, &issuer).unwrap().pem();
    Authority {
        ca_pem,
        leaf_pem,
        leaf,
    }
}

pub fn rule(root: &Value) -> Value {
    json!({"type": "sigstoreSigned", "signedIdentity": {"type": "matchDigest"},
        "trustedRootData": base64(root.to_string().as_bytes()),
        "fulcio": {"oidcIssuer": "https://issuer.example", "subjectEmail": "dev@example.com"}})
}

/// What is changed in a bundle, or in a trusted root.
type Spoil = fn(&mut Value);

/// Refused, and why; or taken.
fn judged(lie: Lie, kind: &'static str, time: &'static str, bundle: Spoil, root: Spoil) -> String {
    let own = Sigstore::new(lie);
    let mut trusted = own.trusted_root();
    root(&mut trusted);
    let signed = with_bundle(move |_, digest| {
        let mut made = own.bundle(kind, digest, |signature| own.stamps.stamp(signature, time));
        bundle(&mut made);
        made
    });
    match signed.pull("team/app", rule(&trusted)) {
        Ok(()) => String::new(),
        Err(Error::Rejected { why, .. }) => why,
        Err(other) => panic!("{other}"),
    }
}

fn keep(_: &mut Value) {}

fn entry(bundle: &mut Value) -> &mut Value {
    &mut bundle["verificationMaterial"]["tlogEntries"][0]
}

#[test]
fn an_entry_without_time_is_taken_with_a_timestamp() {
    require!(Need::Root);
    for kind in ["dsse", "hashedrekord"] {
        assert_eq!(judged(Lie::None, kind, NOW, keep, keep), "");
    }
    // With a fraction of a second, as some authorities write it.
    let fraction = judged(Lie::None, "dsse", "20260701120000.25Z", keep, keep);
    assert_eq!(fraction, "");
}

#[test]
fn timestamps_that_lie_are_refused() {
    require!(Need::Root);
    for (lie, why) in [
        (Lie::Refused, "was not granted"),
        (Lie::Tampered, "is not what was signed"),
        (Lie::Usage, "not for timestamps alone"),
        (Lie::NotCritical, "not for timestamps alone"),
        (Lie::OtherCertificate, "names another certificate"),
        (Lie::OtherImprint, "is of another signature"),
        (Lie::Twice, "has not one signer"),
        (Lie::Unsigned, "is not signed"),
        (Lie::Longer, "is malformed"),
    ] {
        let text = judged(lie, "dsse", NOW, keep, keep);
        assert!(text.contains(why), "{lie:?}: {text}");
    }
}

#[test]
fn times_outside_of_what_the_root_and_the_certificate_say_are_refused() {
    require!(Need::Root);
    let text = judged(Lie::None, "dsse", "20260801120000Z", keep, keep);
    assert!(text.contains("not of the policy's authority"), "{text}");
    let text = judged(Lie::None, "dsse", "20270701120000Z", keep, keep);
    assert!(text.contains("not of the policy's authorities"), "{text}");
    let text = judged(Lie::None, "dsse", "20260701996000Z", keep, keep);
    assert!(text.contains("has no time"), "{text}");
}

#[test]
fn bundles_of_the_second_rekor_that_are_not_whole_are_refused() {
    require!(Need::Root);
    let cases: [(Spoil, &str); 6] = [
        (
            |b| {
                let material = b["verificationMaterial"].as_object_mut().unwrap();
                material.remove("timestampVerificationData");
            },
            "no timestamp",
        ),
        (
            |b| drop(entry(b).as_object_mut().unwrap().remove("inclusionProof")),
            "no proof",
        ),
        (
            |b| entry(b)["inclusionProof"]["logIndex"] = "0".into(),
            "where its proof says",
        ),
        (
            |b| {
                let note = &mut entry(b)["inclusionProof"]["checkpoint"]["envelope"];
                *note = note
                    .as_str()
                    .unwrap()
                    .replace("\u{2014} log.", "\u{2014} lag.")
                    .into();
            },
            "checkpoint that is not of the policy's log",
        ),
        (
            |b| entry(b)["canonicalizedBody"] = base64(b"{}").into(),
            "where its proof says",
        ),
        // A time that nobody signed is no time.
        (
            |b| {
                entry(b)["integratedTime"] = "1782907200".into();
                let stamps = &mut b["verificationMaterial"]["timestampVerificationData"];
                stamps["rfc3161Timestamps"][0]["signedTimestamp"] = "MAA=".into();
            },
            "its timestamp is malformed",
        ),
    ];
    for (spoil, why) in cases {
        let text = judged(Lie::None, "dsse", NOW, spoil, keep);
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[test]
fn whom_the_trusted_root_does_not_know_is_not_believed() {
    require!(Need::Root);
    fn without(root: &mut Value, list: &str) {
        root[list] = json!([]);
    }
    let cases: [(Spoil, &str); 7] = [
        (
            |r| {
                let valid = json!({"start": "2026-07-03T00:00:00Z"});
                r["tlogs"][0]["publicKey"]["validFor"] = valid;
            },
            "a log that is not to be believed for that time",
        ),
        // 1.3.132.0.35: a curve that is not known here.
        (
            |r| {
                let key = "MCwwEAYHKoZIzj0CAQYFK4EEACMDGAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
                r["tlogs"][0]["publicKey"]["rawBytes"] = key.into();
            },
            "checkpoint that is not of the policy's log",
        ),
        (
            |r| {
                let log = r["tlogs"][0].clone();
                r["ctlogs"] = json!([log]);
            },
            "no timestamp of a log (SCT)",
        ),
        (|r| without(r, "tlogs"), "not of the policy's log"),
        (
            |r| without(r, "certificateAuthorities"),
            "not of the policy's authority",
        ),
        (|r| without(r, "timestampAuthorities"), "names no authority"),
        (
            |r| {
                let strange = TimestampAuthority::new(Lie::None);
                let chain = json!([{"rawBytes": base64(&strange.root)}]);
                r["timestampAuthorities"][0]["certChain"]["certificates"] = chain;
            },
            "not of the policy's authorities",
        ),
    ];
    for (spoil, why) in cases {
        let text = judged(Lie::None, "hashedrekord", NOW, keep, spoil);
        assert!(text.contains(why), "{why}: {text}");
    }
}

/// Not by our own code: a timestamp of openssl's.
#[test]
fn a_timestamp_made_by_openssl_is_taken() {
    require!(Need::Root, Need::Program("openssl"));
    let mut own = Sigstore::new(Lie::None);
    // openssl stamps the time that it is.
    own.signer = crate::keyless::authority("dev@example.com");
    let mut trusted = own.trusted_root();
    for list in ["tlogs", "certificateAuthorities", "timestampAuthorities"] {
        // As those write it who set no start.
        let ever = json!({"start": "0001-01-01T00:00:00Z"});
        trusted[list][0]["validFor"] = ever.clone();
        trusted[list][0]["publicKey"]["validFor"] = ever;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = "[own]\nserial = serial\nsigner_digest = sha256\n\
                  default_policy = 1.2.3.4\ndigests = sha256\ness_cert_id_alg = sha256\n\
                  accuracy = secs:1\nordering = yes\n";
    std::fs::write(dir.path().join("config"), config).unwrap();
    std::fs::write(dir.path().join("leaf"), &own.stamps.leaf_pem).unwrap();
    std::fs::write(dir.path().join("key"), own.stamps.key.serialize_pem()).unwrap();
    let signed = with_bundle(move |_, digest| {
        own.bundle("dsse", digest, |signature| {
            std::fs::write(dir.path().join("signature"), signature).unwrap();
            for line in [
                "ts -query -data signature -sha256 -cert -out query",
                "ts -reply -config config -section own -queryfile query -signer leaf -inkey key \
                 -out reply",
            ] {
                let mut command = std::process::Command::new("openssl");
                command.args(line.split(' ')).current_dir(dir.path());
                let output = command.output().unwrap();
                assert!(output.status.success(), "{line}: {output:?}");
            }
            std::fs::read(dir.path().join("reply")).unwrap()
        })
    });
    signed.pull("team/app", rule(&trusted)).unwrap();
}
