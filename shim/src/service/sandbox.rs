//! The Sandbox API: a group of tasks that share this shim. The sandbox itself has no process: its
//! namespaces are the caller's, and the shim is what stands for it.

use super::{empty, now, open};
use crate::container::Caller;
use crate::server::{Answer, Call, Reply, Shim};
use rrun_task_api::Status;
use rrun_task_api::pb::sandbox as pb;
use rrun_task_api::pb::types::Platform;
use rrun_task_api::prost::Message;
use rrun_task_api::time::{from_nanos, now_nanos};

/// A sandbox, from its creation to the end of the shim.
pub struct Sandbox {
    id: String,
    created_at: u64,
    phase: Phase,
    waiters: Vec<Caller>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Ready,
    /// At this time, in nanoseconds since the epoch.
    Stopped(u64),
}

impl Sandbox {
    fn wait_answer(&self) -> Option<Vec<u8>> {
        let Phase::Stopped(at) = self.phase else {
            return None;
        };
        let exited_at = Some(from_nanos(at));
        Some(
            pb::WaitSandboxResponse {
                exit_status: 0,
                exited_at,
            }
            .encode_to_vec(),
        )
    }

    /// A connection has ended: nobody there waits any more.
    pub fn forget_conn(&mut self, conn: u32) {
        self.waiters.retain(|caller| caller.conn != conn);
    }
}

impl Shim {
    /// Handles a request of the Sandbox API.
    pub fn sandbox_api(&mut self, call: &Call) -> Answer {
        match call.request.method.as_str() {
            "CreateSandbox" => self.create_sandbox(open(call)?),
            "StartSandbox" => self.start_sandbox(&open(call)?),
            "Platform" => now(&platform()),
            "StopSandbox" => self.stop_sandbox(&open(call)?),
            "WaitSandbox" => self.wait_sandbox(call, &open(call)?),
            "SandboxStatus" => self.sandbox_status(&open(call)?),
            "PingSandbox" => {
                let pb::PingRequest { sandbox_id } = open(call)?;
                self.sandbox(&sandbox_id)?;
                empty()
            }
            "ShutdownSandbox" => self.shutdown_sandbox(&open(call)?),
            other => Err(Status::unimplemented(format!(
                "no method {other:?} of sandboxes"
            ))),
        }
    }

    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Status> {
        self.sandbox
            .as_mut()
            .filter(|sandbox| sandbox.id == id)
            .ok_or_else(|| Status::not_found(format!("sandbox {id:?} not found in this shim")))
    }

    fn create_sandbox(&mut self, request: pb::CreateSandboxRequest) -> Answer {
        if let Some(sandbox) = &self.sandbox {
            return Err(super::taken("sandbox", &sandbox.id));
        }
        self.sandbox = Some(Sandbox {
            id: request.sandbox_id,
            created_at: now_nanos(),
            phase: Phase::Created,
            waiters: Vec::new(),
        });
        empty()
    }

    fn start_sandbox(&mut self, request: &pb::StartSandboxRequest) -> Answer {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        if sandbox.phase != Phase::Created {
            return Err(Status::precondition("the sandbox was started already"));
        }
        sandbox.phase = Phase::Ready;
        let created_at = Some(from_nanos(sandbox.created_at));
        now(&pb::StartSandboxResponse {
            pid: std::process::id(),
            created_at,
            spec: None,
        })
    }

    /// The caller stops the tasks first; what it left is killed.
    fn stop_sandbox(&mut self, request: &pb::StopSandboxRequest) -> Answer {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        if !matches!(sandbox.phase, Phase::Stopped(_)) {
            sandbox.phase = Phase::Stopped(now_nanos());
        }
        let waiters = std::mem::take(&mut sandbox.waiters);
        let answer = sandbox.wait_answer().unwrap_or_default();
        for container in self.containers.values() {
            container.cgroup.kill();
        }
        for caller in waiters {
            self.answer(caller, Ok(answer.clone()));
        }
        empty()
    }

    fn wait_sandbox(&mut self, call: &Call, request: &pb::WaitSandboxRequest) -> Answer {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        if let Some(answer) = sandbox.wait_answer() {
            return Ok(Reply::Now(answer));
        }
        sandbox.waiters.push(call.caller);
        Ok(Reply::Pending)
    }

    fn sandbox_status(&mut self, request: &pb::SandboxStatusRequest) -> Answer {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        let (state, exited_at) = match sandbox.phase {
            Phase::Created => ("SANDBOX_NOTREADY", None),
            Phase::Ready => ("SANDBOX_READY", None),
            Phase::Stopped(at) => ("SANDBOX_NOTREADY", Some(from_nanos(at))),
        };
        now(&pb::SandboxStatusResponse {
            sandbox_id: sandbox.id.clone(),
            pid: std::process::id(),
            state: state.to_owned(),
            created_at: Some(from_nanos(sandbox.created_at)),
            exited_at,
            ..Default::default()
        })
    }

    fn shutdown_sandbox(&mut self, request: &pb::ShutdownSandboxRequest) -> Answer {
        self.sandbox(&request.sandbox_id)?;
        if !self.containers.is_empty() {
            return Err(Status::precondition(format!(
                "sandbox {:?} still has {} containers; delete them first",
                request.sandbox_id,
                self.containers.len()
            )));
        }
        self.ending = true;
        empty()
    }
}

fn platform() -> pb::PlatformResponse {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = Platform {
        os: std::env::consts::OS.to_owned(),
        architecture: architecture.to_owned(),
        variant: String::new(),
    };
    pb::PlatformResponse {
        platform: Some(platform),
    }
}
