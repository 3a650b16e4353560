//! ContainerStats, ListContainerStats and StreamContainerStats.

use std::sync::Arc;

use futures_util::future::join_all;
use rrun_cri_api::v1;

use super::{Items, chunks, selected};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::stats;
use crate::store::{ContainerPhase, ContainerRecord};

/// Usage of one container.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse> {
    let record = daemon.container(&request.container_id)?.get();
    if record.phase() == ContainerPhase::Creating {
        return Err(Error::no_container(&request.container_id));
    }
    Ok(v1::ContainerStatsResponse {
        stats: Some(stats::container(daemon, &record).await?),
    })
}

/// The same in pieces, for all that a filter wants.
pub async fn stream(
    daemon: &Arc<Daemon>,
    request: v1::StreamContainerStatsRequest,
) -> Result<Items<v1::StreamContainerStatsResponse>> {
    let stats = all(daemon, &request.filter.unwrap_or_default()).await;
    Ok(chunks(&stats, |container_stats| {
        v1::StreamContainerStatsResponse { container_stats }
    }))
}

/// ListContainerStats.
pub mod list {
    use super::{Arc, Daemon, Result, all, v1};

    /// Usage of the running containers that a filter wants.
    pub async fn handle(
        daemon: &Arc<Daemon>,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse> {
        Ok(v1::ListContainerStatsResponse {
            stats: all(daemon, &request.filter.unwrap_or_default()).await,
        })
    }
}

async fn all(daemon: &Arc<Daemon>, filter: &v1::ContainerStatsFilter) -> Vec<v1::ContainerStats> {
    let records = daemon.store.containers.all();
    let records: Vec<_> = records
        .iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() == ContainerPhase::Running && wanted(record, filter))
        .collect();
    let stats = join_all(
        records
            .iter()
            .map(|record| stats::container(daemon, record)),
    )
    .await;
    // One that ends meanwhile has no usage, and is no reason to tell nothing of the others.
    stats
        .into_iter()
        .filter_map(std::result::Result::ok)
        .collect()
}

fn wanted(record: &ContainerRecord, filter: &v1::ContainerStatsFilter) -> bool {
    record.id.starts_with(&filter.id)
        && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && selected(&record.config().labels, &filter.label_selector)
}
