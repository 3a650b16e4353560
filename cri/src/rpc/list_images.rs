//! ListImages and StreamImages.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::create_container::images;
use super::{Items, chunks, image_status};
use crate::daemon::Daemon;
use crate::error::Result;

/// All images, or the one that the filter names.
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
        return Ok(image.iter().map(image_status::to_cri).collect());
    }
    let all = images(daemon, rrun_images::Store::list).await?;
    Ok(all.iter().map(image_status::to_cri).collect())
}
