//! The event loop: one thread, one epoll, everything the shim knows in one place.

use crate::args::Args;
use crate::attach::Attach;
use crate::conn::Conn;
use crate::container::{Caller, Container, Process};
use crate::ops::Op;
use crate::poll::{Event, Interest, Key, Poller, Timer, Token};
use crate::publish::Publisher;
use crate::reaper::{self, Signalled, Signals};
use crate::service::probe::Probe;
use crate::service::sandbox::Sandbox;
use crate::sock;
use rrun_task_api::Status;
use rrun_task_api::frame::{self, Frame, Kind};
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::prost::Message;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// After so long without an event the shim is at rest.
const REST: Duration = Duration::from_secs(2);
/// A shim that nobody has used for so long ends.
const UNUSED: Duration = Duration::from_mins(5);

/// Between two tries to accept a connection.
const RETRY: Duration = Duration::from_millis(200);

/// A request on its way.
pub struct Call {
    /// Who waits for the answer.
    pub caller: Caller,
    /// What is asked.
    pub request: Request,
}

/// What comes of a request.
pub enum Reply {
    /// An answer now.
    Now(Vec<u8>),
    /// An answer later, from whatever was started.
    Pending,
    /// It is too early; ask again when a program has ended.
    Later,
}

/// Outcome of handling a request.
pub type Answer = Result<Reply, Status>;

/// The shim.
pub struct Shim {
    /// How it was started.
    pub args: Args,
    /// epoll and timers.
    pub poller: Poller,
    /// Containers by id.
    pub containers: BTreeMap<String, Container>,
    /// Processes of all containers.
    pub processes: BTreeMap<Key, Process>,
    /// Programs in flight.
    pub ops: BTreeMap<Key, Op>,
    /// Commands that run again and again.
    pub probes: BTreeMap<Key, Probe>,
    /// Attached clients.
    pub attaches: BTreeMap<Key, Attach>,
    /// The sandbox that the containers belong to, if the caller speaks of sandboxes.
    pub sandbox: Option<Sandbox>,
    /// Events for containerd.
    pub publisher: Publisher,
    /// The loop is to end.
    pub ending: bool,
    /// A process of this program may enter a container.
    pub sealed: bool,
    listener: OwnedFd,
    conns: BTreeMap<Key, Conn>,
    parked: Vec<Call>,
    signals: Signals,
    orphans: bool,
    last_key: Key,
    active_at: Instant,
    rest_is_due: bool,
}

/// Serves until shut down. Standard input is the listening socket.
pub fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let sealed = seal();
    if let Err(error) = &sealed {
        let message = format!("every exec will be left to the runtime: {error}");
        crate::diag::warn(&args.bundle, &message);
    }
    let sealed = sealed.is_ok();
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    let null = crate::spawn::null()?;
    rustix::stdio::dup2_stdin(&null)?;
    let poller = Poller::new()?;
    let signals = Signals::new(&poller)?;
    poller
        .add(&listener, Token::Listener, Interest::IN)
        .map_err(|e| format!("standard input is not a listening socket: {e}"))?;
    let publisher = Publisher::new(&args);
    let mut shim = Shim {
        args,
        poller,
        containers: BTreeMap::new(),
        processes: BTreeMap::new(),
        ops: BTreeMap::new(),
        probes: BTreeMap::new(),
        attaches: BTreeMap::new(),
        sandbox: None,
        publisher,
        ending: false,
        sealed,
        listener,
        conns: BTreeMap::new(),
        parked: Vec::new(),
        signals,
        orphans: false,
        last_key: 0,
        active_at: Instant::now(),
        rest_is_due: false,
    };
    shim.poller.after(UNUSED, Timer::Unused);
    let result = shim.serve();
    sock::remove_all(&shim.args.socket);
    let _ = fs::remove_file(shim.args.bundle.join("address"));
    Ok(result?)
}

