//! What a repository of a registry holds, and manifests removed from it (distribution-spec, Listing
//! Tags, Deleting Manifests).

use http::{Method, StatusCode};
use serde::Deserialize;

use super::{Call, Client, Remote};
use crate::{Digest, Error, Reference, RegistryOptions, Result};

/// What a registry's token is to allow: the word for deleting that old and new registries know.
const ALL: &str = "*";

#[derive(Deserialize)]
struct List {
    /// Null where the last one is gone.
    tags: Option<Vec<String>>,
}

/// The tags of a reference's repository, sorted: not every registry gives them so, as it should.
pub async fn tags(reference: &Reference, options: &RegistryOptions) -> Result<Vec<String>> {
    let remote = Remote::connect(reference, options).await?;
    remote.registry().tags().await
}

/// Deletes the manifest that a reference names at its registry, with every tag that it has there,
/// and gives its digest. Blobs are the registry's to collect.
pub async fn delete(reference: &Reference, options: &RegistryOptions) -> Result<Digest> {
    let remote = Remote::connect(reference, options).await?;
    let client = remote.registry();
    let bytes = client.manifest(reference.identifier()).await?;
    let digest = Digest::of(&bytes);
    client.delete_manifest(&digest).await?;
    client.forget_referrer(&digest, &bytes).await?;
    Ok(digest)
}

impl Client {
    async fn tags(&self) -> Result<Vec<String>> {
        let what = format!("tags of {}", self.repository);
        let path = self.path("tags/list");
        let call = Call::new(Method::GET, &path, what.clone());
        let answer = self.call(&call).await?;
        let mut tags = Vec::new();
        for bytes in self.pages(&call, answer).await? {
            let page: List =
                serde_json::from_slice(&bytes).map_err(|error| Error::document(&what, error))?;
            tags.extend(page.tags.unwrap_or_default());
        }
        tags.sort();
        Ok(tags)
    }

    async fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let path = self.path(&format!("manifests/{digest}"));
        let what = format!("manifest {}@{digest}", self.repository);
        let mut call = Call::new(Method::DELETE, &path, what);
        call.actions = ALL;
        let answer = self.call(&call).await?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Err(Error::Registry {
                registry: self.registry.clone(),
                what: format!("DELETE {}", call.what),
                why: "it allows no deleting (docker-registry: storage.delete.enabled)".to_owned(),
            }),
            _ => Err(self.unexpected(&call, answer).await),
        }
    }
}
