//! Sigstore bundles: what cosign 3 signs with, as a manifest that refers to the image. A DSSE
//! envelope of an in-toto statement, by a key, or by a certificate with its entry in the log.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::SIGNATURES;
use super::checkpoint::Proof;
use super::keyless::Certified;
use super::log::{LogEntry, body_text, hex};
use super::proto::{Base64, Chain, LogId, Number, RawBytes};
use super::signature::{Claim, Signature};
use crate::registry::Remote;
use crate::{Digest, Error, Result};

/// Of manifest and blob, with a version behind it.
const KIND: &str = "application/vnd.dev.sigstore.bundle";
const STATEMENT: &str = "application/vnd.in-toto+json";
const BUNDLE_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
}

/// Version 0.3 has one certificate, those before it a chain.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Material {
    certificate: Option<RawBytes>,
    x509_certificate_chain: Option<Chain>,
    tlog_entries: Vec<Entry>,
    timestamp_verification_data: Timestamps,
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
                    Ok(signatures) => found.extend(signatures),
                    Err(why) => tracing::info!(bundle = %blob, why, "bundle left out"),
                }
            }
        }
    }
    Ok(found)
}

/// One signature for each of the envelope.
pub(super) fn parse(digest: &Digest, bytes: &[u8]) -> Result<Vec<Signature>, String> {
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let envelope = bundle
        .dsse_envelope
        .ok_or("it has no DSSE envelope, as signatures of images have")?;
    if envelope.payload_type != STATEMENT {
        return Err(format!("its payload is a {:?}", envelope.payload_type));
    }
    let payload = envelope.payload.0;
    let mut material = Some(bundle.verification_material);
    let signature = |sig: EnvelopeSignature| Signature {
        digest: digest.clone(),
        message: pre_authentication(&envelope.payload_type, &payload),
        signature: sig.sig.0,
        claim: Claim::Statement(payload.clone()),
        // A bundle is of one signer, and so has one signature.
        certified: material.take().and_then(certified),
    };
    Ok(envelope.signatures.into_iter().map(signature).collect())
}

fn certified(material: Material) -> Option<Result<Certified, String>> {
    let mut chain = material
        .x509_certificate_chain
        .map_or(Vec::new(), Chain::certificates);
    let leaf = match material.certificate {
        Some(raw) => CertificateDer::from(raw.raw_bytes.0),
        None if chain.is_empty() => return None,
        None => chain.remove(0),
    };
    let timestamps = material.timestamp_verification_data.rfc3161_timestamps;
    let timestamps = timestamps.into_iter().map(|t| t.signed_timestamp.0);
    let entry = material.tlog_entries.into_iter().next().map(entry);
    Some(match entry {
        Some(Ok(entry)) => Ok(Certified {
            leaf,
            chain,
            entry,
            timestamps: timestamps.collect(),
        }),
        Some(Err(why)) => Err(why),
        None => Err("its log entry is missing or malformed".to_owned()),
    })
}

fn entry(entry: Entry) -> Result<LogEntry, String> {
    let unsigned = |number: Number| {
        u64::try_from(number.0).map_err(|_| "its log entry has a negative number".to_owned())
    };
    let proof = entry.inclusion_proof.map(|proof| {
        Ok::<_, String>(Proof {
            index: unsigned(proof.log_index)?,
            size: unsigned(proof.tree_size)?,
            root: proof.root_hash.0,
            hashes: proof.hashes.into_iter().map(|hash| hash.0).collect(),
            checkpoint: proof.checkpoint.envelope,
        })
    });
    Ok(LogEntry {
        body: body_text(&entry.canonicalized_body.0),
        integrated_time: entry.integrated_time.0,
        log_id: hex(&entry.log_id.key_id.0),
        log_index: entry.log_index.0,
        promise: entry
            .inclusion_promise
            .map_or(Vec::new(), |promise| promise.signed_entry_timestamp.0),
        proof: proof.transpose()?,
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
                "inclusionPromise":{"signedEntryTimestamp":"AQ=="},"canonicalizedBody":"e30="}]},
            "dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json",
                "signatures":[{"sig":"AQI=","keyid":""}]}}"#;
        let found = parse(&Digest::of(b""), text.as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].message,
            b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
        );
        let certified = found[0].certified.as_ref().unwrap().as_ref().unwrap();
        let entry = &certified.entry;
        assert_eq!((entry.log_index, entry.integrated_time), (7, 12));
        assert_eq!(
            (entry.log_id.as_str(), entry.body.as_str()),
            ("00ff", "e30=")
        );
    }

    #[test]
    fn bundles_of_something_else_are_left_out() {
        for bad in [
            "{}",
            r#"{"verificationMaterial":{},"messageSignature":{}}"#,
            r#"{"verificationMaterial":{},"dsseEnvelope":{"payload":"!","payloadType":"x","signatures":[]}}"#,
            r#"{"verificationMaterial":{},"dsseEnvelope":{"payload":"","payloadType":"text/plain","signatures":[]}}"#,
        ] {
            assert!(parse(&Digest::of(b""), bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
