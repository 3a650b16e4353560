//! What happens to processes by themselves: they write, read and end.

use crate::attach::Input;
use crate::container::{Container, Process};
use crate::exits;
use crate::log::Stream as LogStream;
use crate::machine::Exited;
use crate::ops::gone;
use crate::output::{Read, Sink};
use crate::poll::{Interest, Key, Timer};
use crate::server::Shim;
use crate::spawn::{self, Ended};
use crate::stdin::Flow;
use rrun_task_api::Status;
use rrun_task_api::pb::{events, task};
use rrun_task_api::prost::Message;
use rrun_task_api::stdio::Stream;
use rrun_task_api::time::{from_nanos, now_nanos};
use std::mem::MaybeUninit;
use std::time::Duration;

/// How long what a dead process left running may go on with its output.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Reads in a row before others have their turn.
const TURNS: u32 = 32;

impl Shim {
    /// The container of a process.
    pub fn container_of(&self, key: Key) -> Result<&Container, Status> {
        let process = self.processes.get(&key).ok_or_else(gone)?;
        self.containers.get(&process.container).ok_or_else(gone)
    }

    /// The container of a process.
    pub fn container_mut(&mut self, key: Key) -> Result<&mut Container, Status> {
        let process = self.processes.get(&key).ok_or_else(gone)?;
        self.containers.get_mut(&process.container).ok_or_else(gone)
    }

    /// Pid of a process; 0 where there is none.
    pub fn pid_of(&self, key: Key) -> u32 {
        self.processes.get(&key).map_or(0, |process| process.pid)
    }

    /// A process may have ended.
    pub fn on_exit(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let Some(pidfd) = &process.pidfd else { return };
        let Some(ended) = spawn::reap(pidfd) else {
            return;
        };
        let exit = match ended {
            Ended::Code(code) => Exited {
                code,
                signal: 0,
                at: now_nanos(),
            },
            Ended::Signal(signal) => Exited {
                code: 128 + signal,
                signal,
                at: now_nanos(),
            },
        };
        self.poller.remove(pidfd);
        process.pidfd = None;
        process.io.release();
        if process.exec_id.is_empty() {
            self.on_init_exit(key, exit);
        }
        for number in [1, 2] {
            self.pump(key, number);
        }
        self.keep_exit(key, exit);
    }

