//! Attach.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::exec_sync::running;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// A URL at which the container's stdio is attached once.
pub async fn handle(
    daemon: &Arc<Daemon>,
    mut request: v1::AttachRequest,
) -> Result<v1::AttachResponse> {
    if !request.stdin && !request.stdout && !request.stderr {
        return Err(Error::invalid(
            "one of stdin, stdout and stderr must be set",
        ));
    }
    if request.tty && request.stderr {
        return Err(Error::invalid("a terminal has no stderr of its own"));
    }
    let record = running(daemon, &request.container_id)?;
    if record.config().tty != request.tty {
        return Err(Error::invalid(format!(
            "tty is {}, but the container was made with {}",
            request.tty,
            record.config().tty
        )));
    }
    request.container_id.clone_from(&record.id);
    let url = daemon.streaming()?.attach_url(request)?;
    Ok(v1::AttachResponse { url })
}
