//! PodSandboxStatus.

use std::collections::HashMap;
use std::sync::Arc;

use rrun_cri_api::v1;

use super::{container_status, verbose};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::id;
use crate::store::{ContainerPhase, SandboxPhase, SandboxRecord};

/// The sandbox with its containers.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse> {
    let record = daemon.sandbox(&request.pod_sandbox_id)?.get();
    if record.phase() == SandboxPhase::Creating {
        return Err(Error::no_sandbox(&request.pod_sandbox_id));
    }
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), verbose::sandbox(daemon, &record));
    }
    let containers = daemon.containers_of(&record.id);
    Ok(v1::PodSandboxStatusResponse {
        status: Some(status(&record)),
        info,
        containers_statuses: containers
            .iter()
            .map(|c| c.get())
            .filter(|c| c.phase() != ContainerPhase::Creating)
            .map(|c| container_status::status(&c))
            .collect(),
        timestamp: id::now(),
    })
}

/// As CRI has it: only a whole sandbox is ready.
pub fn state(record: &SandboxRecord) -> v1::PodSandboxState {
    match record.phase() {
        SandboxPhase::Ready => v1::PodSandboxState::SandboxReady,
        _ => v1::PodSandboxState::SandboxNotready,
    }
}

/// The status of a record.
pub fn status(record: &SandboxRecord) -> v1::PodSandboxStatus {
    let config = record.config();
    let mut ips = record.ips.iter().cloned();
    let ip = ips.next().unwrap_or_default();
    let ready = state(record) == v1::PodSandboxState::SandboxReady;
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state(record) as i32,
        created_at: record.created_at,
        // The addresses of a stopped pod belong to nobody, or to another.
        network: Some(if ready {
            v1::PodSandboxNetworkStatus {
                ip,
                additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
            }
        } else {
            v1::PodSandboxNetworkStatus::default()
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(record.namespaces()),
            }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}
