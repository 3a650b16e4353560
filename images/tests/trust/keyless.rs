//! A certificate authority and a log of our own, as sigstore's are.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair as CertificateKey, KeyUsagePurpose, SanType,
};

use crate::*;

fn issuer_extension(issuer: &str) -> CustomExtension {
    let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 1];
    CustomExtension::from_oid_content(&oid, issuer.as_bytes().to_vec())
}

pub struct Authority {
    pub ca_pem: String,
    pub leaf_pem: String,
    pub leaf: CertificateKey,
}

pub fn authority(subject: &str) -> Authority {
    let params = ca_params();
    let ca_key = CertificateKey::generate().unwrap();
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let leaf = CertificateKey::generate().unwrap();
    let certificate = leaf_params(subject).signed_by(&leaf, &issuer);
    Authority {
        ca_pem,
        leaf_pem: certificate.unwrap().pem(),
        leaf,
    }
}

pub fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub fn leaf_params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::Rfc822Name(subject.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.custom_extensions = vec![issuer_extension("https://issuer.example")];
    params
}

pub fn leaf_signs(leaf: &CertificateKey, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &leaf.serialize_der(), &random).unwrap();
    pair.sign(&random, message).unwrap().as_ref().to_vec()
}

pub fn notes(authority: &Authority, log: &Key, payload: &[u8], logged: &[u8]) -> serde_json::Value {
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

pub fn rule(ca: &str, log: &str, issuer: &str, subject: &str) -> serde_json::Value {
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
