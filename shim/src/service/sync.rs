//! `ExecSync`: a command from its start to its end in one call.

use super::start::new_process;
use super::taken;
use crate::args::check_id;
use crate::attach::{Attach, PATIENCE, Wants};
use crate::command::{self, Command, Doom, Template};
use crate::container::Caller;
use crate::enter::{self, Entering};
use crate::io::{Given, Io, Stdio, at, failed};
use crate::machine::{Ask, Life, Verdict};
use crate::ops::{Kind, gone};
use crate::poll::{Key, Timer};
use crate::server::{Answer, Call, Reply, Shim, forget};
use rrun_sys::process::{SIGKILL, kill, pidfd_signal};
use rrun_task_api::Status;
use rrun_task_api::pb::shim::{ExecSyncRequest, ExecSyncResponse};
use rrun_task_api::prost::Message;
use rrun_task_api::stdio::Stream;
use rrun_task_api::time::now_nanos;
use rustix::fd::AsFd;
use rustix::process::Pid;
use std::time::Duration;

/// How long output is waited for after the command has ended: a child of it that went on in the
/// background may hold it open for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// The output of a command that ends within this time is read when it has ended: one wake-up for all of
/// it. A longer one's is read as it comes.
const BRIEF: Duration = Duration::from_millis(20);

impl Shim {
    /// Our own service: ExecSync.
    pub fn exec_sync(&mut self, call: &Call, request: &ExecSyncRequest) -> Answer {
        self.may_command(request)?;
        let begun = self.begin_command(Command::new(call.caller), request)?;
        Ok(begun.map_or(Reply::Later, |_| Reply::Pending))
    }

    /// Refuses what cannot be run, whatever state the container is in.
    pub fn may_command(&self, request: &ExecSyncRequest) -> Result<(), Status> {
        check_id(&request.exec_id).map_err(Status::invalid)?;
        if request.args.first().is_none_or(String::is_empty) {
            return Err(Status::invalid("ExecSync request without args"));
        }
        let init = self.find(&request.id, "")?;
        if self.is_peers(init) {
            return Err(Status::unimplemented(format!(
                "another shim runs container {:?}",
                request.id
            )));
        }
        Ok(())
    }

    /// Starts a command; gives the number of its process. `None`: it is too early.
    pub fn begin_command(
        &mut self,
        command: Command,
        request: &ExecSyncRequest,
    ) -> Result<Option<Key>, Status> {
        if self.find(&request.id, &request.exec_id).is_ok() {
            return Err(taken("exec", &request.exec_id));
        }
        match self.process(&request.id, "")?.life.ask(Ask::Exec) {
            Verdict::Go => {}
            Verdict::Later => return Ok(None),
            Verdict::Refused(status) => return Err(status),
        }
        let key = self.new_key();
        let mut life = Life::exec();
        if life.ask(Ask::Start) != Verdict::Go {
            return Err(Status::internal("a new exec cannot be started"));
        }
        let mut process = new_process(&request.id, &request.exec_id, life, Stdio::default());
        process.command = Some(Box::new(command));
        self.processes.insert(key, process);
        let execs = &mut self.container_mut(key)?.execs;
        execs.insert(request.exec_id.clone(), key);
        if let Err(status) = self.run_command(key, &request.id, &request.args) {
            self.drop_command(key);
            return Err(status);
        }
        if request.timeout > 0 {
            let after = Duration::from_nanos(request.timeout);
            self.poller.after(after, Timer::CommandExpires(key));
        }
        self.poller.after(BRIEF, Timer::CommandGoesOn(key));
        Ok(Some(key))
    }

    /// Tells whoever waits for a command what came of it.
    pub fn tell_command(
        &mut self,
        caller: Caller,
        probe: Option<Key>,
        outcome: Result<ExecSyncResponse, Status>,
    ) {
        match probe {
            Some(probe) => self.probe_ran(probe, outcome),
            None => self.answer(caller, outcome.map(|run| run.encode_to_vec())),
        }
    }

    fn run_command(&mut self, key: Key, id: &str, args: &[String]) -> Result<(), Status> {
        let (io, given) = Io::kept(key)?;
        self.processes.get_mut(&key).ok_or_else(gone)?.io = io;
        if let Some((uid, gid)) = self.container_of(key)?.io_owner {
            given
                .chown(uid, gid)
                .map_err(failed("give stdio to its owner"))?;
        }
        if let Some(entering) = self.enter_command(id, args, &given)? {
            return self.command_entered(key, entering);
        }
        let spec = command::process_of(&self.container_of(key)?.bundle, args)?;
        self.processes.get_mut(&key).ok_or_else(gone)?.spec = spec;
        self.exec_by_runtime(key, None, Kind::Command, Some(&given))
    }

    /// Clones the command's process into its container; `None` where that is for the runtime.
    fn enter_command(
        &mut self,
        id: &str,
        args: &[String],
        given: &Given,
    ) -> Result<Option<Entering>, Status> {
        let container = self.containers.get_mut(id).ok_or_else(gone)?;
        if !self.sealed {
            return Ok(None);
        }
        Template::refresh(container, id)?;
        let plan = container.template.as_mut().and_then(|t| t.plan.as_mut());
        let init = self.processes.get(&container.init);
        let (Some(plan), Some(init)) = (plan, init.and_then(|init| init.pidfd.as_ref())) else {
            return Ok(None);
        };
        plan.set_args(args.to_vec());
        let stdio = [&given.stdin, &given.stdout, &given.stderr].map(AsFd::as_fd);
        match enter::enter(plan, init.as_fd(), stdio) {
            Ok(entering) => Ok(Some(entering)),
            Err(error) => {
                self.warn(&format!("a command is left to the runtime: {error}"));
                Ok(None)
            }
        }
    }

