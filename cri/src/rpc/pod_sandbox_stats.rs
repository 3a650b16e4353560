//! PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats.

use std::sync::Arc;

use futures_util::future::join_all;
use rrun_cri_api::v1;

use super::{Items, chunks, selected};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::stats;
use crate::store::{SandboxPhase, SandboxRecord};

/// Usage of one pod.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse> {
    let record = daemon.sandbox(&request.pod_sandbox_id)?.get();
    if record.phase() == SandboxPhase::Creating {
        return Err(Error::no_sandbox(&request.pod_sandbox_id));
    }
    Ok(v1::PodSandboxStatsResponse {
        stats: Some(stats::sandbox(daemon, &record).await?),
    })
}

/// The same in pieces, for all that a filter wants.
pub async fn stream(
    daemon: &Arc<Daemon>,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Items<v1::StreamPodSandboxStatsResponse>> {
    let stats = all(daemon, &request.filter.unwrap_or_default()).await;
    Ok(chunks(&stats, |pod_sandbox_stats| {
        v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
    }))
}

/// ListPodSandboxStats.
pub mod list {
    use super::{Arc, Daemon, Result, all, v1};

    /// Usage of the ready pods that a filter wants.
    pub async fn handle(
        daemon: &Arc<Daemon>,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse> {
        Ok(v1::ListPodSandboxStatsResponse {
            stats: all(daemon, &request.filter.unwrap_or_default()).await,
        })
    }
}

async fn all(daemon: &Arc<Daemon>, filter: &v1::PodSandboxStatsFilter) -> Vec<v1::PodSandboxStats> {
    let records = daemon.store.sandboxes.all();
    let records: Vec<_> = records
        .iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() == SandboxPhase::Ready && wanted(record, filter))
        .collect();
    let stats = join_all(records.iter().map(|record| stats::sandbox(daemon, record))).await;
    stats
        .into_iter()
        .filter_map(std::result::Result::ok)
        .collect()
}

fn wanted(record: &SandboxRecord, filter: &v1::PodSandboxStatsFilter) -> bool {
    record.id.starts_with(&filter.id) && selected(&record.config().labels, &filter.label_selector)
}
