//! Runtime programs in flight: started by a request, ended by an event.

use crate::cgroup::Cgroup;
use crate::command::{not_started, refusal};
use crate::container::Caller;
use crate::enter::Entering;
use crate::exits;
use crate::io::{at, failed};
use crate::oom;
use crate::peer::Starting;
use crate::poll::{Interest, Key, Token};
use crate::rootfs;
use crate::runtime::{Fds, Run};
use crate::server::{Shim, forget};
use crate::spawn::{self, Ended};
use rrun_task_api::Status;
use rrun_task_api::pb::{events, shim, task};
use rrun_task_api::prost::Message;
use rrun_task_api::time::now_nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::path::{Path, PathBuf};

/// What a program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Make the container.
    Create,
    /// Run its first process.
    Start,
    /// Bring its processes back from a checkpoint.
    Restore,
    /// Run an exec, and for [`shim::ExecRequest`] say where to attach.
    Exec(Option<PathBuf>),
    /// Run a command for a call that waits for its end.
    Command,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Write a checkpoint here.
    Checkpoint(String),
    /// Remove.
    Delete,
    /// Anything that changes no phase.
    Other,
    /// Add an exec at another shim; what is to be done then.
    Adding(Box<Kind>),
    /// Wait for the end of another shim's process.
    Waiting,
    /// Anything whose answer is handed on.
    Forward,
    /// Anything whose answer nobody waits for.
    Told,
}

/// What is in flight.
enum Work {
    /// A program of the runtime's.
    Program(Run),
    /// An exec of our own.
    Entering(Entering),
    /// Another shim's `start`.
    Starting(Box<Starting>),
    /// A call of another shim.
    Call,
}

/// A program in flight.
pub struct Op {
    work: Work,
    kind: Kind,
    process: Key,
    caller: Option<Caller>,
}

impl Op {
    /// Whether a child of ours comes of it that we do not know yet.
    pub fn makes_process(&self) -> bool {
        matches!(self.work, Work::Program(_) | Work::Entering(_))
            && matches!(
                self.kind,
                Kind::Create | Kind::Restore | Kind::Exec(_) | Kind::Command
            )
    }

    /// Pid of the program itself.
    pub fn pid(&self) -> i32 {
        match &self.work {
            Work::Program(run) => run.child.pid.as_raw_nonzero().get(),
            Work::Entering(entering) => entering.pid,
            Work::Starting(starting) => starting.child.pid.as_raw_nonzero().get(),
            Work::Call => 0,
        }
    }

    /// A call of another shim.
    pub fn call(kind: Kind, process: Key, caller: Option<Caller>) -> Self {
        Self {
            work: Work::Call,
            kind,
            process,
            caller,
        }
    }

    /// What it was for.
    pub fn into_call(self) -> (Kind, Key, Option<Caller>) {
        (self.kind, self.process, self.caller)
    }
}

impl Shim {
    /// Starts a runtime command for a process.
    pub fn start_op(
        &mut self,
        kind: Kind,
        process: Key,
        caller: Option<Caller>,
        args: &[&str],
        fds: Fds<'_>,
    ) -> Result<(), Status> {
        let key = self.new_key();
        let container = self.container_of(process)?;
        let log = container.bundle.join(format!(".log-{key}.json"));
        let run = container.runtime.start(&log, args, fds)?;
        self.poller
            .add(&run.child.pidfd, Token::Op(key), Interest::IN)
            .map_err(failed("watch the runtime"))?;
        let work = Work::Program(run);
        self.ops.insert(
            key,
            Op {
                work,
                kind,
                process,
                caller,
            },
        );
        Ok(())
    }

    /// Waits for the report of a process that is on its way into the container.
    pub fn await_entry(
        &mut self,
        kind: Kind,
        process: Key,
        caller: Caller,
        entering: Entering,
    ) -> Result<(), Status> {
        let key = self.new_key();
        self.poller
            .add(&entering.report, Token::Op(key), Interest::IN)
            .map_err(failed("watch the exec"))?;
        let op = Op {
            work: Work::Entering(entering),
            kind,
            process,
            caller: Some(caller),
        };
        self.ops.insert(key, op);
        Ok(())
    }

