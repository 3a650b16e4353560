//! Translation between the RPCs and what the shim does.

mod own;
pub mod probe;
pub mod sandbox;
mod start;
mod sync;

use crate::container::Process;
use crate::machine::{Ask, Phase, Verdict};
use crate::ops::{Kind, gone, text};
use crate::poll::Key;
use crate::runtime::{Fds, checkpoint_flags};
use crate::server::{Answer, Call, Reply, Shim, forget};
use crate::stats;
use crate::stdin::Flow;
use rrun_sys::process::pidfd_signal;
use rrun_task_api::any::{self, CHECKPOINT_OPTIONS};
use rrun_task_api::pb::runc::{CheckpointOptions, ProcessDetails};
use rrun_task_api::pb::task_types::ProcessInfo;
use rrun_task_api::pb::{events, task};
use rrun_task_api::prost::Message;
use rrun_task_api::service::{EVENTS, SANDBOX, SHIM, TASK_V2, TASK_V3};
use rrun_task_api::{Code, Status};
use rustix::fd::AsFd;
use rustix::io::Errno;

/// Decodes a request's message.
fn open<M: Message + Default>(call: &Call) -> Result<M, Status> {
    M::decode(&call.request.payload[..])
        .map_err(|e| Status::invalid(format!("{} request: {e}", call.request.method)))
}

/// An answer now.
#[allow(clippy::unnecessary_wraps, reason = "the type of every handler")]
fn now(message: &impl Message) -> Answer {
    Ok(Reply::Now(message.encode_to_vec()))
}

/// The answer of the RPCs that have nothing to say.
#[allow(clippy::unnecessary_wraps, reason = "the type of every handler")]
fn empty() -> Answer {
    Ok(Reply::Now(Vec::new()))
}

/// Returns early when the life cycle says that it is too early, or no.
macro_rules! ask {
    ($process:expr, $ask:expr) => {
        match $process.life.ask($ask) {
            Verdict::Go => {}
            Verdict::Later => return Ok(Reply::Later),
            Verdict::Refused(status) => return Err(status),
        }
    };
}
pub(crate) use ask;

impl Shim {
    /// Handles a request of any service.
    pub fn dispatch(&mut self, call: &Call) -> Answer {
        match call.request.service.as_str() {
            TASK_V2 | TASK_V3 => self.task(call),
            SHIM => self.own(call),
            SANDBOX => self.sandbox_api(call),
            EVENTS => self.event_of_peer(call),
            other => Err(Status::unimplemented(format!("no service {other:?} here"))),
        }
    }

    fn task(&mut self, call: &Call) -> Answer {
        if let Some(answer) = self.task_of_peer(call) {
            return answer;
        }
        match call.request.method.as_str() {
            "State" => self.state(&open(call)?),
            "Create" => self.create(call, &open(call)?),
            "Start" => self.start(call, &open(call)?),
            "Delete" => self.delete(call, &open(call)?),
            "Pids" => self.pids(&open(call)?),
            "Pause" => {
                let task::PauseRequest { id } = open(call)?;
                self.freeze(call, &id, true)
            }
            "Resume" => {
                let task::ResumeRequest { id } = open(call)?;
                self.freeze(call, &id, false)
            }
            "Checkpoint" => self.checkpoint(call, &open(call)?),
            "Kill" => self.kill(call, &open(call)?),
            "Exec" => self.exec(&open(call)?),
            "ResizePty" => self.resize(&open(call)?),
            "CloseIO" => self.close_io(&open(call)?),
            "Update" => self.update(call, &open(call)?),
            "Wait" => self.wait(call, &open(call)?),
            "Stats" => self.stats(&open(call)?),
            "Connect" => self.connect(&open(call)?),
            "Shutdown" => self.shutdown(&open(call)?),
            other => Err(Status::unimplemented(format!(
                "the Task API has no method {other:?}"
            ))),
        }
    }

    /// Number of a container's first process, or of an exec.
    pub fn find(&self, id: &str, exec_id: &str) -> Result<Key, Status> {
        let container = self
            .containers
            .get(id)
            .ok_or_else(|| Status::not_found(format!("container {id:?} not found in this shim")))?;
        if exec_id.is_empty() {
            return Ok(container.init);
        }
        container
            .execs
            .get(exec_id)
            .copied()
            .ok_or_else(|| Status::not_found(format!("exec {exec_id:?} of {id:?} not found")))
    }

    /// A process by its ids.
    pub fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process, Status> {
        let key = self.find(id, exec_id)?;
        self.processes.get_mut(&key).ok_or_else(gone)
    }

