//! ReopenContainerLog.

use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_task_api::pb::shim;

use super::exec_sync::running;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// Lets the shim open the log again after a rotation.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse> {
    let record = running(daemon, &request.container_id)?;
    if record.log_path.is_empty() {
        return Err(Error::State(format!("container {} has no log", record.id)));
    }
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let reopen = shim::ReopenLogRequest {
        id: record.id.clone(),
        path: String::new(),
    };
    client
        .reopen_log(&reopen)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(v1::ReopenContainerLogResponse {})
}
