//! Calls of the other shim: sent from the loop, answered by events, and what follows from an answer.

use super::start::{self, Starting};
use super::stdio::{self, Theirs};
use super::{Link, Peer, bundle};
use crate::conn::Conn;
use crate::container::Caller;
use crate::io::{at, failed};
use crate::machine::Exited;
use crate::ops::{Kind, Op, gone};
use crate::poll::{Interest, Key, Token};
use crate::runtime::Runtime;
use crate::server::{Answer, Reply, Shim};
use crate::sock;
use crate::spawn::Ended;
use rrun_task_api::any::{self, PROCESS};
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::pb::{Timestamp, task};
use rrun_task_api::prost::Message;
use rrun_task_api::time::now_nanos;
use rrun_task_api::{Code, Status, frame};
use std::collections::BTreeMap;
use std::path::Path;

/// End of a process that its shim took with it.
const KILLED: u32 = 128 + 9;

impl Shim {
    /// Whether a process is another shim's.
    pub fn is_peers(&self, key: Key) -> bool {
        self.processes
            .get(&key)
            .is_some_and(|process| process.remote)
    }

    /// Starts the other shim, and makes the container when that is there.
    pub fn create_by_peer(
        &mut self,
        key: Key,
        caller: Caller,
        mut request: task::CreateTaskRequest,
    ) -> Answer {
        let container = self.container_of(key)?;
        let ours = container.bundle.clone();
        let peer = container.runtime.peer.clone().ok_or_else(gone)?;
        crate::server::forget(&ours.join(rrun_task_api::exit::FILE));
        start::lay_out(&ours, &request.id)?;
        request.bundle = bundle(&ours).to_string_lossy().into_owned();
        let starting = start::start(&peer, &self.args, Box::new(request))?;
        self.await_peer(key, caller, starting)?;
        Ok(Reply::Pending)
    }

    /// The other shim's `start` has ended.
    pub fn peer_started(
        &mut self,
        key: Key,
        caller: Option<Caller>,
        mut starting: Starting,
        ended: Ended,
    ) -> Result<(), Status> {
        let mut request = std::mem::take(&mut *starting.request);
        let container = self.container_mut(key)?;
        let peer = container.runtime.peer.as_mut().ok_or_else(gone)?;
        starting.address(ended, peer)?;
        let peer = peer.clone();
        container
            .runtime
            .save(&container.bundle)
            .map_err(at("keep the shim's address in", &container.bundle))?;
        self.connect_peer(key, &peer)?;
        let theirs = self.open_fifos(key)?;
        request.stdin = theirs.stdin;
        request.stdout = theirs.stdout;
        request.stderr = theirs.stderr;
        self.call_peer(Kind::Create, key, caller, "Create", request.encode_to_vec())
    }

    fn connect_peer(&mut self, key: Key, peer: &Peer) -> Result<(), Status> {
        let fd = sock::connect_to(peer.socket(), true).map_err(at("connect to", peer.socket()))?;
        self.poller
            .add(&fd, Token::Peer(key), Interest::IN)
            .map_err(failed("watch a shim"))?;
        self.container_mut(key)?.link = Some(Link {
            conn: Conn::new(fd),
            service: peer.service(),
            last_stream: 1,
            calls: BTreeMap::new(),
        });
        Ok(())
    }

    fn open_fifos(&mut self, key: Key) -> Result<Theirs, Status> {
        let dir = bundle(&self.container_of(key)?.bundle);
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let (io, theirs) = stdio::open(&process.stdio, key, &dir, &self.poller)?;
        self.processes.get_mut(&key).ok_or_else(gone)?.io = io;
        Ok(theirs)
    }

    /// Adds an exec at the other shim, and starts it when that is done.
    pub fn exec_by_peer(&mut self, key: Key, caller: Caller, kind: Kind) -> Result<(), Status> {
        let theirs = self.open_fifos(key)?;
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let request = task::ExecProcessRequest {
            id: process.container.clone(),
            exec_id: process.exec_id.clone(),
            terminal: process.stdio.terminal,
            stdin: theirs.stdin,
            stdout: theirs.stdout,
            stderr: theirs.stderr,
            spec: Some(any::pack_json(PROCESS, process.spec.clone())),
        };
        let kind = Kind::Adding(Box::new(kind));
        self.call_peer(kind, key, Some(caller), "Exec", request.encode_to_vec())
    }

