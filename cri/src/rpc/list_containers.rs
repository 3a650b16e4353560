//! ListContainers and StreamContainers.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::{Items, chunks, selected};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::store::{ContainerPhase, ContainerRecord};

/// Containers that match every set field of the filter.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse> {
    Ok(v1::ListContainersResponse {
        containers: list(daemon, &request.filter.unwrap_or_default()),
    })
}

/// The same in pieces.
pub async fn stream(
    daemon: &Arc<Daemon>,
    request: v1::StreamContainersRequest,
) -> Result<Items<v1::StreamContainersResponse>> {
    let items = list(daemon, &request.filter.unwrap_or_default());
    Ok(chunks(&items, |containers| v1::StreamContainersResponse {
        containers,
    }))
}

fn list(daemon: &Daemon, filter: &v1::ContainerFilter) -> Vec<v1::Container> {
    let all = daemon.store.containers.all();
    all.iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() != ContainerPhase::Creating && wanted(record, filter))
        .map(|record| row(&record))
        .collect()
}

fn wanted(record: &ContainerRecord, filter: &v1::ContainerFilter) -> bool {
    let state = filter.state.as_ref();
    record.id.starts_with(&filter.id)
        && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && state.is_none_or(|s| s.state() == record.state())
        && selected(&record.config().labels, &filter.label_selector)
}

fn row(record: &ContainerRecord) -> v1::Container {
    let config = record.config();
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    }
}
