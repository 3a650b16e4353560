//! Attached clients: a unix stream socket, frames of [`rrun_task_api::stdio`] both ways.

use crate::poll::{Interest, Key, Poller, Token};
use crate::sock;
use rrun_task_api::stdio::{self, HEADER, MAX_DATA, Stream};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long a socket waits for its client. Long: on a machine with too much to do, twenty seconds went by.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// A client that is this far behind a log is let go.
const MAX_BEHIND: usize = 1 << 20;
/// A client that is the only reader holds the process up from here on.
const HOLD: usize = 64 * 1024;

enum Socket {
    Listening(OwnedFd, PathBuf),
    Connected(OwnedFd),
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// To send input.
    pub stdin: bool,
    /// To see standard output.
    pub stdout: bool,
    /// To see standard error.
    pub stderr: bool,
}

/// One client, or the socket that waits for it.
pub struct Attach {
    key: Key,
    /// The process it is attached to.
    pub process: Key,
    wants: Wants,
    /// The only reader: gets every byte, and may hold the process up.
    pub sole: bool,
    socket: Socket,
    input: Vec<u8>,
    unsent: Vec<u8>,
    input_held: bool,
    input_ended: bool,
    /// All output was sent; gone once the client has it.
    ending: bool,
    watched: Interest,
}

/// The client is of no more use.
pub struct Gone;

/// Input from a client.
pub enum Input {
    /// Bytes for the process.
    Data(Vec<u8>),
    /// Its standard input is to be closed.
    Close,
}

impl Attach {
    /// Listens on `path` for one client.
    pub fn listen(
        key: Key,
        process: Key,
        wants: Wants,
        sole: bool,
        path: PathBuf,
        poller: &Poller,
    ) -> io::Result<Self> {
        let _ = fs::remove_file(&path);
        let listener = sock::listen_on(&path)?;
        poller.add(&listener, Token::AttachListener(key), Interest::IN)?;
        Ok(Self {
            key,
            process,
            wants,
            sole,
            socket: Socket::Listening(listener, path),
            input: Vec::new(),
            unsent: Vec::new(),
            input_held: false,
            input_ended: false,
            ending: false,
            watched: Interest::empty(),
        })
    }

    /// Whether a client has come.
    pub fn is_connected(&self) -> bool {
        matches!(self.socket, Socket::Connected(_))
    }

    /// Takes the client; the socket is closed to others.
    pub fn accept(&mut self, poller: &Poller) -> Result<(), Gone> {
        let Socket::Listening(listener, path) = &self.socket else {
            return Ok(());
        };
        let fd = match sock::accept(listener) {
            Ok(fd) => fd,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Gone),
        };
        let _ = fs::remove_file(path);
        poller.remove(listener);
        self.watched = Interest::IN;
        poller
            .add(&fd, Token::Attach(self.key), self.watched)
            .map_err(|_| Gone)?;
        self.socket = Socket::Connected(fd);
        self.flush(poller)
    }

    /// Whether the source of output has to wait for this client.
    pub fn holds_output(&self) -> bool {
        self.sole && (!self.is_connected() || self.unsent.len() > HOLD)
    }

    /// Whether this client gets a stream (1 stdout, 2 stderr).
    pub fn wants_output(&self, number: u8) -> bool {
        if number == 1 {
            self.wants.stdout
        } else {
            self.wants.stderr
        }
    }

    /// Sends output.
    pub fn send(&mut self, stream: Stream, data: &[u8], poller: &Poller) -> Result<(), Gone> {
        if !self.sole && self.unsent.len() > MAX_BEHIND {
            return Err(Gone);
        }
        for chunk in data.chunks(MAX_DATA) {
            self.unsent
                .extend_from_slice(&stdio::header(stream, chunk.len()));
            self.unsent.extend_from_slice(chunk);
        }
        self.flush(poller)
    }

    /// Says that all output was sent, and ends once the client has it.
    pub fn end(&mut self, poller: &Poller) -> Result<(), Gone> {
        if !std::mem::replace(&mut self.ending, true) {
            self.unsent
                .extend_from_slice(&stdio::header(Stream::End, 0));
        }
        self.flush(poller)
    }

    /// Sends what was not sent yet.
    pub fn flush(&mut self, poller: &Poller) -> Result<(), Gone> {
        let Socket::Connected(fd) = &self.socket else {
            return Ok(());
        };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match rustix::io::write(fd, &self.unsent[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Gone),
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
            if self.ending {
                return Err(Gone);
            }
        }
        self.update(poller);
        Ok(())
    }

    /// Holds the client's input back, or lets it through again.
    pub fn hold_input(&mut self, hold: bool, poller: &Poller) {
        self.input_held = hold;
        self.update(poller);
    }

    /// Reads the client's input.
    pub fn read(&mut self) -> Result<Vec<Input>, Gone> {
        let Socket::Connected(fd) = &self.socket else {
            return Ok(Vec::new());
        };
        let mut chunk = [0; 8192];
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => self.input_ended = true,
            Ok(n) => self.input.extend_from_slice(&chunk[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Err(Gone),
        }
        let mut inputs = Vec::new();
        while let Some(head) = self.input.first_chunk::<HEADER>() {
            let (stream, length) = stdio::parse(*head).map_err(|_| Gone)?;
            if self.input.len() < HEADER + length {
                break;
            }
            if stream == Stream::Stdin && self.wants.stdin {
                inputs.push(match length {
                    0 => Input::Close,
                    _ => Input::Data(self.input[HEADER..HEADER + length].to_vec()),
                });
            }
            self.input.drain(..HEADER + length);
        }
        Ok(inputs)
    }

    /// Watches for what can be done: input unless it is held or has ended, room for output.
    pub fn update(&mut self, poller: &Poller) {
        let Socket::Connected(fd) = &self.socket else {
            return;
        };
        let mut interest = Interest::empty();
        interest.set(Interest::IN, !self.input_held && !self.input_ended);
        interest.set(Interest::OUT, !self.unsent.is_empty());
        if interest != self.watched {
            self.watched = interest;
            let _ = poller.modify(fd, Token::Attach(self.key), interest);
        }
    }

    /// Forgets the descriptors and the path.
    pub fn unwatch(&mut self, poller: &Poller) {
        match &self.socket {
            Socket::Listening(fd, path) => {
                poller.remove(fd);
                let _ = fs::remove_file(path);
            }
            Socket::Connected(fd) => poller.remove(fd),
        }
    }
}