    /// Sends a call that is about a process; `kind` says what its answer is for.
    pub fn call_peer(
        &mut self,
        kind: Kind,
        process: Key,
        caller: Option<Caller>,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<(), Status> {
        let op = self.new_key();
        let container = self.container_mut(process)?;
        let init = container.init;
        let link = container.link.as_mut().ok_or_else(away)?;
        link.last_stream += 2;
        let stream = link.last_stream;
        let request = Request {
            service: link.service.to_owned(),
            method: method.to_owned(),
            payload,
            ..Default::default()
        };
        let bytes =
            frame::request(stream, &request).map_err(|error| Status::invalid(error.to_string()))?;
        link.conn.send(&bytes).map_err(|_closed| away())?;
        link.calls.insert(stream, op);
        self.ops.insert(op, Op::call(kind, process, caller));
        self.watch_peer(init);
        Ok(())
    }

    fn watch_peer(&mut self, init: Key) {
        let link = self.container_of(init).ok().and_then(|c| c.link.as_ref());
        if let Some(link) = link {
            let mut interest = Interest::IN;
            interest.set(Interest::OUT, link.conn.has_unsent());
            let _ = self
                .poller
                .modify(&link.conn.fd, Token::Peer(init), interest);
        }
    }

    /// The other shim answers, or takes more, or has gone.
    pub fn on_peer(&mut self, init: Key) {
        let Ok(container) = self.container_mut(init) else {
            return;
        };
        let Some(link) = container.link.as_mut() else {
            return;
        };
        let Ok(frames) = link.conn.flush().and_then(|()| link.conn.read()) else {
            return self.lose_peer(init);
        };
        let mut answers = Vec::new();
        for frame in frames {
            if let Some(op) = link.calls.remove(&frame.stream) {
                let answer = frame::open_response(&frame.data)
                    .unwrap_or_else(|error| Err(Status::internal(error.to_string())));
                answers.push((op, answer));
            }
        }
        self.watch_peer(init);
        for (op, answer) in answers {
            self.on_answer(op, answer);
        }
    }

    fn on_answer(&mut self, op: Key, answer: Result<Vec<u8>, Status>) {
        let Some((kind, process, caller)) = self.ops.remove(&op).map(Op::into_call) else {
            return;
        };
        match kind {
            Kind::Told => {}
            Kind::Waiting => self.peer_exited(process, answer),
            Kind::Forward => {
                if let Some(caller) = caller {
                    self.answer(caller, answer);
                }
            }
            Kind::Adding(next) => self.exec_is_added(*next, process, caller, answer),
            kind => {
                let heard = self.hear(&kind, process, answer);
                let begins = matches!(kind, Kind::Create | Kind::Exec(_)) && heard.is_ok();
                let ended = Ended::Code(u32::from(heard.is_err()));
                self.settle(kind, process, caller, heard, ended);
                if begins {
                    self.wait_for_peer(process);
                }
            }
        }
    }

    fn exec_is_added(
        &mut self,
        next: Kind,
        process: Key,
        caller: Option<Caller>,
        answer: Result<Vec<u8>, Status>,
    ) {
        let started = answer.and_then(|_| {
            let exec = self.processes.get(&process).ok_or_else(gone)?;
            let request = task::StartRequest {
                id: exec.container.clone(),
                exec_id: exec.exec_id.clone(),
            };
            self.call_peer(
                next.clone(),
                process,
                caller,
                "Start",
                request.encode_to_vec(),
            )
        });
        if let Err(error) = started {
            self.settle(next, process, caller, Err(error), Ended::Code(1));
        }
    }

    /// Takes from an answer what it says of the process.
    fn hear(
        &mut self,
        kind: &Kind,
        key: Key,
        answer: Result<Vec<u8>, Status>,
    ) -> Result<(), Status> {
        let broken = |error| Status::internal(format!("a shim's answer: {error}"));
        match kind {
            Kind::Create | Kind::Start | Kind::Exec(_) => {
                // Both have the pid as their first field.
                let pid = task::StartResponse::decode(&answer?[..])
                    .map_err(broken)?
                    .pid;
                let process = self.processes.get_mut(&key).ok_or_else(gone)?;
                process.pid = pid;
                process.start_time = crate::exits::start_time(pid).unwrap_or(0);
                Ok(())
            }
            Kind::Delete => {
                let deleted = match answer {
                    Err(status) if status.code == Code::NotFound => task::DeleteResponse::default(),
                    other => task::DeleteResponse::decode(&other?[..]).map_err(broken)?,
                };
                self.peer_ended(key, deleted.exit_status, deleted.exited_at);
                Ok(())
            }
            _ => answer.map(drop),
        }
    }

    fn wait_for_peer(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let request = task::WaitRequest {
            id: process.container.clone(),
            exec_id: process.exec_id.clone(),
        };
        if let Err(error) =
            self.call_peer(Kind::Waiting, key, None, "Wait", request.encode_to_vec())
        {
            self.warn(&format!("wait for an end: {}", error.message));
        }
    }

    fn peer_exited(&mut self, key: Key, answer: Result<Vec<u8>, Status>) {
        let heard = answer.and_then(|bytes| {
            task::WaitResponse::decode(&bytes[..])
                .map_err(|error| Status::internal(error.to_string()))
        });
        match heard {
            Ok(wait) => self.peer_ended(key, wait.exit_status, wait.exited_at),
            // Deleted: its answer says how it ended.
            Err(status) if status.code == Code::NotFound => {}
            Err(status) => self.warn(&format!("wait for an end: {}", status.message)),
        }
    }

    /// A process of the other shim's has ended, if that was not known.
    fn peer_ended(&mut self, key: Key, code: u32, at: Option<Timestamp>) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.life.has_ended() {
            return;
        }
        let at = at.map_or_else(now_nanos, |at| {
            at.seconds as u64 * 1_000_000_000 + at.nanos as u64
        });
        let exit = Exited {
            code,
            signal: code.checked_sub(128).filter(|s| *s < 65).unwrap_or(0),
            at,
        };
        process.io.release();
        if process.exec_id.is_empty() {
            self.on_init_exit(key, exit);
        }
        for number in [1, 2] {
            self.pump(key, number);
        }
        self.keep_exit(key, exit);
    }

