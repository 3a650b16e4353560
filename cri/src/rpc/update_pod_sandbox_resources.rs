//! UpdatePodSandboxResources.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// Not there yet.
pub async fn handle(
    _: &Arc<Daemon>,
    _: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse> {
    Err(Error::Unimplemented("UpdatePodSandboxResources"))
}
