//! CheckpointContainer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1;

use crate::checkpoint;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::store::ContainerPhase;

/// Where no time-out is given.
const PATIENCE: Duration = Duration::from_mins(10);

/// Writes a checkpoint of a running container, which runs on, to an archive on this machine. A
/// container is created from it by naming the archive as its image.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse> {
    let location = Path::new(&request.location);
    if !location.is_absolute() || location.is_dir() {
        return Err(Error::invalid(format!(
            "location {:?} is not the absolute path of a file to write",
            request.location
        )));
    }
    let within = match u64::try_from(request.timeout) {
        Ok(0) => PATIENCE,
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let why = format!("timeout {} is negative", request.timeout);
            return Err(Error::invalid(why));
        }
    };
    let entry = daemon.container(&request.container_id)?;
    let _guard = entry.lock.lock().await;
    let record = entry.get();
    if record.phase() != ContainerPhase::Running {
        let (id, phase) = (&record.id, record.phase());
        return Err(Error::State(format!(
            "container {id} is {phase}, not running"
        )));
    }
    checkpoint::save(daemon, &record, location, within).await?;
    Ok(v1::CheckpointContainerResponse {})
}
