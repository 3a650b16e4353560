//! Certificates that a log of certificates took (SCT, RFC 6962), and others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair as CertificateKey,
};
use rrun_tests::{Need, require};

use crate::keyless::{Authority, ca_params, leaf_params, notes, rule};
use crate::*;

const SIGNER: &str = "dev@example.com";
/// The list's extension.
const LIST: [u64; 10] = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().to_vec()
}

fn key_der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|l| !l.starts_with("---")).collect();
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).unwrap()
}

/// Bytes behind their length in two.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// What is signed of a certificate: the first element of the outer one, both longer than 255 bytes.
fn to_be_signed(der: &[u8]) -> &[u8] {
    let long = [0x30, 0x82];
    assert!(der[..2] == long && der[4..6] == long);
    let length = usize::from(u16::from_be_bytes([der[6], der[7]]));
    &der[4..8 + length]
}

/// How the timestamp is made.
struct Made {
    later: Duration,
    /// The log took a certificate that differs in its end from the one that is used.
    other: bool,
}

const GOOD: Made = Made {
    later: Duration::ZERO,
    other: false,
};

/// The list with one timestamp of a certificate.
fn list(log: &Key, made: &Made, certificate: &[u8], issuer: &[u8]) -> CustomExtension {
    let mut logged = to_be_signed(certificate).to_vec();
    if made.other {
        *logged.last_mut().unwrap() ^= 1;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let time = ((now + made.later).as_millis() as u64).to_be_bytes();
    let length = (logged.len() as u32).to_be_bytes();
    let more = sized(b"an extension of the log's own");
    let message = [
        &[0, 0][..],
        &time,
        &[0, 1],
        &sha256(issuer),
        &length[1..],
        &logged,
        &more,
    ]
    .concat();
    let id = sha256(&key_der(&log.public_pem()));
    let signature = sized(&log.sign(&message));
    let timestamp = [&[0][..], &id, &time, &more, &[4, 3], &signature].concat();
    // Of another version, which is left out.
    let list = sized(&[sized(&[9, 9]), sized(&timestamp)].concat());
    assert!(list.len() > 127 && list.len() < 256);
    let octets = [&[4, 0x81, list.len() as u8][..], &list].concat();
    CustomExtension::from_oid_content(&LIST, octets)
}

/// An authority, its chain below the root, whose certificate a log took.
fn logged(log: Option<(&Key, &Made)>, intermediate: bool) -> (Authority, String) {
    let key = CertificateKey::generate().unwrap();
    let root = ca_params().self_signed(&key).unwrap();
    let mut issuer_key = key.public_key_raw().to_vec();
    let mut issuer = Issuer::new(ca_params(), key);
    let mut chain = String::new();
    if intermediate {
        let key = CertificateKey::generate().unwrap();
        let mut params = ca_params();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "intermediate");
        chain = params.signed_by(&key, &issuer).unwrap().pem();
        issuer_key = key.public_key_raw().to_vec();
        issuer = Issuer::new(params, key);
    }
    let leaf = CertificateKey::generate().unwrap();
    let mut params: CertificateParams = leaf_params(SIGNER);
    params.serial_number = Some(7u64.into());
    let mut certificate = params.signed_by(&leaf, &issuer).unwrap();
    if let Some((log, made)) = log {
        let issuer_key = spki(&issuer_key);
        let list = list(log, made, certificate.der(), &issuer_key);
        params.custom_extensions.insert(0, list);
        certificate = params.signed_by(&leaf, &issuer).unwrap();
    }
    let authority = Authority {
        ca_pem: root.pem(),
        leaf_pem: certificate.pem(),
        leaf,
    };
    (authority, chain)
}

/// A P-256 key as certificates hold it.
fn spki(point: &[u8]) -> Vec<u8> {
    let head = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [&head, point].concat()
}

/// An image signed with such a certificate, and the rule that takes it but for the timestamp.
fn signed(authority: Authority, chain: String) -> (Signed, serde_json::Value) {
    let rekor = Key::new();
    let rule = rule(
        &authority.ca_pem,
        &rekor.public_pem(),
        "https://issuer.example",
        SIGNER,
    );
    let signed = Signed::new(move |name, digest| {
        let payload = payload(name, digest);
        let mut notes = notes(&authority, &rekor, &payload, &payload);
        notes["dev.sigstore.cosign/chain"] = chain.as_str().into();
        (payload, notes)
    });
    (signed, rule)
}

fn wanting(rule: &serde_json::Value, log: &Key) -> serde_json::Value {
    let mut rule = rule.clone();
    // A log has had several keys: the file holds all of them.
    let pem = [Key::new().public_pem(), log.public_pem()].concat();
    rule["fulcio"]["ctLogPublicKeyData"] = base64(pem.as_bytes()).into();
    rule
}

#[test]
fn a_certificate_is_taken_with_a_timestamp_of_the_policys_log() {
    require!(Need::Root);
    for intermediate in [false, true] {
        let log = Key::new();
        let (authority, chain) = logged(Some((&log, &GOOD)), intermediate);
        let (signed, rule) = signed(authority, chain);
        let text = signed.refused(wanting(&rule, &Key::new()));
        assert!(
            text.contains("no timestamp (SCT) of the policy's log"),
            "{text}"
        );
        signed.pull("team/app", wanting(&rule, &log)).unwrap();
    }
}

#[test]
fn a_certificate_that_no_log_took_is_refused_where_the_policy_wants_one() {
    require!(Need::Root);
    let log = Key::new();
    let of_other = Made {
        other: true,
        ..GOOD
    };
    let of_tomorrow = Made {
        later: Duration::from_hours(24),
        ..GOOD
    };
    let none = "no timestamp (SCT) of the policy's log";
    for (made, why) in [
        (None, "no timestamp of a log (SCT)"),
        (Some((&log, &of_other)), none),
        (Some((&log, &of_tomorrow)), none),
    ] {
        let (authority, chain) = logged(made, false);
        let (signed, rule) = signed(authority, chain);
        let text = signed.refused(wanting(&rule, &log));
        assert!(text.contains(why), "{text}");
        signed.pull("team/app", rule).unwrap();
    }
}