    /// Waits for the end of another shim's `start`.
    pub fn await_peer(
        &mut self,
        process: Key,
        caller: Caller,
        starting: Starting,
    ) -> Result<(), Status> {
        let key = self.new_key();
        self.poller
            .add(&starting.child.pidfd, Token::Op(key), Interest::IN)
            .map_err(failed("watch a shim's start"))?;
        let op = Op {
            work: Work::Starting(Box::new(starting)),
            kind: Kind::Create,
            process,
            caller: Some(caller),
        };
        self.ops.insert(key, op);
        Ok(())
    }

    /// A program may have ended.
    pub fn on_op(&mut self, key: Key) {
        let Some(op) = self.ops.get(&key) else { return };
        let ended = match &op.work {
            Work::Program(run) => spawn::reap(&run.child.pidfd),
            Work::Starting(starting) => spawn::reap(&starting.child.pidfd),
            Work::Call => None,
            // Its report is there, or the end of it.
            Work::Entering(_) => Some(Ended::Code(0)),
        };
        let Some(ended) = ended else { return };
        let op = self.ops.remove(&key).expect("it was there a line ago");
        let Op {
            work,
            kind,
            process,
            caller,
        } = op;
        let result = match work {
            Work::Starting(starting) => {
                self.poller.remove(&starting.child.pidfd);
                let Err(error) = self.peer_started(process, caller, *starting, ended) else {
                    return;
                };
                Err(error)
            }
            work => self.finished(work, process, ended),
        };
        self.settle(kind, process, caller, result, ended);
    }

    /// What follows from the end of some work: the phase, an answer, an end that may be told now.
    pub fn settle(
        &mut self,
        kind: Kind,
        process: Key,
        caller: Option<Caller>,
        result: Result<(), Status>,
        ended: Ended,
    ) {
        let begins = matches!(
            kind,
            Kind::Create | Kind::Start | Kind::Restore | Kind::Exec(_) | Kind::Command
        );
        let answer = match kind {
            Kind::Create => self.created(process, result, ended),
            Kind::Start => self.started(process, result),
            Kind::Restore => {
                let adopted = result.and_then(|()| self.adopt_first(process));
                self.started(process, adopted)
            }
            Kind::Exec(path) => self.exec_started(process, result, path),
            Kind::Command => self.command_started(process, result).map(|()| Vec::new()),
            Kind::Delete => self.deleted(process, result),
            Kind::Pause | Kind::Resume => self.frozen(process, &kind, result),
            Kind::Checkpoint(path) => self.checkpointed(process, path, result),
            Kind::Other | Kind::Adding(_) | Kind::Waiting | Kind::Forward | Kind::Told => {
                result.map(|()| Vec::new())
            }
        };
        let ok = answer.is_ok();
        if let Some(caller) = caller {
            self.answer(caller, answer);
        }
        // An end that came before its beginning was told of is told now.
        if begins
            && self
                .processes
                .get_mut(&process)
                .is_some_and(|p| p.life.done(ok))
        {
            self.tell_exit(process);
        }
        self.retry_parked();
    }

    /// What came of work that has ended. A process of our own is adopted already.
    fn finished(&mut self, work: Work, process: Key, ended: Ended) -> Result<(), Status> {
        match work {
            Work::Program(run) => {
                self.poller.remove(&run.child.pidfd);
                if ended == Ended::Code(0) {
                    run.finish();
                    return Ok(());
                }
                Err(run.error(ended))
            }
            Work::Starting(_) | Work::Call => Ok(()),
            Work::Entering(entering) => {
                self.poller.remove(&entering.report);
                let Some(why) = refusal(entering.report) else {
                    let pid = Pid::from_raw(entering.pid).ok_or_else(gone)?;
                    return self.keep(process, pid, entering.pidfd);
                };
                spawn::wait_for(&entering.pidfd);
                Err(not_started(&why))
            }
        }
    }

