//! PortForward.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::store::SandboxPhase;

/// A URL at which ports of the pod are forwarded once.
pub async fn handle(
    daemon: &Arc<Daemon>,
    mut request: v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse> {
    let record = daemon.sandbox(&request.pod_sandbox_id)?.get();
    if record.phase() != SandboxPhase::Ready {
        return Err(Error::State(format!(
            "pod sandbox {} is not ready",
            record.id
        )));
    }
    if let Some(port) = request.port.iter().find(|p| !(1..=65535).contains(*p)) {
        return Err(Error::invalid(format!(
            "port {port} is not between 1 and 65535"
        )));
    }
    request.pod_sandbox_id.clone_from(&record.id);
    let url = daemon.streaming()?.port_forward_url(request)?;
    Ok(v1::PortForwardResponse { url })
}