    /// Keeps how a process ended, and tells of it where that may be told.
    pub fn keep_exit(&mut self, key: Key, exit: Exited) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.life.exited(exit) {
            self.tell_exit(key);
        }
    }

    /// The first process has ended: nothing of the container outlives it.
    pub fn on_init_exit(&mut self, key: Key, exit: Exited) {
        // Its cause is told before it.
        self.on_oom(key);
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let (pid, start, remote) = (process.pid, process.start_time, process.remote);
        let Some(container) = self.containers.get_mut(&process.container) else {
            return;
        };
        let cgroup = container.cgroup.clone();
        container.oom_killed |= cgroup.oom_kills() > 0;
        // Another shim's may hold more than this container.
        if !remote && !cgroup.pids().is_empty() {
            cgroup.kill();
        }
        let recorded = exits::record(&container.bundle, pid, start, exit, container.oom_killed);
        if let Err(error) = recorded {
            let id = process.container.clone();
            self.warn(&format!("container {id}: write exit.json: {error}"));
        }
    }

    /// Tells everybody of an end.
    pub fn tell_exit(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let Some(exit) = process.life.exit() else {
            return;
        };
        let exited_at = Some(from_nanos(exit.at));
        let answer = task::WaitResponse {
            exit_status: exit.code,
            exited_at,
        }
        .encode_to_vec();
        let waiters = std::mem::take(&mut process.waiters);
        if process.command.is_some() {
            for caller in waiters {
                self.answer(caller, Ok(answer.clone()));
            }
            return self.advance_command(key);
        }
        let event = events::TaskExit {
            container_id: process.container.clone(),
            id: process.event_id().to_owned(),
            pid: process.pid,
            exit_status: exit.code,
            exited_at,
        };
        self.publish("exit", &event);
        for caller in waiters {
            self.answer(caller, Ok(answer.clone()));
        }
    }

    /// The kernel says that memory was short.
    pub fn on_oom(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let container_id = process.container.clone();
        let Some(container) = self.containers.get_mut(&container_id) else {
            return;
        };
        let Some(watch) = &mut container.oom else {
            return;
        };
        if watch.take(&container.cgroup) {
            container.oom_killed = true;
            self.publish("oom", &events::TaskOom { container_id });
        }
    }

    /// The runtime may have sent a terminal.
    pub fn on_console(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let Err(error) = process.io.on_console(key, &self.poller) {
            process.io.console = None;
            self.warn(&error.message);
        }
    }

    /// A FIFO takes more output again.
    pub fn on_sink(&mut self, key: Key, number: u8) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let Some(output) = &mut process.io.outputs[usize::from(number - 1)] {
            output.flush(&self.poller);
        }
        self.pump(key, number);
    }

    /// Moves output on until there is none, or somebody has to wait.
    pub fn pump(&mut self, key: Key, number: u8) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        for _ in 0..TURNS {
            let held = self.is_held(key, number);
            let Some(process) = self.processes.get_mut(&key) else {
                return;
            };
            let Some(output) = &mut process.io.outputs[usize::from(number - 1)] else {
                return;
            };
            if held || output.is_blocked() {
                return output.watch(false, &self.poller);
            }
            match output.read(&mut buffer) {
                Read::Data(data) => {
                    output.deliver(data, &self.poller);
                    self.share(key, number, data);
                    self.keep_within_limits(key);
                }
                Read::Empty => {
                    output.watch(true, &self.poller);
                    if process.life.has_ended() || !process.is_alive() && process.pid != 0 {
                        self.poller.cancel(Timer::OutputEnds(key));
                        self.poller.after(OUTPUT_GRACE, Timer::OutputEnds(key));
                    }
                    return;
                }
                Read::End => return self.end_output(key, number),
            }
        }
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let Some(output) = &mut process.io.outputs[usize::from(number - 1)] {
            output.watch(true, &self.poller);
        }
    }

    fn keep_within_limits(&mut self, key: Key) {
        let command = self.processes.get(&key).and_then(|p| p.command.as_ref());
        if command.is_some_and(|command| command.is_outgrown()) {
            self.hand_over(key);
        }
    }

    /// Whether an attached client holds output up.
    fn is_held(&self, key: Key, number: u8) -> bool {
        let Some(process) = self.processes.get(&key) else {
            return false;
        };
        let output = process.io.outputs[usize::from(number - 1)].as_ref();
        if !matches!(output.map(|o| &o.sink), Some(Sink::Attach)) {
            return false;
        }
        let client = self
            .attaches
            .values()
            .find(|attach| attach.process == key && attach.sole);
        client.is_none_or(|client| client.wants_output(number) && client.holds_output())
    }

    /// Gives output to the log and to who is attached.
    fn share(&mut self, key: Key, number: u8, data: &[u8]) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let output = process.io.outputs[usize::from(number - 1)].as_ref();
        match output.map(|o| &o.sink) {
            Some(Sink::Log) => {
                if let Some(log) = &mut process.io.log {
                    log.write(log_stream(number), data);
                }
            }
            Some(Sink::Kept) => {
                if let Some(command) = &mut process.command {
                    command.keep(number, data);
                }
            }
            _ => {}
        }
        let stream = if number == 1 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let mut lost = Vec::new();
        for (id, attach) in &mut self.attaches {
            let sees = attach.process == key && attach.is_connected();
            if sees
                && attach.wants_output(number)
                && attach.send(stream, data, &self.poller).is_err()
            {
                lost.push(*id);
            }
        }
        for id in lost {
            self.close_attach(id);
        }
    }

    /// An output has ended. After the last one, who is attached is told.
    fn end_output(&mut self, key: Key, number: u8) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let slot = &mut process.io.outputs[usize::from(number - 1)];
        let Some(mut output) = slot.take() else {
            return;
        };
        output.unwatch(&self.poller);
        if matches!(output.sink, Sink::Log)
            && let Some(log) = &mut process.io.log
        {
            log.end(log_stream(number));
        }
        if !process.io.output_ended() {
            return;
        }
        self.poller.cancel(Timer::OutputEnds(key));
        self.advance_command(key);
        let clients: Vec<Key> = self.attached_to(key);
        for id in clients {
            let Some(attach) = self.attaches.get_mut(&id) else {
                continue;
            };
            if attach.end(&self.poller).is_err() {
                self.close_attach(id);
            }
        }
    }

    /// Something holds a dead process's output open: long enough.
    pub fn on_output_timer(&mut self, key: Key) {
        for number in [1, 2] {
            let held = self.is_held(key, number);
            let Some(process) = self.processes.get(&key) else {
                return;
            };
            let output = process.io.outputs[usize::from(number - 1)].as_ref();
            if output.is_some_and(|output| !held && !output.is_blocked()) {
                self.end_output(key, number);
            }
        }
    }

    /// The FIFO of standard input has something.
    pub fn on_stdin(&mut self, key: Key) {
        self.with_stdin(key, super::stdin::Stdin::on_fifo);
    }

    /// The process takes more input.
    pub fn on_stdin_sink(&mut self, key: Key) {
        if self.with_stdin(key, super::stdin::Stdin::on_sink) == Flow::Open {
            for id in self.attached_to(key) {
                if let Some(attach) = self.attaches.get_mut(&id) {
                    attach.hold_input(false, &self.poller);
                }
            }
        }
    }

    /// Does something with a process's standard input, and drops that when it is closed.
    pub fn with_stdin(
        &mut self,
        key: Key,
        act: impl FnOnce(&mut crate::stdin::Stdin, &crate::poll::Poller) -> Flow,
    ) -> Flow {
        let Some(process) = self.processes.get_mut(&key) else {
            return Flow::Closed;
        };
        let Some(stdin) = &mut process.io.stdin else {
            return Flow::Closed;
        };
        let flow = act(stdin, &self.poller);
        if flow == Flow::Closed {
            stdin.unwatch(&self.poller);
            process.io.stdin = None;
            self.close_peers_stdin(key);
        }
        flow
    }

    /// Somebody connects to an attach socket.
    pub fn on_attach_listener(&mut self, id: Key) {
        let Some(attach) = self.attaches.get_mut(&id) else {
            return;
        };
        if attach.accept(&self.poller).is_err() {
            return self.close_attach(id);
        }
        if !attach.is_connected() {
            return;
        }
        let key = attach.process;
        self.poller.cancel(Timer::AttachExpires(id));
        for number in [1, 2] {
            self.pump(key, number);
        }
        let ended = self.processes.get(&key).is_none_or(|p| p.io.output_ended());
        if let Some(attach) = self.attaches.get_mut(&id).filter(|_| ended)
            && attach.end(&self.poller).is_err()
        {
            self.close_attach(id);
        }
    }

    /// An attached client sends, or takes more, or has gone.
    pub fn on_attach(&mut self, id: Key, ready: Interest) {
        let Some(attach) = self.attaches.get_mut(&id) else {
            return;
        };
        let key = attach.process;
        if ready.intersects(Interest::HUP | Interest::ERR) && !ready.contains(Interest::IN) {
            return self.close_attach(id);
        }
        if ready.contains(Interest::OUT) {
            if attach.flush(&self.poller).is_err() {
                return self.close_attach(id);
            }
            for number in [1, 2] {
                self.pump(key, number);
            }
        }
        if ready.contains(Interest::IN) {
            self.on_attach_input(id, key);
        }
    }

    fn on_attach_input(&mut self, id: Key, key: Key) {
        let Some(attach) = self.attaches.get_mut(&id) else {
            return;
        };
        let Ok(inputs) = attach.read() else {
            return self.close_attach(id);
        };
        let mut flow = Flow::Open;
        for input in inputs {
            flow = self.with_stdin(key, |stdin, poller| match &input {
                Input::Data(data) => stdin.push(data, poller),
                Input::Close => stdin.close(poller),
            });
        }
        if let Some(attach) = self.attaches.get_mut(&id) {
            attach.hold_input(flow == Flow::Full, &self.poller);
        }
    }

    /// Nobody came to an attach socket.
    pub fn on_attach_expired(&mut self, id: Key) {
        if self
            .attaches
            .get(&id)
            .is_some_and(|attach| !attach.is_connected())
        {
            self.close_attach(id);
        }
    }

    /// An attached client has gone. If it was the only reader, the rest goes nowhere.
    pub fn close_attach(&mut self, id: Key) {
        let Some(mut attach) = self.attaches.remove(&id) else {
            return;
        };
        attach.unwatch(&self.poller);
        self.poller.cancel(Timer::AttachExpires(id));
        if !attach.sole {
            return;
        }
        if let Some(process) = self.processes.get_mut(&attach.process) {
            process.io.discard_attach_only();
            for number in [1, 2] {
                self.pump(attach.process, number);
            }
        }
    }

    fn attached_to(&self, key: Key) -> Vec<Key> {
        let of =
            |(id, attach): (&Key, &crate::attach::Attach)| (attach.process == key).then_some(*id);
        self.attaches.iter().filter_map(of).collect()
    }

    /// Drops a process and everything of it that is open.
    fn forget_process(&mut self, key: Key) -> Option<Process> {
        let mut process = self.processes.remove(&key)?;
        for id in self.attached_to(key) {
            if let Some(mut attach) = self.attaches.remove(&id) {
                attach.unwatch(&self.poller);
                self.poller.cancel(Timer::AttachExpires(id));
            }
        }
        if let Some(pidfd) = &process.pidfd {
            self.poller.remove(pidfd);
        }
        for number in [1, 2] {
            if let Some(log) = &mut process.io.log {
                log.end(log_stream(number));
            }
        }
        for timer in [
            Timer::OutputEnds(key),
            Timer::CommandGoesOn(key),
            Timer::CommandExpires(key),
            Timer::CommandDrained(key),
        ] {
            self.poller.cancel(timer);
        }
        process.io.close(&self.poller);
        if let Some(command) = process.command.take().filter(|c| !c.is_handed_over) {
            self.tell_command(command.caller, command.probe, Err(gone()));
        }
        for caller in std::mem::take(&mut process.waiters) {
            self.answer(caller, Err(gone()));
        }
        Some(process)
    }

    /// Drops an exec.
    pub fn forget_exec(&mut self, key: Key) {
        if let Some(process) = self.forget_process(key)
            && let Some(container) = self.containers.get_mut(&process.container)
        {
            container.execs.remove(&process.exec_id);
        }
    }

    /// Drops a container with all its processes and what is left of it on the machine.
    pub fn forget_container(&mut self, init: Key) {
        let Some(process) = self.forget_process(init) else {
            return;
        };
        let Some(mut container) = self.containers.remove(&process.container) else {
            return;
        };
        for key in std::mem::take(&mut container.execs).into_values() {
            self.forget_process(key);
        }
        self.end_probes(|probe| probe.is_of(&process.container));
        if process.remote {
            self.end_peer(&mut container);
        }
        if let Some(watch) = &container.oom {
            self.poller.remove(&watch.fd);
        }
        if !process.remote {
            container.cgroup.remove();
        }
        if let Err(error) = crate::rootfs::unmount_all(&container.bundle.join("rootfs")) {
            self.warn(&error.message);
        }
    }
}

fn log_stream(number: u8) -> LogStream {
    if number == 1 {
        LogStream::Stdout
    } else {
        LogStream::Stderr
    }
}
