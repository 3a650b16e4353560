//! cosign's signatures: an image tagged `sha256-<digest>.sig` beside the one that is signed,
//! whose layers are simple-signing payloads with the signature in an annotation.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;

use super::keyless::Certified;
use super::policy::Signed;
use crate::registry::Remote;
use crate::{Digest, Error, Reference, Result};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";
/// More than anybody signs an image with.
const SIGNATURES: usize = 50;
const PAYLOAD_LIMIT: u64 = 64 << 10;

/// A signature as the registry has it. Nothing of it is verified yet.
pub(super) struct Signature {
    /// What it was looked up for.
    pub digest: Digest,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
    pub certified: Option<Certified>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The signatures that the repository has for any of these digests.
pub(super) async fn fetch(remote: &Arc<Remote>, digests: &[Digest]) -> Result<Vec<Signature>> {
    let mut found = Vec::new();
    let mut seen: Vec<&Digest> = Vec::new();
    for digest in digests {
        if seen.contains(&digest) {
            continue;
        }
        seen.push(digest);
        let tag = format!("sha256-{}.sig", digest.hex());
        let bytes = match remote.manifest(&tag).await {
            Err(Error::NotFound { .. }) => continue,
            other => other?,
        };
        let manifest: oci_spec::image::ImageManifest =
            serde_json::from_slice(&bytes).map_err(|error| Error::document(&tag, error))?;
        for layer in manifest.layers().iter().take(SIGNATURES) {
            let notes = layer.annotations().clone().unwrap_or_default();
            let size = layer.size();
            if layer.media_type().to_string() != PAYLOAD || size > PAYLOAD_LIMIT {
                continue;
            }
            let Some(signature) = notes.get(SIGNATURE).and_then(|text| decode(text)) else {
                continue;
            };
            let payload: Digest = layer.digest().as_ref().parse()?;
            found.push(Signature {
                digest: digest.clone(),
                payload: remote.document(&payload, size).await?,
                signature,
                certified: certified(&notes),
            });
        }
    }
    Ok(found)
}

fn certified(notes: &HashMap<String, String>) -> Option<Certified> {
    let note = |name: &str| notes.get(name).cloned();
    Some(Certified {
        certificate: note("dev.sigstore.cosign/certificate").filter(|text| !text.is_empty())?,
        chain: note("dev.sigstore.cosign/chain").unwrap_or_default(),
        bundle: note("dev.sigstore.cosign/bundle").unwrap_or_default(),
    })
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text.trim()).ok()
}

/// Is one of the signatures good? Else why the last one was not.
pub(super) fn judge(
    signatures: &[Signature],
    wanted: &Signed,
    reference: &Reference,
) -> Result<(), String> {
    let mut why = "the policy wants a signature, and the repository has none for it".to_owned();
    for signature in signatures {
        match judge_one(signature, wanted, reference) {
            Ok(()) => return Ok(()),
            Err(reason) => why = format!("no signature is good, the last because {reason}"),
        }
    }
    Err(why)
}

fn judge_one(signature: &Signature, wanted: &Signed, reference: &Reference) -> Result<(), String> {
    let by_key = || {
        let good =
            |key: &super::key::PublicKey| key.verifies(&signature.payload, &signature.signature);
        wanted.keys.iter().any(good)
    };
    // First the signature, then what it says: nothing unsigned is interpreted.
    if !by_key() {
        match (&wanted.authority, &signature.certified) {
            (Some(authority), Some(certified)) => {
                authority.verify(certified, &signature.payload, &signature.signature)?;
            }
            _ => return Err("it is not by a key of the policy".to_owned()),
        }
    }
    let payload: Payload = serde_json::from_slice(&signature.payload)
        .map_err(|error| format!("its payload is malformed: {error}"))?;
    let critical = payload.critical;
    if critical.r#type != KIND {
        return Err(format!("it is a {:?}", critical.r#type));
    }
    if critical.image.digest != signature.digest.as_str() {
        return Err("it is of another image".to_owned());
    }
    if !wanted
        .identity
        .matches(&critical.identity.reference, reference)
    {
        let signed = critical.identity.reference;
        return Err(format!(
            "it was made for {signed:?} (see signedIdentity in the policy)"
        ));
    }
    Ok(())
}
