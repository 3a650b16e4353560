//! ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics: not there yet.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::Items;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// StreamPodSandboxMetrics.
pub async fn stream(
    _: &Arc<Daemon>,
    _: v1::StreamPodSandboxMetricsRequest,
) -> Result<Items<v1::StreamPodSandboxMetricsResponse>> {
    Err(Error::Unimplemented("StreamPodSandboxMetrics"))
}

/// ListMetricDescriptors.
pub mod descriptors {
    use super::{Arc, Daemon, Error, Result, v1};

    /// Not there yet.
    pub async fn handle(
        _: &Arc<Daemon>,
        _: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse> {
        Err(Error::Unimplemented("ListMetricDescriptors"))
    }
}

/// ListPodSandboxMetrics.
pub mod pods {
    use super::{Arc, Daemon, Error, Result, v1};

    /// Not there yet.
    pub async fn handle(
        _: &Arc<Daemon>,
        _: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse> {
        Err(Error::Unimplemented("ListPodSandboxMetrics"))
    }
}