    fn created(
        &mut self,
        key: Key,
        result: Result<(), Status>,
        ended: Ended,
    ) -> Result<Vec<u8>, Status> {
        if let Err(error) = result.and_then(|()| self.adopt_first(key)) {
            let made = matches!(ended, Ended::Signal(_)) || self.pid_of(key) != 0;
            if made && !self.is_peers(key) {
                self.remove_by_force(key);
            }
            self.forget_container(key);
            return Err(error);
        }
        self.publish_create(key)?;
        Ok(task::CreateTaskResponse {
            pid: self.pid_of(key),
        }
        .encode_to_vec())
    }

    /// Takes over a container's first process from the runtime.
    fn adopt_first(&mut self, key: Key) -> Result<(), Status> {
        self.on_console(key);
        if !self.is_peers(key) {
            self.adopt(key)?;
            let process = self.processes.get_mut(&key).ok_or_else(gone)?;
            process.start_time = exits::start_time(process.pid).unwrap_or(0);
        }
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let bundle = &self.container_of(key)?.bundle;
        exits::record_init(bundle, process.pid, process.start_time)
            .map_err(at("write down the first process in", bundle))?;
        self.watch_cgroup(key)
    }

    /// Tells of a container that was created.
    pub fn publish_create(&mut self, key: Key) -> Result<(), Status> {
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let io = events::TaskIo {
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
        };
        let container = self.container_of(key)?;
        let event = events::TaskCreate {
            container_id: process.container.clone(),
            bundle: container.bundle.display().to_string(),
            io: Some(io),
            checkpoint: container.checkpoint.clone(),
            pid: process.pid,
            ..Default::default()
        };
        self.publish("create", &event);
        Ok(())
    }

