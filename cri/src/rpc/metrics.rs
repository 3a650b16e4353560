//! ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics.

use std::sync::Arc;

use futures_util::future::join_all;
use rrun_cri_api::v1;

use super::{Items, chunks};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::stats::metrics;
use crate::store::SandboxPhase;

/// StreamPodSandboxMetrics: in pieces.
pub async fn stream(
    daemon: &Arc<Daemon>,
    _: v1::StreamPodSandboxMetricsRequest,
) -> Result<Items<v1::StreamPodSandboxMetricsResponse>> {
    let all = all(daemon).await;
    Ok(chunks(&all, |pod_sandbox_metrics| {
        v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}

/// ListMetricDescriptors.
pub mod descriptors {
    use super::{Arc, Daemon, Result, metrics, v1};

    /// What ListPodSandboxMetrics may have.
    pub async fn handle(
        _: &Arc<Daemon>,
        _: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse> {
        Ok(v1::ListMetricDescriptorsResponse {
            descriptors: metrics::descriptors(),
        })
    }
}

/// ListPodSandboxMetrics.
pub mod pods {
    use super::{Arc, Daemon, Result, all, v1};

    /// The metrics of every ready pod and its running containers.
    pub async fn handle(
        daemon: &Arc<Daemon>,
        _: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse> {
        Ok(v1::ListPodSandboxMetricsResponse {
            pod_metrics: all(daemon).await,
        })
    }
}

async fn all(daemon: &Arc<Daemon>) -> Vec<v1::PodSandboxMetrics> {
    let records = daemon.store.sandboxes.all();
    let records: Vec<_> = records
        .iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() == SandboxPhase::Ready)
        .collect();
    let pods = join_all(records.iter().map(|record| metrics::pod(daemon, record))).await;
    // One that ends meanwhile has no metrics, and is no reason to tell nothing of the others.
    pods.into_iter()
        .filter_map(std::result::Result::ok)
        .collect()
}
