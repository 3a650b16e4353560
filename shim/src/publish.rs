//! Events for containerd, in order, one at a time: by its ttrpc events service where
//! `TTRPC_ADDRESS` names one, else by its `publish` command. A daemon that is away gets them when
//! it is back, up to a limit; nothing of the container waits for it.

use crate::args::Args;
use crate::conn::Conn;
use crate::poll::{Interest, Poller, Timer, Token};
use crate::server::Shim;
use crate::sock;
use crate::spawn;
use rrun_task_api::any;
use rrun_task_api::frame;
use rrun_task_api::pb::Any;
use rrun_task_api::pb::events_service::ForwardRequest;
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::pb::types::Envelope;
use rrun_task_api::prost::Message;
use rrun_task_api::service::EVENTS;
use rrun_task_api::time::timestamp;
use rustix::fd::AsFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::env;
use std::ffi::{CString, OsStr};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Events kept while containerd is away; the oldest go first.
const MAX_WAITING: usize = 512;
/// Between two tries, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Nanoseconds that containerd may take over one event.
const TIMEOUT: i64 = 5_000_000_000;

enum Way {
    /// Nobody wants to know.
    Nowhere,
    /// containerd's ttrpc socket.
    Ttrpc(PathBuf),
    /// `<binary> --address A publish --topic T --namespace N`, the event on standard input.
    Command { binary: String, address: String },
}

/// What is still to be said, and how.
pub struct Publisher {
    way: Way,
    waiting: VecDeque<Envelope>,
    conn: Option<Conn>,
    /// Stream of the event that is on its way.
    sent: Option<u32>,
    next_stream: u32,
    delay: Duration,
    retrying: bool,
}

impl Publisher {
    /// By what containerd told us.
    pub fn new(args: &Args) -> Self {
        let address = env::var("TTRPC_ADDRESS").unwrap_or_default();
        let address = address
            .strip_prefix("unix://")
            .unwrap_or(&address)
            .to_owned();
        let way = if address.starts_with('/') {
            Way::Ttrpc(PathBuf::from(address))
        } else if !args.publish_binary.is_empty() && !args.address.is_empty() {
            let (binary, address) = (args.publish_binary.clone(), args.address.clone());
            Way::Command { binary, address }
        } else {
            Way::Nowhere
        };
        Self {
            way,
            waiting: VecDeque::new(),
            conn: None,
            sent: None,
            next_stream: 1,
            delay: RETRY.0,
            retrying: false,
        }
    }

    /// Whether nothing more can be said now: all was, or containerd is away.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() || self.retrying
    }

    fn push(&mut self, envelope: Envelope, poller: &mut Poller) {
        match &self.way {
            Way::Nowhere => return,
            Way::Command { binary, address } => {
                // A failure has nobody to go to; containerd asks for the state when it is back.
                let _ = publish_by(binary, address, &envelope);
                return;
            }
            Way::Ttrpc(_) => {}
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.remove(usize::from(self.sent.is_some()));
        }
        self.waiting.push_back(envelope);
        if !self.retrying {
            self.advance(poller);
        }
    }

    /// containerd answered, or went away, or it is time to try again.
    pub fn on_event(&mut self, poller: &mut Poller) {
        self.retrying = false;
        if let Some(conn) = &mut self.conn {
            let frames = conn.flush().and_then(|()| conn.read());
            match frames {
                Ok(frames) => {
                    for frame in frames
                        .iter()
                        .filter(|frame| Some(frame.stream) == self.sent)
                    {
                        // Refused or not, it was heard: again would be refused again.
                        let _ = frame::open_response(&frame.data);
                        self.waiting.pop_front();
                        self.delay = RETRY.0;
                    }
                    if frames.iter().any(|frame| Some(frame.stream) == self.sent) {
                        self.sent = None;
                    }
                }
                Err(_closed) => self.disconnect(poller),
            }
        }
        self.advance(poller);
    }

    fn advance(&mut self, poller: &mut Poller) {
        if self.sent.is_some() {
            return self.watch(poller);
        }
        let Some(envelope) = self.waiting.front() else {
            return self.watch(poller);
        };
        let stream = self.next_stream;
        let payload = ForwardRequest {
            envelope: Some(envelope.clone()),
        }
        .encode_to_vec();
        let request = Request {
            service: EVENTS.to_owned(),
            method: "Forward".to_owned(),
            payload,
            timeout_nano: TIMEOUT,
            metadata: Vec::new(),
        };
        let Ok(bytes) = frame::request(stream, &request) else {
            self.waiting.pop_front();
            return;
        };
        let sent = self.connect(poller).is_ok()
            && self
                .conn
                .as_mut()
                .is_some_and(|conn| conn.send(&bytes).is_ok());
        if sent {
            self.sent = Some(stream);
            self.next_stream = self.next_stream.wrapping_add(2);
            self.watch(poller);
        } else {
            self.disconnect(poller);
            self.retrying = true;
            poller.after(self.delay, Timer::Publish);
            self.delay = (self.delay * 2).min(RETRY.1);
        }
    }

    fn connect(&mut self, poller: &Poller) -> io::Result<()> {
        let Way::Ttrpc(path) = &self.way else {
            return Err(io::Error::other("no ttrpc"));
        };
        if self.conn.is_some() {
            return Ok(());
        }
        let fd = sock::connect_to(path, true)?;
        poller.add(&fd, Token::Publish, Interest::IN)?;
        self.conn = Some(Conn::new(fd));
        Ok(())
    }

    fn watch(&self, poller: &Poller) {
        if let Some(conn) = &self.conn {
            let mut interest = Interest::IN;
            interest.set(Interest::OUT, conn.has_unsent());
            let _ = poller.modify(&conn.fd, Token::Publish, interest);
        }
    }

    fn disconnect(&mut self, poller: &Poller) {
        self.sent = None;
        if let Some(conn) = self.conn.take() {
            poller.remove(&conn.fd);
        }
    }
}

impl Shim {
    /// Publishes `/tasks/<what>`; the message's name is its type's.
    pub fn publish(&mut self, what: &str, event: &impl Message) {
        let name = match what {
            "create" => "TaskCreate",
            "start" => "TaskStart",
            "exit" => "TaskExit",
            "delete" => "TaskDelete",
            "oom" => "TaskOOM",
            "exec-added" => "TaskExecAdded",
            "exec-started" => "TaskExecStarted",
            "paused" => "TaskPaused",
            "resumed" => "TaskResumed",
            _ => "TaskCheckpointed",
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())),
            namespace: self.args.namespace.clone(),
            topic: format!("/tasks/{what}"),
            event: Some(any::pack(&format!("containerd.events.{name}"), event)),
        };
        self.publisher.push(envelope, &mut self.poller);
    }
}

fn publish_by(binary: &str, address: &str, envelope: &Envelope) -> io::Result<()> {
    let args = [
        binary,
        "--address",
        address,
        "publish",
        "--topic",
        &envelope.topic,
        "--namespace",
        &envelope.namespace,
    ];
    let args = args
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let null = spawn::null()?;
    let fds = [reader.as_fd(), null.as_fd(), null.as_fd()];
    spawn::spawn(OsStr::new(binary), &args, &spawn::environment(), &fds)?;
    let event = envelope
        .event
        .as_ref()
        .map(Any::encode_to_vec)
        .unwrap_or_default();
    // An event is far below a pipe's 64 KiB; the program is buried with the orphans.
    rustix::io::write(&writer, &event)?;
    Ok(())
}
