//! Exec.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::exec_sync::running;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// A URL at which the command runs once.
pub async fn handle(
    daemon: &Arc<Daemon>,
    mut request: v1::ExecRequest,
) -> Result<v1::ExecResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty"));
    }
    if !request.stdin && !request.stdout && !request.stderr {
        return Err(Error::invalid(
            "one of stdin, stdout and stderr must be set",
        ));
    }
    if request.tty && request.stderr {
        return Err(Error::invalid("a terminal has no stderr of its own"));
    }
    let record = running(daemon, &request.container_id)?;
    request.container_id.clone_from(&record.id);
    let url = daemon.streaming()?.exec_url(request)?;
    Ok(v1::ExecResponse { url })
}
