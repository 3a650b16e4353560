//! ImageStatus, and what the image RPCs share.

use std::collections::HashMap;
use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_images::{Image, Reference};

use super::create_container::images;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// Bytes of annotations that are shown of one image.
const ANNOTATIONS: usize = 16 << 10;

/// The image of a name or id; an absent one is an answer without an image.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse> {
    let name = name(request.image)?;
    let image = find(daemon, &name).await?;
    let mut info = HashMap::new();
    if let Some(image) = image.as_ref().filter(|_| request.verbose) {
        let text = super::verbose::image(image).map_err(anyhow::Error::from)?;
        info.insert("info".to_owned(), text);
    }
    if request.verbose
        && let Some(pull) = daemon.pulls.of(&name)
    {
        let text = serde_json::to_string(&pull).map_err(anyhow::Error::from)?;
        info.insert("pull".to_owned(), text);
    }
    Ok(v1::ImageStatusResponse {
        image: image.map(|image| to_cri(&image)),
        info,
    })
}

/// What a request names: the reference as resolved, else as written.
pub(super) fn name(spec: Option<v1::ImageSpec>) -> Result<String> {
    let spec = spec.unwrap_or_default();
    if spec.image.is_empty() {
        return Err(Error::invalid("image.image is empty"));
    }
    Ok(spec.image)
}

/// The image of a name, `name@digest`, id, or start of an id.
pub(super) async fn find(daemon: &Arc<Daemon>, name: &str) -> Result<Option<Image>> {
    let name = name.to_owned();
    images(daemon, move |store| store.get(&name)).await
}

/// What a container's status names: a digest that any machine can pull, else the id.
pub(super) fn reference(image: &Image) -> String {
    let digest = image.repo_digests.first();
    digest.cloned().unwrap_or_else(|| image.id.to_string())
}

/// An image as CRI has it.
pub(super) fn to_cri(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            annotations: annotations(image),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// Those of the manifest, by name, as far as all images' fit into one answer whoever made them.
fn annotations(image: &Image) -> HashMap<String, String> {
    let mut room = ANNOTATIONS;
    let fits = |(key, value): &(&String, &String)| {
        room = room.saturating_sub(key.len() + value.len());
        room > 0
    };
    let shown = image.annotations.iter().take_while(fits);
    shown.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A kubelet checks runAsNonRoot by these: the number, or the name where it is none; without either it
/// takes the image for root's.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(uid) => (Some(v1::Int64Value { value: uid.into() }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// The error of the image library as a client can act on it.
pub(super) fn error(error: rrun_images::Error) -> Error {
    if error.is_rejected() {
        return Error::Rejected(error.to_string());
    }
    let (invalid, missing) = (error.is_invalid_input(), error.is_not_found());
    let error = anyhow::Error::from(error);
    match (invalid, missing) {
        (true, _) => Error::Invalid(format!("{error:#}")),
        (_, true) => Error::NoManifest(format!("{error:#}")),
        _ => Error::Internal(error),
    }
}

/// A reference from what a client wrote.
pub(super) fn parse(name: &str) -> Result<Reference> {
    name.parse().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_as_non_root_can_be_checked() {
        assert_eq!(user("1000:1000").0.unwrap().value, 1000);
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("www:www"), (None, "www".to_owned()));
    }
}
