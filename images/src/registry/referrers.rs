//! What refers to a manifest: signatures, bills of materials, attestations (distribution-spec,
//! Listing Referrers), also at registries that know only the tag in place of it.

use std::collections::BTreeMap;

use http::header::{ACCEPT, LINK};
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Call, Client, Remote, read_body, remote};
use crate::manifest::OCI_INDEX;
use crate::store::DOCUMENT_LIMIT;
use crate::{Digest, Error, Reference, RegistryOptions, Result};

/// Pages of a listing that are read.
const PAGES: usize = 100;

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
        let what = format!("referrers of {}@{digest}", self.repository);
        let mut next = Some(self.path(&format!("referrers/{digest}")));
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let Some(path) = next.take() else { break };
            let call = Call::new(Method::GET, &path, what.clone()).header(ACCEPT, OCI_INDEX);
            let answer = self.call(&call).await?;
            if answer.status() != StatusCode::OK {
                if found.is_empty() {
                    return self.tagged_referrers(digest).await;
                }
                return Err(self.unexpected(&call, answer).await);
            }
            next = next_page(answer.headers());
            let bytes = read_body(answer.into_body(), DOCUMENT_LIMIT).await;
            let bytes = bytes.map_err(|why| Error::document(&what, why))?;
            let page: Index =
                serde_json::from_slice(&bytes).map_err(|error| Error::document(&what, error))?;
            found.extend(page.manifests);
        }
        if next.is_some() {
            return Err(Error::document(what, format!("more than {PAGES} pages")));
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

/// `</v2/…?last=…>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter();
    let mut links = links.filter_map(|value| value.to_str().ok()?.trim().strip_prefix('<'));
    links.find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let parameters = parameters.replace(['"', ' '], "");
        let next = parameters
            .split(';')
            .any(|p| p.eq_ignore_ascii_case("rel=next"));
        next.then(|| target.to_owned())
    })
}
