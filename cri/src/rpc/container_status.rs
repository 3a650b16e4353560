//! ContainerStatus.

use std::collections::HashMap;
use std::sync::Arc;

use rrun_cri_api::v1;

use super::verbose;
use crate::bundle;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::store::{ContainerPhase, ContainerRecord};

/// The status, and with `verbose` what helps to find its things on the machine.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse> {
    let record = daemon.container(&request.container_id)?.get();
    if record.phase() == ContainerPhase::Creating {
        return Err(Error::no_container(&request.container_id));
    }
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), verbose::container(daemon, &record));
    }
    Ok(v1::ContainerStatusResponse {
        status: Some(status(&record)),
        info,
    })
}

/// The status of a record.
pub fn status(record: &ContainerRecord) -> v1::ContainerStatus {
    let config = record.config();
    let linux = config.linux.as_ref();
    let resources = linux.and_then(|l| l.resources.clone());
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: mounts(record),
        log_path: record.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: resources,
            windows: None,
        }),
        user: Some(v1::ContainerUser {
            linux: record.user.clone(),
        }),
        stop_signal: bundle::signal_to_cri(record.stop_signal) as i32,
    }
}

/// The mounts as asked for, with the images that were found.
fn mounts(record: &ContainerRecord) -> Vec<v1::Mount> {
    let mut mounts = record.config().mounts.clone();
    for (mount, id) in mounts.iter_mut().zip(&record.mount_images) {
        if let Some(image) = mount.image.as_mut().filter(|_| !id.is_empty()) {
            image.image_ref.clone_from(id);
        }
    }
    mounts
}
