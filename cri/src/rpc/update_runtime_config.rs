//! UpdateRuntimeConfig: the kubelet tells the pod CIDR.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::Result;

/// Hands a CIDR to the network; an empty one changes nothing.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|c| c.network_config);
    if let Some(network) = network.filter(|n| !n.pod_cidr.is_empty()) {
        daemon.network.set_pod_cidr(&network.pod_cidr).await?;
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