    /// The other shim is gone: what it had cannot be reached any more, and ends.
    fn lose_peer(&mut self, init: Key) {
        let Ok(container) = self.container_mut(init) else {
            return;
        };
        let Some(link) = container.link.take() else {
            return;
        };
        let keys: Vec<Key> = [init]
            .into_iter()
            .chain(container.execs.values().copied())
            .collect();
        let mut runtime = container.runtime.clone();
        let bundle = container.bundle.clone();
        self.poller.remove(&link.conn.fd);
        self.warn("the shim that ran the container is gone: the container is ended");
        match self.end_runtime(&mut runtime, &bundle) {
            Ok(()) => {
                if let Ok(container) = self.container_mut(init) {
                    container.runtime = runtime;
                }
            }
            Err(error) => self.warn(&error),
        }
        for op in link.calls.into_values() {
            self.on_answer(op, Err(away()));
        }
        for key in keys {
            self.peer_ended(key, KILLED, None);
        }
    }

    /// Nothing is left of a container: nor is its shim to be.
    pub fn end_peer(&mut self, container: &mut crate::container::Container) {
        if let Some(link) = container.link.take() {
            self.poller.remove(&link.conn.fd);
            for op in link.calls.into_values() {
                self.ops.remove(&op);
            }
        }
        if let Err(error) = self.end_runtime(&mut container.runtime, &container.bundle) {
            self.warn(&error);
        }
        if let Err(error) = crate::rootfs::unmount_all(&bundle(&container.bundle)) {
            self.warn(&error.message);
        }
    }

    /// Ends the other shim, and writes down that it has been.
    fn end_runtime(&self, runtime: &mut Runtime, bundle: &Path) -> Result<(), String> {
        let Some(peer) = &mut runtime.peer else {
            return Ok(());
        };
        super::end(peer, &self.args)?;
        peer.address.clear();
        let kept = runtime.save(bundle);
        kept.map_err(|error| format!("keep the options in {}: {error}", bundle.display()))
    }
}

fn away() -> Status {
    Status::new(
        Code::Unavailable,
        "the shim that runs the container is gone".to_owned(),
    )
}