    fn state(&mut self, request: &task::StateRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        let bundle = self.container_of(key)?.bundle.display().to_string();
        now(&self.processes.get(&key).ok_or_else(gone)?.state(bundle))
    }

    fn delete(&mut self, call: &Call, request: &task::DeleteRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        ask!(process, Ask::Delete);
        if process.exec_id.is_empty() {
            let args = ["delete", "--force", &request.id];
            let started = self.start_op(Kind::Delete, key, Some(call.caller), &args, Fds::None);
            return self.pending(key, started);
        }
        self.delete_exec(key)
    }

    /// Forgets an exec that has ended, and says how.
    pub fn delete_exec(&mut self, key: Key) -> Answer {
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let (exit_status, exited_at) = process.exit_status();
        let pid = process.pid;
        forget(&self.spec_file(key)?);
        self.forget_exec(key);
        now(&task::DeleteResponse {
            pid,
            exit_status,
            exited_at,
        })
    }

    /// An answer that comes with a program's end; the phase goes back if it could not start.
    fn pending(&mut self, key: Key, started: Result<(), Status>) -> Answer {
        if let Err(error) = started {
            if let Some(process) = self.processes.get_mut(&key) {
                process.life.done(false);
            }
            return Err(error);
        }
        Ok(Reply::Pending)
    }

    fn pids(&mut self, request: &task::PidsRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        let container = self.container_of(key)?;
        let mut pids = container.cgroup.pids();
        let init = self.processes.get(&key).filter(|p| p.pid != 0);
        if pids.is_empty() {
            // Also that of one that has ended and was not deleted, as ps(1) lists a zombie: a task
            // without processes is what containerd 2, as it starts, throws away with its exit.
            pids.extend(init.map(|process| process.pid));
        }
        let exec_of = |pid: u32| {
            container.execs.iter().find_map(|(id, key)| {
                let process = self.processes.get(key)?;
                (process.pid == pid && process.is_alive()).then(|| id.clone())
            })
        };
        let info = |pid: u32| ProcessInfo {
            pid,
            info: exec_of(pid).map(|exec_id| {
                any::pack(
                    "containerd.runc.v1.ProcessDetails",
                    &ProcessDetails { exec_id },
                )
            }),
        };
        now(&task::PidsResponse {
            processes: pids.into_iter().map(info).collect(),
        })
    }

    fn freeze(&mut self, call: &Call, id: &str, freeze: bool) -> Answer {
        let key = self.find(id, "")?;
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        ask!(process, if freeze { Ask::Pause } else { Ask::Resume });
        let (kind, verb) = if freeze {
            (Kind::Pause, "pause")
        } else {
            (Kind::Resume, "resume")
        };
        let started = self.start_op(kind, key, Some(call.caller), &[verb, id], Fds::None);
        self.pending(key, started)
    }

    fn checkpoint(&mut self, call: &Call, request: &task::CheckpointTaskRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        ask!(
            self.processes.get_mut(&key).ok_or_else(gone)?,
            Ask::Checkpoint
        );
        let options = match &request.options {
            Some(options) if any::is(options, CHECKPOINT_OPTIONS) => {
                CheckpointOptions::decode(&options.value[..])
                    .map_err(|e| Status::invalid(format!("checkpoint options: {e}")))?
            }
            _ => CheckpointOptions::default(),
        };
        let path = if request.path.is_empty() {
            &options.image_path
        } else {
            &request.path
        };
        let flags = checkpoint_flags(&options);
        let mut args = vec!["checkpoint", "--image-path", path];
        args.extend(flags.iter().map(String::as_str));
        args.push(&request.id);
        let kind = Kind::Checkpoint(path.clone());
        self.start_op(kind, key, Some(call.caller), &args, Fds::None)?;
        Ok(Reply::Pending)
    }