/// Protects this program from containers that its execs enter: its file by executing it again
/// from a read-only mount (CVE-2019-5736), its memory and descriptors by being undumpable
/// (CVE-2016-9962).
fn seal() -> rrun_sys::Result<()> {
    rrun_sys::seal::protect_own_binary()?;
    // Other users could no longer read their own files of /proc.
    if rrun_sys::cred::is_root() {
        rrun_sys::cred::set_dumpable(false)?;
    }
    Ok(())
}

impl Shim {
    fn serve(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::new();
        while !(self.ending && self.is_quiet()) {
            self.poller.wait(&mut events)?;
            if !events.is_empty() {
                self.note_activity();
            }
            for (token, ready) in events.drain(..) {
                self.on_event(token, ready);
            }
            for timer in self.poller.due() {
                self.on_timer(timer);
            }
            if self.orphans {
                self.bury_orphans();
            }
        }
        Ok(())
    }

    /// Whether everything that was said has been heard.
    fn is_quiet(&self) -> bool {
        self.publisher.is_idle() && !self.conns.values().any(Conn::has_unsent)
    }

    fn is_unused(&self) -> bool {
        self.containers.is_empty() && self.sandbox.is_none() && self.conns.is_empty()
    }

    /// A number that was never used.
    pub fn new_key(&mut self) -> Key {
        self.last_key += 1;
        self.last_key
    }

    /// Says something in the shim's log.
    pub fn warn(&self, message: &str) {
        crate::diag::warn(&self.args.bundle, message);
    }

    /// Path for a further socket.
    pub fn socket_path(&self, kind: char, key: Key) -> std::path::PathBuf {
        sock::sibling(&self.args.socket, kind, key)
    }

