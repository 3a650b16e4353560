//! CheckpointContainer.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// Not there yet.
pub async fn handle(
    _: &Arc<Daemon>,
    _: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse> {
    Err(Error::Unimplemented("CheckpointContainer"))
}
