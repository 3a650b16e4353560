//! ListImages and StreamImages.

use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_images::{Image, Reference};

use super::create_container::images;
use super::{Items, chunks, image_status};
use crate::daemon::Daemon;
use crate::error::Result;

/// All images, or the one that the filter names, or those of the repository that it names.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse> {
    Ok(v1::ListImagesResponse {
        images: list(daemon, request.filter).await?,
    })
}

/// The same in pieces.
pub async fn stream(
    daemon: &Arc<Daemon>,
    request: v1::StreamImagesRequest,
) -> Result<Items<v1::StreamImagesResponse>> {
    let images = list(daemon, request.filter).await?;
    Ok(chunks(&images, |images| v1::StreamImagesResponse {
        images,
    }))
}

async fn list(daemon: &Arc<Daemon>, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>> {
    let name = filter
        .and_then(|f| f.image)
        .map(|i| i.image)
        .unwrap_or_default();
    if !name.is_empty() {
        let image = image_status::find(daemon, &name).await?;
        let mut found: Vec<v1::Image> = image.iter().map(image_status::to_cri).collect();
        if let Some(repository) = repository(&name) {
            let all = images(daemon, rrun_images::Store::list).await?;
            let others = all.iter().filter(|i| is_of(i, &repository));
            found.extend(others.map(image_status::to_cri));
            found.sort_by(|a, b| a.id.cmp(&b.id));
            found.dedup_by(|a, b| a.id == b.id);
        }
        return Ok(found);
    }
    let all = images(daemon, rrun_images::Store::list).await?;
    Ok(all.iter().map(image_status::to_cri).collect())
}

/// What `crictl images REPOSITORY` names: a repository, whatever the tag.
fn repository(name: &str) -> Option<String> {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        return None;
    }
    Some(name.parse::<Reference>().ok()?.name())
}

fn is_of(image: &Image, repository: &str) -> bool {
    let of = |name: &String, separator: char| {
        let known = name.rsplit_once(separator);
        known.is_some_and(|(known, _)| known == repository)
    };
    image.repo_tags.iter().any(|tag| of(tag, ':')) || image.repo_digests.iter().any(|d| of(d, '@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_a_repository() {
        assert_eq!(repository("busybox").unwrap(), "docker.io/library/busybox");
        assert_eq!(repository("h:5000/a/b").unwrap(), "h:5000/a/b");
        for other in ["busybox:1", "a/b@sha256:00", "h:5000/a:b"] {
            assert_eq!(repository(other), None, "{other}");
        }
    }
}