    fn on_event(&mut self, token: Token, ready: Interest) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Listener => self.on_listener(),
            Token::Conn(key) => self.on_conn(key, ready),
            Token::Op(key) => self.on_op(key),
            Token::Exit(key) => self.on_exit(key),
            Token::Console(key) => self.on_console(key),
            Token::Peer(key) => self.on_peer(key),
            Token::Output(key, number) => self.pump(key, number),
            Token::Sink(key, number) => self.on_sink(key, number),
            Token::Stdin(key) => self.on_stdin(key),
            Token::StdinSink(key) => self.on_stdin_sink(key),
            Token::AttachListener(key) => self.on_attach_listener(key),
            Token::Attach(key) => self.on_attach(key, ready),
            Token::Oom(key) => self.on_oom(key),
            Token::Publish => self.publisher.on_event(&mut self.poller),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::AttachExpires(key) => self.on_attach_expired(key),
            Timer::OutputEnds(key) => self.on_output_timer(key),
            Timer::CommandGoesOn(key) => self.on_command_going_on(key),
            Timer::CommandExpires(key) => self.on_command_expired(key),
            Timer::ProbeDue(key) => self.on_probe_due(key),
            Timer::CommandDrained(key) => self.finish_command(key),
            Timer::Publish => self.publisher.on_event(&mut self.poller),
            Timer::Listen => {
                let _ = self
                    .poller
                    .add(&self.listener, Token::Listener, Interest::IN);
            }
            Timer::Rest => self.rest(),
            // Whoever started us died before it could use us.
            Timer::Unused => self.ending |= self.is_unused(),
        }
    }

    /// Gives memory back once nothing has happened for a while; looks again after that where
    /// something has.
    fn rest(&mut self) {
        self.rest_is_due = self.active_at.elapsed() < REST;
        if self.rest_is_due {
            self.poller.after(REST, Timer::Rest);
        } else {
            rrun_sys::mem::rest();
        }
    }

    fn note_activity(&mut self) {
        self.active_at = Instant::now();
        if !std::mem::replace(&mut self.rest_is_due, true) {
            self.poller.after(REST, Timer::Rest);
        }
    }

    fn on_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signalled::Child => self.orphans = true,
                // A container outlives whoever wants its shim gone without deleting it.
                Signalled::Terminate => self.ending |= self.containers.is_empty(),
            }
        }
    }

    /// Children whose pid we are about to learn from a runtime are not buried before.
    fn bury_orphans(&mut self) {
        let unknown_yet = self.ops.values().any(Op::makes_process);
        let ours = |pid: i32| {
            unknown_yet
                || self.ops.values().any(|op| op.pid() == pid)
                || self
                    .processes
                    .values()
                    .any(|p| p.pidfd.is_some() && p.pid as i32 == pid)
        };
        self.orphans = reaper::bury(ours);
    }

    fn on_listener(&mut self) {
        loop {
            match sock::accept(&self.listener) {
                Ok(fd) => {
                    let key = self.new_key();
                    if self.poller.add(&fd, Token::Conn(key), Interest::IN).is_ok() {
                        self.conns.insert(key, Conn::new(fd));
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // Out of descriptors: to look again at once would be to spin.
                    self.warn(&format!("accept a connection: {error}"));
                    self.poller.remove(&self.listener);
                    return self.poller.after(RETRY, Timer::Listen);
                }
            }
        }
    }

    fn on_conn(&mut self, key: Key, ready: Interest) {
        let Some(conn) = self.conns.get_mut(&key) else {
            return;
        };
        if ready.contains(Interest::OUT) && conn.flush().is_err() {
            return self.close_conn(key);
        }
        let frames = if ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            conn.read()
        } else {
            Ok(Vec::new())
        };
        match frames {
            Ok(frames) => frames
                .into_iter()
                .for_each(|frame| self.on_frame(key, &frame)),
            Err(_closed) => return self.close_conn(key),
        }
        self.watch_conn(key);
    }

    fn on_frame(&mut self, conn: Key, frame: &Frame) {
        if frame.kind != Kind::Request {
            return;
        }
        let caller = Caller {
            conn,
            stream: frame.stream,
        };
        match Request::decode(&frame.data[..]) {
            Ok(request) => self.handle(Call { caller, request }),
            Err(error) => {
                self.answer(caller, Err(Status::invalid(format!("request: {error}"))));
            }
        }
    }

    /// Handles a request; answers it, or leaves that to what was started.
    fn handle(&mut self, call: Call) {
        match self.dispatch(&call) {
            Ok(Reply::Now(payload)) => self.answer(call.caller, Ok(payload)),
            Ok(Reply::Pending) => {}
            Ok(Reply::Later) => self.parked.push(call),
            Err(status) => self.answer(call.caller, Err(status)),
        }
    }

    /// Asks again for what was too early.
    pub fn retry_parked(&mut self) {
        for call in std::mem::take(&mut self.parked) {
            if self.conns.contains_key(&call.caller.conn) {
                self.handle(call);
            }
        }
    }

    /// Sends an answer; who has gone away needs none.
    pub fn answer(&mut self, caller: Caller, result: Result<Vec<u8>, Status>) {
        let Some(conn) = self.conns.get_mut(&caller.conn) else {
            return;
        };
        if conn.send(&frame::response(caller.stream, result)).is_err() {
            return self.close_conn(caller.conn);
        }
        self.watch_conn(caller.conn);
    }

    fn watch_conn(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(&key) else {
            return;
        };
        let unsent = conn.has_unsent();
        if std::mem::replace(&mut conn.waits_for_room, unsent) == unsent {
            return;
        }
        let mut interest = Interest::IN;
        interest.set(Interest::OUT, unsent);
        let _ = self.poller.modify(&conn.fd, Token::Conn(key), interest);
    }

    fn close_conn(&mut self, key: Key) {
        if let Some(conn) = self.conns.remove(&key) {
            self.poller.remove(&conn.fd);
        }
        for process in self.processes.values_mut() {
            process.waiters.retain(|caller| caller.conn != key);
        }
        self.end_probes(|probe| probe.caller.conn == key);
        self.abandon_commands(key);
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.forget_conn(key);
        }
        if self.is_unused() {
            self.poller.cancel(Timer::Unused);
            self.poller.after(UNUSED, Timer::Unused);
        }
    }
}

/// Removes a file that may not be there.
pub fn forget(path: &Path) {
    let _ = fs::remove_file(path);
}
