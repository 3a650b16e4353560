//! RemoveImage.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::create_container::images;
use super::image_status::{find, name};
use crate::daemon::Daemon;
use crate::error::Result;

/// Removes the image with all its names, as CRI wants it. One that is gone is removed.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse> {
    let name = name(request.image)?;
    if let Some(image) = find(daemon, &name).await? {
        images(daemon, move |store| match store.remove(image.id.as_str()) {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        })
        .await?;
    }
    Ok(v1::RemoveImageResponse {})
}
