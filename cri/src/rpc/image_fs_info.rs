//! ImageFsInfo.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::create_container::images;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::id;

/// What images and writable layers take.
pub async fn handle(
    daemon: &Arc<Daemon>,
    _: v1::ImageFsInfoRequest,
) -> Result<v1::ImageFsInfoResponse> {
    let usage = images(daemon, rrun_images::Store::usage).await?;
    let containers = crate::stats::layers(daemon).await?;
    let row = |path: &std::path::Path, bytes, inodes| v1::FilesystemUsage {
        timestamp: id::now(),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: path.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    };
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![row(daemon.images.root(), usage.bytes, usage.inodes)],
        container_filesystems: vec![row(
            &daemon.config.root.join("containers"),
            containers.bytes,
            containers.inodes,
        )],
    })
}
