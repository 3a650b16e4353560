//! `rrun.shim.v1.Shim`: what rrun-cri needs besides the Task API.

use super::{empty, now, open};
use crate::attach::{Attach, PATIENCE, Wants};
use crate::io::{Stdio, at};
use crate::machine::{Ask, Verdict};
use crate::ops::{Kind, gone};
use crate::poll::{Key, Timer};
use crate::server::{Answer, Call, Reply, Shim};
use crate::stats;
use rrun_task_api::Status;
use rrun_task_api::pb::shim;
use rrun_task_api::time::from_nanos;
use std::path::{Path, PathBuf};

impl Shim {
    /// Handles a request of our own service.
    pub fn own(&mut self, call: &Call) -> Answer {
        match call.request.method.as_str() {
            "ReopenLog" => self.reopen_log(&open(call)?),
            "Attach" => self.attach(&open(call)?),
            "Exec" => self.exec_attached(call, open(call)?),
            "ExecSync" => self.exec_sync(call, &open(call)?),
            "Probe" => self.probe(call, open(call)?),
            "StopProbe" => self.stop_probe(&open(call)?),
            "Status" => self.status(&open(call)?),
            "Usage" => self.usage(&open(call)?),
            other => Err(Status::unimplemented(format!(
                "the shim has no method {other:?}"
            ))),
        }
    }

    fn reopen_log(&mut self, request: &shim::ReopenLogRequest) -> Answer {
        let path = Some(Path::new(&request.path)).filter(|path| !path.as_os_str().is_empty());
        if path.is_some_and(|path| !path.is_absolute()) {
            return Err(Status::invalid(format!(
                "log path {:?} is not absolute",
                request.path
            )));
        }
        let process = self.process(&request.id, "")?;
        let log = process.io.log.as_mut().ok_or_else(|| {
            Status::precondition(format!("stdout of {:?} is not a cri-log", request.id))
        })?;
        let shown = path.unwrap_or(log.path()).to_owned();
        log.reopen(path).map_err(at("open log", &shown))?;
        empty()
    }

    fn attach(&mut self, request: &shim::AttachRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        let wants = Wants {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let path = self.listen_for_client(key, wants)?;
        let terminal = self.processes.get(&key).is_some_and(|p| p.stdio.terminal);
        now(&shim::AttachResponse {
            path: path.display().to_string(),
            terminal,
        })
    }

    /// Makes a socket for one attached client.
    fn listen_for_client(&mut self, key: Key, wants: Wants) -> Result<PathBuf, Status> {
        let id = self.new_key();
        let path = self.socket_path('a', id);
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let io = &process.io;
        if !io.shows_output() {
            let why = if process.life.has_ended() {
                "its output has ended"
            } else {
                "its output does not pass the shim (FIFO or binary logging)"
            };
            return Err(Status::precondition(format!(
                "cannot attach to {:?}: {why}",
                process.event_id()
            )));
        }
        if wants.stdin && !io.takes_input() && !process.life.has_ended() {
            return Err(Status::precondition(format!(
                "cannot attach to the standard input of {:?}: it has none, or it was closed",
                process.event_id()
            )));
        }
        let sole = io.is_attach_only();
        if sole && self.attaches.values().any(|attach| attach.process == key) {
            return Err(Status::precondition("somebody is attached already"));
        }
        let attach = Attach::listen(id, key, wants, sole, path.clone(), &self.poller)
            .map_err(at("listen for an attached client on", &path))?;
        self.attaches.insert(id, attach);
        self.poller.after(PATIENCE, Timer::AttachExpires(id));
        Ok(path)
    }

    fn exec_attached(&mut self, call: &Call, mut request: shim::ExecRequest) -> Answer {
        if request.exec_id.is_empty() {
            request.exec_id = format!("exec-{}", self.new_key());
        }
        let uri = |wanted: bool| {
            if wanted {
                "attach:".to_owned()
            } else {
                String::new()
            }
        };
        let stdio = Stdio {
            terminal: request.terminal,
            stdin: uri(request.stdin),
            stdout: uri(request.stdout),
            stderr: uri(request.stderr && !request.terminal),
        };
        let added = self.add_exec(&request.id, &request.exec_id, &request.process, stdio)?;
        let Some(key) = added else {
            return Ok(Reply::Later);
        };
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        if request.width > 0 && request.height > 0 {
            process.io.size = Some((request.width, request.height));
        }
        if process.life.ask(Ask::Start) != Verdict::Go {
            return Err(Status::internal("a new exec cannot be started"));
        }
        self.exec_added(&request.id, &request.exec_id);
        let wants = Wants {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let started = self.run_attached(call, key, wants);
        if started.is_err() {
            self.forget_exec(key);
        }
        started
    }

    fn run_attached(&mut self, call: &Call, key: Key, wants: Wants) -> Answer {
        let id = self.new_key();
        let path = self.socket_path('a', id);
        let attach = Attach::listen(id, key, wants, true, path.clone(), &self.poller)
            .map_err(at("listen for an attached client on", &path))?;
        self.attaches.insert(id, attach);
        self.poller.after(PATIENCE, Timer::AttachExpires(id));
        self.run_exec(key, call.caller, Kind::Exec(Some(path)))?;
        Ok(Reply::Pending)
    }

    fn status(&mut self, request: &shim::StatusRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        let container = self.container_of(key)?;
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let exit = process.life.exit();
        let at = |nanos: u64| (nanos != 0).then(|| from_nanos(nanos));
        now(&shim::StatusResponse {
            id: request.id.clone(),
            bundle: container.bundle.display().to_string(),
            status: process.life.shown().into(),
            pid: process.pid,
            start_time: process.start_time,
            created_at: at(process.created_at),
            started_at: at(process.started_at),
            exited_at: exit.and_then(|exit| at(exit.at)),
            exit_status: exit.map_or(0, |exit| exit.code),
            signal: exit.map_or(0, |exit| exit.signal),
            oom_killed: container.oom_killed,
            terminal: process.stdio.terminal,
            execs: container.execs.keys().cloned().collect(),
            log_dropped: process.io.log.as_ref().map_or(0, crate::log::Log::dropped),
        })
    }

    fn usage(&mut self, request: &shim::UsageRequest) -> Answer {
        let key = self.find(&request.id, "")?;
        now(&stats::usage(&self.container_of(key)?.cgroup))
    }
}
