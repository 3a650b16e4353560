//! `rrun.probe.v1.Probe`, served beside CRI: the shim runs a probe's command, and says when it fails.

use std::sync::Arc;

use rrun_cri_api::probe;
use rrun_cri_api::probe::probe_server::Probe;
use rrun_task_api::Code;
use rrun_task_api::client::Client;
use rrun_task_api::pb::shim;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::Service;
use super::exec_sync::running;
use crate::daemon::Daemon;
use crate::error::{Error, Result};

#[tonic::async_trait]
impl Probe for Service {
    async fn until_failure(
        &self,
        request: Request<probe::UntilFailureRequest>,
    ) -> Result<Response<probe::UntilFailureResponse>, Status> {
        let span = self.span("until_failure", &request);
        // Not among the calls that are timed: how long it takes says nothing about this daemon.
        let work = handle(&self.0, request.into_inner()).instrument(span);
        Ok(Response::new(work.await?))
    }
}

async fn handle(
    daemon: &Arc<Daemon>,
    request: probe::UntilFailureRequest,
) -> Result<probe::UntilFailureResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty"));
    }
    if request.period == 0 {
        return Err(Error::invalid("period is 0"));
    }
    let record = running(daemon, &request.container_id)?;
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let command = shim::ExecSyncRequest {
        id: record.id.clone(),
        exec_id: daemon.shims.exec_id(),
        args: request.cmd,
        timeout: request.timeout,
    };
    let mut stops = Stops {
        client: client.clone(),
        request: Some(shim::StopProbeRequest {
            id: command.id.clone(),
            exec_id: command.exec_id.clone(),
        }),
    };
    let asked = shim::ProbeRequest {
        command: Some(command),
        delay: request.delay,
        period: request.period,
    };
    let answered = client.probe(&asked).await;
    stops.request = None;
    answer(answered)
}

fn answer(
    answered: Result<shim::ProbeResponse, rrun_task_api::client::Error>,
) -> Result<probe::UntilFailureResponse> {
    let answer = answered.map_err(|error| match error.status().map(|s| s.code) {
        // Another shim runs the container, or ours is of a version before this.
        Some(Code::Unimplemented) => Error::Unimplemented(error.to_string()),
        Some(Code::FailedPrecondition | Code::NotFound) => Error::State(error.to_string()),
        _ => Error::Internal(error.into()),
    })?;
    let run = answer.run.unwrap_or_default();
    Ok(probe::UntilFailureResponse {
        stdout: run.stdout,
        stderr: run.stderr,
        exit_code: run.exit_status as i32,
        timed_out: run.timed_out,
        age: answer.age,
    })
}

/// Ends a probe whose caller has gone, for a call that is dropped.
struct Stops {
    client: Client,
    request: Option<shim::StopProbeRequest>,
}

impl Drop for Stops {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else {
            return;
        };
        let client = self.client.clone();
        tokio::spawn(async move {
            match client.stop_probe(&request).await {
                Err(error) if !error.is_gone() => {
                    tracing::warn!(container = request.id, "stop a probe: {error}");
                }
                _ => {}
            }
        });
    }
}
