//! What rrun-cri serves beside CRI: commands that run until they fail.

use std::time::Duration;

use rrun_cri_api::probe::probe_server::Probe;
use rrun_cri_api::probe::{UntilFailureRequest, UntilFailureResponse};
use rrun_cri_api::v1 as cri;
use tonic::{Request, Response, Status};

use super::Fake;

#[tonic::async_trait]
impl Probe for Fake {
    async fn until_failure(
        &self,
        request: Request<UntilFailureRequest>,
    ) -> Result<Response<UntilFailureResponse>, Status> {
        let request = request.into_inner();
        let word = request.cmd.first().cloned().unwrap_or_default();
        if word.is_empty() || request.period == 0 {
            return Err(Status::invalid_argument("no command, or no period"));
        }
        tokio::time::sleep(Duration::from_nanos(request.delay)).await;
        loop {
            let code = self.once(&request.container_id, &word)?;
            if code != 0 {
                return Ok(Response::new(UntilFailureResponse {
                    stderr: b"said no".to_vec(),
                    exit_code: code,
                    ..Default::default()
                }));
            }
            tokio::time::sleep(Duration::from_nanos(request.period)).await;
        }
    }
}

impl Fake {
    fn once(&self, id: &str, word: &str) -> Result<i32, Status> {
        let mut world = self.world.lock().unwrap();
        if !world.repeats {
            return Err(Status::unimplemented("another shim runs the container"));
        }
        let found = world.containers.get(id).map(cri::ContainerStatus::state);
        match found {
            None => return Err(Status::not_found(id)),
            Some(cri::ContainerState::ContainerRunning) => {}
            Some(_) => return Err(Status::failed_precondition("it does not run")),
        }
        world.calls.push(format!("repeat {word}"));
        Ok(world.commands.get(word).copied().unwrap_or(0))
    }
}
