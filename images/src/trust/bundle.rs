//! Sigstore bundles: what cosign 3 signs with, as a manifest that refers to the image. A DSSE
//! envelope of an in-toto statement, by a key, or by a certificate with its entry in the log.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::SIGNATURES;
use super::checkpoint::Proof;
use super::der;
use super::log::{LogEntry, hex};
use super::material::Material;
use super::proto::{Base64, Chain, LogId, Number, RawBytes};
use super::signature::{Claim, Signature};
use crate::registry::Remote;
use crate::{Digest, Error, Result};

/// Of manifest and blob, with a version behind it.
const KIND: &str = "application/vnd.dev.sigstore.bundle";
const STATEMENT: &str = "application/vnd.in-toto+json";
const BUNDLE_LIMIT: u64 = 1 << 20;
/// Longer than any way from a signer to an authority.
const CERTIFICATES: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: VerificationMaterial,
    dsse_envelope: Option<Envelope>,
    #[cfg(test)]
    message_signature: Option<super::conformance::MessageSignature>,
}

/// Version 0.3 has one certificate, those before it a chain.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VerificationMaterial {
    certificate: Option<RawBytes>,
    x509_certificate_chain: Option<Chain>,
    tlog_entries: Vec<Entry>,
    timestamp_verification_data: Timestamps,
}

