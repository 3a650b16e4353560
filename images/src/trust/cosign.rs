//! cosign's tags: an image tagged `sha256-<digest>.sig` beside the one that is signed, whose
//! layers are simple-signing payloads with the signature in an annotation.

use std::collections::HashMap;
use std::sync::Arc;

use super::material::{Annotations, Material};
use super::signature::{Claim, Signature};
use super::{SIGNATURES, decode};
use crate::registry::Remote;
use crate::{Digest, Error, Result};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD_LIMIT: u64 = 64 << 10;

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
                message: remote.document(&payload, size).await?,
                signature,
                claim: Claim::Simple,
                material: material(&notes),
            });
        }
    }
    Ok(found)
}

fn material(notes: &HashMap<String, String>) -> Result<Material, String> {
    let note = |name: &str| notes.get(name).map(String::as_str).unwrap_or_default();
    Material::of_annotations(&Annotations {
        certificate: note("dev.sigstore.cosign/certificate"),
        chain: note("dev.sigstore.cosign/chain"),
        promise: note("dev.sigstore.cosign/bundle"),
        timestamp: note("dev.sigstore.cosign/rfc3161timestamp"),
    })
}
