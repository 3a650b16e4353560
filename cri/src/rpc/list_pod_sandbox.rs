//! ListPodSandbox and StreamPodSandboxes.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::{Items, chunks, pod_sandbox_status, selected};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::store::{SandboxPhase, SandboxRecord};

/// Sandboxes that match every set field of the filter.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse> {
    Ok(v1::ListPodSandboxResponse {
        items: list(daemon, &request.filter.unwrap_or_default()),
    })
}

/// The same in pieces.
pub async fn stream(
    daemon: &Arc<Daemon>,
    request: v1::StreamPodSandboxesRequest,
) -> Result<Items<v1::StreamPodSandboxesResponse>> {
    let items = list(daemon, &request.filter.unwrap_or_default());
    Ok(chunks(&items, |pod_sandboxes| {
        v1::StreamPodSandboxesResponse { pod_sandboxes }
    }))
}

fn list(daemon: &Daemon, filter: &v1::PodSandboxFilter) -> Vec<v1::PodSandbox> {
    let all = daemon.store.sandboxes.all();
    all.iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() != SandboxPhase::Creating && wanted(record, filter))
        .map(|record| row(&record))
        .collect()
}

fn wanted(record: &SandboxRecord, filter: &v1::PodSandboxFilter) -> bool {
    let state = filter.state.as_ref();
    record.id.starts_with(&filter.id)
        && state.is_none_or(|s| s.state() == pod_sandbox_status::state(record))
        && selected(&record.config().labels, &filter.label_selector)
}

fn row(record: &SandboxRecord) -> v1::PodSandbox {
    let config = record.config();
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: pod_sandbox_status::state(record) as i32,
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}
