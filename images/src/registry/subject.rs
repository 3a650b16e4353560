//! A manifest that refers to another, at a registry without the referrers API (distribution-spec,
//! Pushing Manifests with Subject): it is noted in an index under a tag made of the other's digest,
//! and taken out there when it is deleted.

use serde_json::{Map, Value, json};

use super::Client;
use crate::manifest::OCI_INDEX;
use crate::{Digest, Error, Result};

impl Client {
    /// Notes a manifest that was pushed, where it has a subject that the registry took no note of.
    pub(super) async fn note_referrer(&self, media_type: &str, bytes: &[u8]) -> Result<()> {
        let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let Some((tag, what)) = self.subject_of(&manifest)? else {
            return Ok(());
        };
        let index = match self.manifest(&tag).await {
            Err(Error::NotFound { .. }) => None,
            other => Some(other?),
        };
        let mut index = read_index(index.as_deref()).map_err(|why| Error::document(&what, why))?;
        if !add(&mut index, descriptor(&manifest, media_type, bytes)) {
            return Ok(());
        }
        let text = serde_json::to_vec(&index).expect("the index is plain");
        Box::pin(self.push_manifest(&tag, OCI_INDEX, &text)).await
    }

    /// Takes a manifest that was deleted out of the index, where there is one.
    pub(super) async fn forget_referrer(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let Some((tag, what)) = self.subject_of(&manifest)? else {
            return Ok(());
        };
        let index = match self.manifest(&tag).await {
            // The registry lists referrers by itself, or never knew of this one.
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let mut index = read_index(Some(&index)).map_err(|why| Error::document(&what, why))?;
        if !take_out(&mut index, digest) {
            return Ok(());
        }
        let text = serde_json::to_vec(&index).expect("the index is plain");
        self.push_manifest(&tag, OCI_INDEX, &text).await
    }

    /// The tag that lists what refers to the same as this manifest, and its name for messages.
    fn subject_of(&self, manifest: &Value) -> Result<Option<(String, String)>> {
        let Some(subject) = manifest["subject"]["digest"].as_str() else {
            return Ok(None);
        };
        let what = format!("the referrers' tag of {subject} in {}", self.repository);
        let subject: Digest = subject
            .parse()
            .map_err(|error| Error::document(&what, error))?;
        Ok(Some((format!("sha256-{}", subject.hex()), what)))
    }
}

/// The index under the tag; an empty one where there is no tag.
fn read_index(bytes: Option<&[u8]>) -> Result<Value, String> {
    let Some(bytes) = bytes else {
        return Ok(json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}));
    };
    let index: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let kind = index["mediaType"].as_str().unwrap_or(OCI_INDEX);
    if kind != OCI_INDEX || !index["manifests"].is_array() {
        return Err("it holds no image index: what was pushed is not noted there".to_owned());
    }
    Ok(index)
}

fn descriptor(manifest: &Value, media_type: &str, bytes: &[u8]) -> Value {
    let own = manifest["artifactType"].as_str().filter(|t| !t.is_empty());
    let artifact = own.or_else(|| manifest["config"]["mediaType"].as_str());
    let mut descriptor = Map::new();
    descriptor.insert("mediaType".to_owned(), media_type.into());
    descriptor.insert("digest".to_owned(), Digest::of(bytes).as_str().into());
    descriptor.insert("size".to_owned(), bytes.len().into());
    descriptor.extend(artifact.map(|a| ("artifactType".to_owned(), a.into())));
    let notes = manifest["annotations"].as_object();
    descriptor.extend(notes.map(|n| ("annotations".to_owned(), n.clone().into())));
    descriptor.into()
}

/// False where it is in there already.
fn add(index: &mut Value, descriptor: Value) -> bool {
    let Some(list) = index["manifests"].as_array_mut() else {
        return false;
    };
    if list
        .iter()
        .any(|known| known["digest"] == descriptor["digest"])
    {
        return false;
    }
    list.push(descriptor);
    true
}

/// False where it is not in there.
fn take_out(index: &mut Value, digest: &Digest) -> bool {
    let Some(list) = index["manifests"].as_array_mut() else {
        return false;
    };
    let before = list.len();
    list.retain(|known| known["digest"] != digest.as_str());
    list.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referrers_are_noted_once_with_what_they_are() {
        let manifest = json!({"config": {"mediaType": "c/d"}, "annotations": {"a": "b"}});
        let entry = descriptor(&manifest, OCI_INDEX, b"x");
        assert_eq!(
            (&entry["artifactType"], &entry["annotations"]["a"]),
            (&json!("c/d"), &json!("b"))
        );
        let with = json!({"artifactType": "e/f", "config": {"mediaType": "c/d"}});
        assert_eq!(descriptor(&with, OCI_INDEX, b"x")["artifactType"], "e/f");
        let mut index = read_index(None).unwrap();
        assert!(add(&mut index, entry.clone()) && !add(&mut index, entry));
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let (own, other) = (Digest::of(b"x"), Digest::of(b"y"));
        assert!(!take_out(&mut index, &other) && take_out(&mut index, &own));
        assert_eq!(index["manifests"], json!([]));
        for bad in ["{", "{}", r#"{"mediaType":"x","manifests":[]}"#] {
            assert!(read_index(Some(bad.as_bytes())).is_err(), "{bad}");
        }
    }
}
