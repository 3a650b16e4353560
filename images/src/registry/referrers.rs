//! What refers to a manifest: signatures, bills of materials, attestations (distribution-spec,
//! Listing Referrers), also at registries that know only the tag in place of it.

use std::collections::BTreeMap;

use http::header::ACCEPT;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Call, Client, Remote, remote};
use crate::manifest::OCI_INDEX;
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
    remote.registry().referrers(&digest).await
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
        let what = format!("referrers of {}@{digest}", self.repository);
        let path = self.path(&format!("referrers/{digest}"));
        let call = Call::new(Method::GET, &path, what.clone()).header(ACCEPT, OCI_INDEX);
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::OK {
            return self.tagged_referrers(digest).await;
        }
        let mut found = Vec::new();
        for bytes in self.pages(&call, answer).await? {
            let page: Index =
                serde_json::from_slice(&bytes).map_err(|error| Error::document(&what, error))?;
            found.extend(page.manifests);
        }
        Ok(found)
    }

    /// Before 1.1 of the specification: an index under a tag made of the digest. What is no index
    /// says of no referrer.
    async fn tagged_referrers(&self, digest: &Digest) -> Result<Vec<Referrer>> {
        let bytes = match self.manifest(&format!("sha256-{}", digest.hex())).await {
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        let index: Option<Index> = serde_json::from_slice(&bytes).ok();
        Ok(index.map(|index| index.manifests).unwrap_or_default())
    }
}