    fn kill(&mut self, call: &Call, request: &task::KillRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        ask!(process, Ask::Kill);
        let direct = !request.all && process.life.phase() != Phase::Paused;
        let Some(pidfd) = &process.pidfd else {
            return Err(finished());
        };
        if request.all && !process.exec_id.is_empty() && process.pid > 0 {
            // It leads a process group, for it began a session: with it goes what it left in the
            // background. It is not waited for yet, so that its number is nobody else's.
            let group = -(process.pid as i32);
            let _ = rrun_sys::process::kill(group, request.signal as i32);
        }
        if direct || !process.exec_id.is_empty() {
            let signal = i32::try_from(request.signal).unwrap_or(-1);
            return match pidfd_signal(pidfd.as_fd(), signal).map_err(|e| e.errno()) {
                Ok(()) => empty(),
                Err(errno) if errno == Errno::SRCH.into() => Err(finished()),
                Err(errno) if errno == Errno::INVAL.into() => Err(Status::invalid(format!(
                    "there is no signal {}",
                    request.signal
                ))),
                Err(errno) => Err(Status::internal(format!(
                    "send signal {} to {:?}: {errno}",
                    request.signal,
                    process.event_id()
                ))),
            };
        }
        let cgroup = &self.container_of(key)?.cgroup;
        if request.all && !cgroup.is_empty() {
            let signal = request.signal as i32;
            let has_strayed = !cgroup.pids().contains(&self.pid_of(key));
            cgroup.signal(signal);
            if has_strayed {
                // Somebody moved it, and may have removed its cgroup.
                let pidfd = self.process(&request.id, "")?.pidfd.as_ref();
                let _ = pidfd.map(|pidfd| pidfd_signal(pidfd.as_fd(), signal));
            }
            return empty();
        }
        // A paused container's signals are the runtime's business: it may have to thaw it.
        let number = request.signal.to_string();
        let args = ["kill", request.id.as_str(), &number];
        self.start_op(Kind::Other, key, Some(call.caller), &args, Fds::None)?;
        Ok(Reply::Pending)
    }

    fn resize(&mut self, request: &task::ResizePtyRequest) -> Answer {
        let process = self.process(&request.id, &request.exec_id)?;
        process.io.size = Some((request.width, request.height));
        if let Some(master) = &process.io.master {
            crate::console::resize(master, request.width, request.height)
                .map_err(|e| Status::internal(format!("resize the terminal: {e}")))?;
        }
        empty()
    }

    fn close_io(&mut self, request: &task::CloseIoRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        let terminal = self.processes.get(&key).is_some_and(|p| p.stdio.terminal);
        if request.stdin && !terminal {
            let is_ours = self
                .processes
                .get(&key)
                .is_some_and(|p| p.io.stdin.is_some());
            let _: Flow = self.with_stdin(key, super::stdin::Stdin::close);
            if !is_ours {
                self.close_peers_stdin(key);
            }
        }
        empty()
    }

    fn update(&mut self, call: &Call, request: &task::UpdateTaskRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        ask!(self.processes.get_mut(&key).ok_or_else(gone)?, Ask::Update);
        let resources = request
            .resources
            .as_ref()
            .ok_or_else(|| Status::invalid("Update request without resources"))?;
        let file = self.container_of(key)?.bundle.join(".resources.json");
        std::fs::write(&file, &resources.value)
            .map_err(|e| Status::internal(format!("write {}: {e}", file.display())))?;
        let args = ["update", "--resources", text(&file)?, &request.id];
        self.start_op(Kind::Other, key, Some(call.caller), &args, Fds::None)?;
        Ok(Reply::Pending)
    }

    fn wait(&mut self, call: &Call, request: &task::WaitRequest) -> Answer {
        let process = self.process(&request.id, &request.exec_id)?;
        if process.life.exit().is_none() {
            process.waiters.push(call.caller);
            return Ok(Reply::Pending);
        }
        let (exit_status, exited_at) = process.exit_status();
        now(&task::WaitResponse {
            exit_status,
            exited_at,
        })
    }

    fn stats(&mut self, request: &task::StatsRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        let container = self.container_of(key)?;
        if self
            .processes
            .get(&key)
            .is_none_or(|process| process.pidfd.is_none())
        {
            return Err(Status::precondition(format!(
                "container {:?} is stopped",
                request.id
            )));
        }
        now(&task::StatsResponse {
            stats: Some(stats::metrics(&container.cgroup)?),
        })
    }

    fn connect(&mut self, request: &task::ConnectRequest) -> Answer {
        let task_pid = self.find(&request.id, "").map_or(0, |key| self.pid_of(key));
        now(&task::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn shutdown(&mut self, request: &task::ShutdownRequest) -> Answer {
        if self.containers.is_empty() || request.now {
            self.ending = true;
        }
        empty()
    }

    fn exec_added(&mut self, container_id: &str, exec_id: &str) {
        let event = events::TaskExecAdded {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        self.publish("exec-added", &event);
    }
}

/// containerd and Docker know this text.
fn finished() -> Status {
    Status::not_found("process already finished")
}

/// The refusal of an id that is taken.
fn taken(what: &str, id: &str) -> Status {
    Status::new(Code::AlreadyExists, format!("{what} {id:?} already exists"))
}