    /// Reads the pid of a process that the runtime left to us, and watches for its end.
    pub fn adopt(&mut self, key: Key) -> Result<(), Status> {
        let path = self.pid_file(key)?;
        let text = fs::read_to_string(&path).map_err(at("read", &path))?;
        forget(&path);
        let pid = text
            .trim()
            .parse()
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| {
                Status::internal(format!("{} holds no pid: {text:?}", path.display()))
            })?;
        // Nothing has reaped it: orphans are not buried while the runtime is in flight.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("open the process"))?;
        self.keep(key, pid, pidfd)
    }

    /// Watches for the end of a process.
    pub fn keep(&mut self, key: Key, pid: Pid, pidfd: OwnedFd) -> Result<(), Status> {
        self.poller
            .add(&pidfd, Token::Exit(key), Interest::IN)
            .map_err(failed("watch the process"))?;
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        process.pid = pid.as_raw_nonzero().get() as u32;
        process.pidfd = Some(pidfd);
        Ok(())
    }

    fn watch_cgroup(&mut self, key: Key) -> Result<(), Status> {
        let pid = Pid::from_raw(self.pid_of(key) as i32).ok_or_else(gone)?;
        let cgroup = Cgroup::of(pid).map_err(failed("find the container's cgroup"))?;
        match oom::Watch::new(&cgroup) {
            Ok(Some(watch)) => {
                let _ = self.poller.add(&watch.fd, Token::Oom(key), Interest::IN);
                self.container_mut(key)?.oom = Some(watch);
            }
            Ok(None) => {}
            Err(error) => self.warn(&format!("no news of memory kills: {error}")),
        }
        self.container_mut(key)?.cgroup = cgroup;
        Ok(())
    }

    fn started(&mut self, key: Key, result: Result<(), Status>) -> Result<Vec<u8>, Status> {
        result?;
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        process.started_at = now_nanos();
        let (pid, container_id) = (process.pid, process.container.clone());
        self.publish("start", &events::TaskStart { container_id, pid });
        Ok(task::StartResponse { pid }.encode_to_vec())
    }

    fn exec_started(
        &mut self,
        key: Key,
        result: Result<(), Status>,
        attach: Option<PathBuf>,
    ) -> Result<Vec<u8>, Status> {
        let adopted = result.and_then(|()| {
            if self.pid_of(key) != 0 {
                return Ok(());
            }
            self.on_console(key);
            self.adopt(key)
        });
        forget(&self.spec_file(key)?);
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        if let Err(error) = adopted {
            process.io.close(&self.poller);
            if attach.is_some() {
                self.forget_exec(key);
            }
            return Err(error);
        }
        process.started_at = now_nanos();
        let pid = process.pid;
        let (container_id, exec_id) = (process.container.clone(), process.exec_id.clone());
        let event = events::TaskExecStarted {
            container_id,
            exec_id: exec_id.clone(),
            pid,
        };
        self.publish("exec-started", &event);
        Ok(match attach {
            None => task::StartResponse { pid }.encode_to_vec(),
            Some(path) => {
                let path = path.display().to_string();
                shim::ExecResponse { exec_id, pid, path }.encode_to_vec()
            }
        })
    }

    fn frozen(
        &mut self,
        key: Key,
        kind: &Kind,
        result: Result<(), Status>,
    ) -> Result<Vec<u8>, Status> {
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        process.life.done(result.is_ok());
        result?;
        let container_id = process.container.clone();
        if *kind == Kind::Pause {
            self.publish("paused", &events::TaskPaused { container_id });
        } else {
            self.publish("resumed", &events::TaskResumed { container_id });
        }
        Ok(Vec::new())
    }

    fn checkpointed(
        &mut self,
        key: Key,
        checkpoint: String,
        result: Result<(), Status>,
    ) -> Result<Vec<u8>, Status> {
        result?;
        let container_id = self.processes.get(&key).ok_or_else(gone)?.container.clone();
        self.publish(
            "checkpointed",
            &events::TaskCheckpointed {
                container_id,
                checkpoint,
            },
        );
        Ok(Vec::new())
    }

    fn deleted(&mut self, key: Key, result: Result<(), Status>) -> Result<Vec<u8>, Status> {
        if let Err(error) = result {
            self.processes
                .get_mut(&key)
                .ok_or_else(gone)?
                .life
                .done(false);
            return Err(error);
        }
        self.await_end(key);
        let bundle = self.container_of(key)?.bundle.clone();
        if let Err(error) = rootfs::unmount_all(&bundle.join("rootfs")) {
            self.processes
                .get_mut(&key)
                .ok_or_else(gone)?
                .life
                .done(false);
            return Err(error);
        }
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let (exit_status, exited_at) = process.exit_status();
        let (pid, container_id) = (process.pid, process.container.clone());
        let event = events::TaskDelete {
            container_id: container_id.clone(),
            pid,
            exit_status,
            exited_at,
            id: String::new(),
        };
        self.publish("delete", &event);
        self.forget_container(key);
        Ok(task::DeleteResponse {
            pid,
            exit_status,
            exited_at,
        }
        .encode_to_vec())
    }

    /// A container that was deleted before its start ends only now.
    fn await_end(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        if let Some(pidfd) = process.pidfd.as_ref().filter(|_| !process.life.has_ended()) {
            wait_for(pidfd);
            self.on_exit(key);
        }
    }

    fn remove_by_force(&mut self, key: Key) {
        let Ok(container) = self.container_of(key) else {
            return;
        };
        let id = self
            .processes
            .get(&key)
            .map(|p| p.container.clone())
            .unwrap_or_default();
        let log = container.bundle.join(".log-remove.json");
        let removed = container
            .runtime
            .start(&log, &["delete", "--force", &id], Fds::None);
        match removed {
            Ok(run) => match spawn::wait(&run.child) {
                Ended::Code(0) => run.finish(),
                ended => self.warn(&run.error(ended).message),
            },
            Err(error) => self.warn(&error.message),
        }
    }

    /// Path where the runtime writes a process's pid.
    pub fn pid_file(&self, key: Key) -> Result<PathBuf, Status> {
        Ok(self.container_of(key)?.bundle.join(format!(".pid-{key}")))
    }

    /// Path of an exec's process for the runtime.
    pub fn spec_file(&self, key: Key) -> Result<PathBuf, Status> {
        Ok(self
            .container_of(key)?
            .bundle
            .join(format!(".process-{key}.json")))
    }
}

fn wait_for(pidfd: &OwnedFd) {
    let patience = Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience));
}

/// What was asked for is no longer there.
pub fn gone() -> Status {
    Status::not_found("the process was deleted meanwhile")
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str, Status> {
    path.to_str()
        .ok_or_else(|| Status::invalid(format!("path {} is not UTF-8", path.display())))
}