    /// The process is there; what it reports is of interest when it has ended.
    fn command_entered(&mut self, key: Key, entering: Entering) -> Result<(), Status> {
        let pid = Pid::from_raw(entering.pid).ok_or_else(gone)?;
        if let Err(status) = self.keep(key, pid, entering.pidfd) {
            // Not waited for yet, so that its number is its own; buried as an orphan.
            let _ = kill(entering.pid, SIGKILL);
            return Err(status);
        }
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        process.started_at = now_nanos();
        process.life.done(true);
        if let Some(command) = &mut process.command {
            command.report = Some(entering.report);
        }
        Ok(())
    }

    /// The runtime has started it, or could not.
    pub fn command_started(&mut self, key: Key, result: Result<(), Status>) -> Result<(), Status> {
        let adopted = result.and_then(|()| self.adopt(key));
        forget(&self.spec_file(key)?);
        if let Err(status) = adopted {
            if let Some(command) = self.drop_command(key) {
                self.tell_command(command.caller, command.probe, Err(status.clone()));
            }
            return Err(status);
        }
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        process.started_at = now_nanos();
        if process.command.as_ref().is_some_and(|c| c.doom.is_some()) {
            self.kill_exec(key);
        }
        Ok(())
    }

    /// It did not end at once: its output is watched from here on.
    pub fn on_command_going_on(&mut self, key: Key) {
        for number in [1, 2] {
            self.pump(key, number);
        }
    }

    /// It has ended, or its output has: answers once both have.
    pub fn advance_command(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let (Some(command), Some(_)) = (&process.command, process.life.exit()) else {
            return;
        };
        if command.is_handed_over {
            if command.doom == Some(Doom::Abandoned) {
                self.forget_exec(key);
            }
        } else if process.io.output_ended() {
            self.finish_command(key);
        } else {
            self.poller.cancel(Timer::CommandDrained(key));
            self.poller.after(DRAIN, Timer::CommandDrained(key));
        }
    }

    /// Answers with what there is.
    pub fn finish_command(&mut self, key: Key) {
        let Some(exit) = self.processes.get(&key).and_then(|p| p.life.exit()) else {
            return;
        };
        if let Some(command) = self.drop_command(key) {
            let (caller, probe) = (command.caller, command.probe);
            let outcome = command.outcome(exit.code);
            self.tell_command(caller, probe, outcome);
        }
    }

    fn drop_command(&mut self, key: Key) -> Option<Command> {
        let command = self.processes.get_mut(&key)?.command.take();
        self.forget_exec(key);
        command.map(|command| *command)
    }

    /// It ran for too long.
    pub fn on_command_expired(&mut self, key: Key) {
        self.doom(key, Doom::TimedOut);
    }

    /// Whoever asked for a command has gone.
    pub fn abandon_commands(&mut self, conn: Key) {
        let asked = |command: &Command| command.caller.conn == conn;
        let of = |(key, process): (&Key, &crate::container::Process)| {
            let command = process.command.as_ref()?;
            asked(command).then_some(*key)
        };
        let keys: Vec<Key> = self.processes.iter().filter_map(of).collect();
        for key in keys {
            self.doom(key, Doom::Abandoned);
            self.advance_command(key);
        }
    }

    /// Kills a command, for this reason.
    pub fn doom(&mut self, key: Key, doom: Doom) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let Some(command) = &mut process.command
            && (doom == Doom::Abandoned || !process.life.has_ended())
        {
            command.doom = Some(doom);
            self.kill_exec(key);
        }
    }

    /// Kills an exec with what it left in its process group.
    fn kill_exec(&self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        if let Some(pidfd) = process.pidfd.as_ref().filter(|_| process.pid > 0) {
            // It leads the group once it has begun its session. It is not waited for yet, so that its
            // number is nobody else's.
            let _ = kill(-(process.pid as i32), SIGKILL);
            let _ = pidfd_signal(pidfd.as_fd(), SIGKILL);
        }
    }

    /// More output than an answer holds: the caller is to attach for it.
    pub fn hand_over(&mut self, key: Key) {
        let id = self.new_key();
        let path = self.socket_path('a', id);
        let wants = Wants {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let listening = Attach::listen(id, key, wants, true, path.clone(), &self.poller)
            .map_err(at("listen for an attached client on", &path));
        let attach = match listening {
            Ok(attach) => attach,
            Err(status) => {
                self.kill_exec(key);
                if let Some(command) = self.drop_command(key) {
                    self.answer(command.caller, Err(status));
                }
                return;
            }
        };
        self.attaches.insert(id, attach);
        self.poller.after(PATIENCE, Timer::AttachExpires(id));
        self.poller.cancel(Timer::CommandExpires(key));
        self.poller.cancel(Timer::CommandDrained(key));
        if let Some(caller) = self.queue_written(key, id) {
            let answer = ExecSyncResponse {
                path: path.display().to_string(),
                ..ExecSyncResponse::default()
            };
            self.answer(caller, Ok(answer.encode_to_vec()));
        }
    }

    /// Gives what was kept, and all that comes, to who will attach.
    fn queue_written(&mut self, key: Key, id: Key) -> Option<Caller> {
        let process = self.processes.get_mut(&key)?;
        let command = process.command.as_mut()?;
        let attach = self.attaches.get_mut(&id)?;
        command.is_handed_over = true;
        process.io.attach_kept();
        let [stdout, stderr] = command.take_written();
        // Nobody is connected yet, so that this cannot fail.
        let _ = attach.send(Stream::Stdout, &stdout, &self.poller);
        let _ = attach.send(Stream::Stderr, &stderr, &self.poller);
        Some(command.caller)
    }
}