/// What an entry of the log must have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A promise, and perhaps a proof.
    V1,
    /// A proof.
    V2,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Timestamps {
    rfc3161_timestamps: Vec<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timestamp {
    signed_timestamp: Base64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    log_index: Number,
    log_id: LogId,
    integrated_time: Number,
    inclusion_promise: Option<Promise>,
    inclusion_proof: Option<InclusionProof>,
    canonicalized_body: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promise {
    signed_entry_timestamp: Base64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InclusionProof {
    log_index: Number,
    tree_size: Number,
    root_hash: Base64,
    hashes: Vec<Base64>,
    checkpoint: Note,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Note {
    envelope: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: Base64,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: Base64,
}

/// The bundles that refer to any of these digests.
pub(super) async fn fetch(remote: &Arc<Remote>, digests: &[Digest]) -> Result<Vec<Signature>> {
    let mut found = Vec::new();
    for (i, digest) in digests.iter().enumerate() {
        if digests[..i].contains(digest) {
            continue;
        }
        let referrers = remote.referrers(digest).await?;
        let bundles = referrers
            .into_iter()
            .filter(|r| r.artifact_type.starts_with(KIND));
        for referrer in bundles.take(SIGNATURES) {
            let bytes = remote.manifest(referrer.digest.as_str()).await?;
            let manifest: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes)
                .map_err(|error| Error::document(referrer.digest.as_str(), error))?;
            for layer in manifest.layers().iter().take(SIGNATURES) {
                let size = layer.size();
                if !layer.media_type().to_string().starts_with(KIND) || size > BUNDLE_LIMIT {
                    continue;
                }
                let blob: Digest = layer.digest().as_ref().parse()?;
                let bytes = remote.document(&blob, size).await?;
                // One that is malformed does not spoil the others.
                match parse(digest, &bytes) {
                    Ok(signature) => found.push(signature),
                    Err(why) => tracing::info!(bundle = %blob, why, "bundle left out"),
                }
            }
        }
    }
    Ok(found)
}

/// The signature of an image's bundle, which has one.
pub(super) fn parse(digest: &Digest, bytes: &[u8]) -> Result<Signature, String> {
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let version = version(&bundle.media_type)?;
    let envelope = bundle
        .dsse_envelope
        .ok_or("it has no DSSE envelope, as signatures of images have")?;
    if envelope.payload_type != STATEMENT {
        return Err(format!("its payload is a {:?}", envelope.payload_type));
    }
    let Ok([signature]) = <[EnvelopeSignature; 1]>::try_from(envelope.signatures) else {
        return Err("its envelope has not one signature".to_owned());
    };
    let payload = envelope.payload.0;
    Ok(Signature {
        digest: digest.clone(),
        message: pre_authentication(&envelope.payload_type, &payload),
        signature: signature.sig.0,
        claim: Claim::Statement(payload),
        material: material(bundle.verification_material, version),
    })
}

/// The same also of a bundle over a file.
#[cfg(test)]
pub(super) fn parse_any(artifact: &[u8], bytes: &[u8]) -> Result<Signature, String> {
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Some(message) = bundle.message_signature else {
        return parse(&Digest::of(artifact), bytes);
    };
    let version = version(&bundle.media_type)?;
    Ok(Signature {
        material: material(bundle.verification_material, version),
        ..message.of(artifact)?
    })
}

fn version(kind: &str) -> Result<Version, String> {
    let version = kind.strip_prefix(KIND).and_then(|rest| {
        let old = || rest.strip_prefix("+json;version=");
        let new = || rest.strip_prefix(".v")?.strip_suffix("+json");
        old().or_else(new)
    });
    match version {
        Some("0.1") => Ok(Version::V1),
        Some("0.2" | "0.3") => Ok(Version::V2),
        _ => Err(format!("it is a {kind:?}, which is not known here")),
    }
}

fn material(given: VerificationMaterial, version: Version) -> Result<Material, String> {
    let mut certificates = match (given.certificate, given.x509_certificate_chain) {
        (Some(_), Some(_)) => return Err("it has two certificates".to_owned()),
        (Some(raw), None) => vec![CertificateDer::from(raw.raw_bytes.0)],
        (None, chain) => chain.map_or(Vec::new(), Chain::certificates),
    };
    // Who is to be trusted is for the policy to say (Bundle of protobuf-specs).
    if certificates.iter().skip(1).any(|c| der::is_self_issued(c)) {
        return Err("it brings the certificate of an authority along".to_owned());
    }
    certificates.truncate(CERTIFICATES);
    let timestamps = given.timestamp_verification_data.rfc3161_timestamps;
    let entries = given.tlog_entries.into_iter();
    Ok(Material {
        certificates,
        entries: entries
            .map(|e| entry(e, version))
            .collect::<Result<_, _>>()?,
        timestamps: timestamps
            .into_iter()
            .map(|t| t.signed_timestamp.0)
            .collect(),
    })
}

fn entry(entry: Entry, version: Version) -> Result<LogEntry, String> {
    let unsigned = |number: &Number| {
        u64::try_from(number.0).map_err(|_| "its log entry has a negative number".to_owned())
    };
    unsigned(&entry.log_index)?;
    let has_checkpoint = |proof: &InclusionProof| !proof.checkpoint.envelope.is_empty();
    let proof = match (entry.inclusion_proof, version) {
        // The first version's proofs may have no checkpoint, so that they prove nothing.
        (Some(proof), Version::V1) if !has_checkpoint(&proof) => None,
        (Some(proof), _) => Some(Proof {
            index: unsigned(&proof.log_index)?,
            size: unsigned(&proof.tree_size)?,
            root: proof.root_hash.0,
            hashes: proof.hashes.into_iter().map(|hash| hash.0).collect(),
            checkpoint: proof.checkpoint.envelope,
        }),
        (None, Version::V1) => None,
        (None, Version::V2) => return Err("its log entry has no proof".to_owned()),
    };
    let promise = entry
        .inclusion_promise
        .map_or(Vec::new(), |promise| promise.signed_entry_timestamp.0);
    if promise.is_empty() && version == Version::V1 {
        return Err("its log entry has no promise (SignedEntryTimestamp)".to_owned());
    }
    Ok(LogEntry {
        body: entry.canonicalized_body.0,
        integrated_time: entry.integrated_time.0,
        log_id: hex(&entry.log_id.key_id.0),
        log_index: entry.log_index.0,
        promise,
        proof,
    })
}

/// What DSSE signs (its protocol.md): type and payload with their lengths.
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_read_with_numbers_as_text() {
        let text = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial":{"certificate":{"rawBytes":"MAA="},"tlogEntries":[{
                "logIndex":"7","logId":{"keyId":"AP8="},"integratedTime":"12",
                "inclusionPromise":{"signedEntryTimestamp":"AQ=="},
                "inclusionProof":{"logIndex":"7","treeSize":8,"rootHash":"","hashes":[],
                    "checkpoint":{"envelope":"x"}},"canonicalizedBody":"e30="}]},
            "dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json",
                "signatures":[{"sig":"AQI=","keyid":""}]}}"#;
        let found = parse(&Digest::of(b""), text.as_bytes()).unwrap();
        assert_eq!(
            found.message,
            b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
        );
        let entry = &found.material.as_ref().unwrap().entries[0];
        assert_eq!((entry.log_index, entry.integrated_time), (7, 12));
        assert_eq!(
            (entry.log_id.as_str(), &entry.body[..]),
            ("00ff", &b"{}"[..])
        );
    }

    #[test]
    fn bundles_of_something_else_are_left_out() {
        for bad in [
            "{}",
            r#""verificationMaterial":{}"#,
            r#""verificationMaterial":{},"dsseEnvelope":{"payload":"!","payloadType":"x","signatures":[]}"#,
            r#""verificationMaterial":{},"dsseEnvelope":{"payload":"","payloadType":"text/plain","signatures":[]}"#,
            r#""verificationMaterial":{},"dsseEnvelope":{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""},{"sig":""}]}"#,
        ] {
            let kind = r#""mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json""#;
            let text = format!("{{{kind},{bad}}}");
            assert!(parse(&Digest::of(b""), text.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_to_come_are_refused() {
        for (kind, known) in [
            ("+json;version=0.1", true),
            ("+json;version=0.2", true),
            ("+json;version=0.3", true),
            (".v0.3+json", true),
            (".v0.3", false),
            (".v0.4+json", false),
            ("+json;version=99.9", false),
            ("", false),
        ] {
            assert_eq!(version(&format!("{KIND}{kind}")).is_ok(), known, "{kind}");
        }
    }
}
