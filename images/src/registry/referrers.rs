//! What refers to a manifest: signatures, bills of materials, attestations (distribution-spec,
//! Listing Referrers), also at registries that know only the tag in place of it.

use std::collections::BTreeMap;

use http::header::ACCEPT;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Call, Client, Remote, read_body, remote};
use crate::manifest::OCI_INDEX;
use crate::store::DOCUMENT_LIMIT;
use crate::{Digest, Error, Reference, RegistryOptions, Result};

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Its own digest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// What it is, as in `application/spdx+json`; empty where the registry does not say.
    #[serde(default)]
    pub artifact_type: String,
    /// What its maker notes.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

/// Asks the registry what refers to an image (a tag is resolved first).
pub async fn referrers(reference: &Reference, options: &RegistryOptions) -> Result<Vec<Referrer>> {
    let remote = Remote::connect(reference, options).await?;
    let digest = match reference.digest() {
        Some(digest) => digest.clone(),
        None => Digest::of(&remote.manifest(reference.identifier()).await?),
    };
    let client = remote.clients.last().expect("a registry has a place");
    client.referrers(&digest).await
}

impl Remote {
    /// The same from the first place that knows of any. A mirror's failure is none as long as
    /// another place answers.
    pub(crate) async fn referrers(&self, digest: &Digest) -> Result<Vec<Referrer>> {
        let mut last = Ok(Vec::new());
        for client in self.clients.iter().filter(|client| client.pulls) {
            last = client.referrers(digest).await;
            match &last {
                Ok(found) if found.is_empty() => {}
                Ok(_) => break,
                Err(error) => remote::tell(error),
            }
        }
        last
    }
}

impl Client {
    async fn referrers(&self, digest: &Digest) -> Result<Vec<Referrer>> {
        let path = self.path(&format!("referrers/{digest}"));
        let what = format!("referrers of {}@{digest}", self.repository);
        let call = Call::new(Method::GET, &path, what.clone()).header(ACCEPT, OCI_INDEX);
        let answer = self.call(&call).await?;
        let bytes = match answer.status() {
            StatusCode::OK => {
                let read = read_body(answer.into_body(), DOCUMENT_LIMIT).await;
                read.map_err(|why| Error::document(&what, why))?
            }
            // Before 1.1 of the specification: an index under a tag made of the digest.
            _ => match self.manifest(&format!("sha256-{}", digest.hex())).await {
                Err(Error::NotFound { .. }) => return Ok(Vec::new()),
                other => other?,
            },
        };
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| Error::document(what, error))?;
        Ok(index.manifests)
    }
}
