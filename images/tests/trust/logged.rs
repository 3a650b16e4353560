//! Signatures by keys that a log must have, and timestamps in cosign's annotations.

use rrun_tests::{Need, require};
use serde_json::Value;

use crate::keyless::leaf_signs;
use crate::rekor2::{NOW, Sigstore, rule};
use crate::stamp::Lie;
use crate::*;

/// A promise of the log as cosign annotates it, of a signature by whom `verifier` names (PEM).
fn promise(
    sign: impl Fn(&[u8]) -> Vec<u8>,
    (log, time): (&str, u64),
    payload: &[u8],
    signature: &[u8],
    verifier: &str,
) -> String {
    let body = json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": {"hash": {"algorithm": "sha256", "value": Digest::of(payload).hex()}},
        "signature": {"content": base64(signature),
            "publicKey": {"content": base64(verifier.as_bytes())}}}});
    let entry = format!(
        r#"{{"body":"{}","integratedTime":{time},"logID":"{log}","logIndex":7}}"#,
        base64(body.to_string().as_bytes())
    );
    let promise = base64(&sign(entry.as_bytes()));
    format!(r#"{{"SignedEntryTimestamp":"{promise}","Payload":{entry}}}"#)
}

/// The log's key was read from the policy and not asked for.
#[test]
fn a_policy_of_key_and_log_takes_no_signature_that_is_not_logged() {
    require!(Need::Root);
    // What the entry is of, if there is one.
    type Entry = fn(&Key, &str) -> Option<String>;
    let own: Entry = |key, _| Some(key.public_pem());
    let none: Entry = |_, _| None;
    let of_other: Entry = |_, other| Some(other.to_owned());
    for (entry, why) in [
        (own, None),
        (none, Some("its log entry is missing")),
        (of_other, Some("of another signature")),
    ] {
        let (key, log, other) = (Key::new(), Key::new(), Key::new().public_pem());
        let mut wanted = by_key(&key);
        let strange = base64(Key::new().public_pem().as_bytes());
        wanted["rekorPublicKeyDatas"] = json!([strange, base64(log.public_pem().as_bytes())]);
        let signed = Signed::new(move |name, digest| {
            let payload = payload(name, digest);
            let signature = key.sign(&payload);
            let mut notes = json!({"dev.cosignproject.cosign/signature": base64(&signature)});
            if let Some(verifier) = entry(&key, &other) {
                let sign = |entry: &[u8]| log.sign(entry);
                notes["dev.sigstore.cosign/bundle"] =
                    promise(sign, ("00", 1_782_900_000), &payload, &signature, &verifier).into();
            }
            (payload, notes)
        });
        let mut of_strange = wanted.clone();
        of_strange["rekorPublicKeyDatas"] = json!([strange]);
        signed.refused(of_strange);
        match why {
            None => signed.pull("team/app", wanted).unwrap(),
            Some(why) => {
                let text = signed.refused(wanted);
                assert!(text.contains(why), "{text}");
            }
        }
    }
}

#[test]
fn a_timestamp_of_an_annotation_is_believed_beside_the_promise() {
    require!(Need::Root);
    /// 2026-07-01T12:00:00Z, as the certificate is good.
    const LOGGED: u64 = 1_782_907_200;
    for (stamped, why) in [
        (NOW, None),
        ("20260801120000Z", Some("CertExpired")),
        ("", Some("its timestamp is malformed")),
    ] {
        let own = Sigstore::new(Lie::None);
        let mut wanted: Value = rule(&own.trusted_root());
        wanted["signedIdentity"] = json!({"type": "matchRepository"});
        let signed = Signed::new(move |name, digest| {
            let payload = payload(name, digest);
            let signature = leaf_signs(&own.signer.leaf, &payload);
            let stamp = match stamped {
                "" => "!".to_owned(),
                time => base64(&own.stamps.stamp(&signature, time)),
            };
            let sign = |entry: &[u8]| own.log.sign(entry).as_ref().to_vec();
            let pem = &own.signer.leaf_pem;
            let promise = promise(sign, (&own.log_id(), LOGGED), &payload, &signature, pem);
            let stamp = format!(r#"{{"SignedRFC3161Timestamp":"{stamp}"}}"#);
            let notes = json!({"dev.cosignproject.cosign/signature": base64(&signature),
                "dev.sigstore.cosign/certificate": pem,
                "dev.sigstore.cosign/bundle": promise,
                "dev.sigstore.cosign/rfc3161timestamp": stamp});
            (payload, notes)
        });
        match why {
            None => signed.pull("team/app", wanted).unwrap(),
            Some(why) => {
                let text = signed.refused(wanted);
                assert!(text.contains(why), "{text}");
            }
        }
    }
}
