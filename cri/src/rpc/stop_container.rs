//! StopContainer.

use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1;

use crate::container;
use crate::daemon::Daemon;
use crate::error::Result;

/// Stops a container within the grace period. One that is gone, or has exited, is stopped.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse> {
    if let Some(entry) = daemon.store.containers.find(&request.container_id)? {
        // A start that is under way ends first.
        drop(entry.lock.lock().await);
        let grace = u64::try_from(request.timeout).unwrap_or(0);
        container::stop(daemon, &entry, Duration::from_secs(grace)).await?;
    }
    Ok(v1::StopContainerResponse {})
}
