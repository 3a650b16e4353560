//! One output of a process on its way out. Each sink has its own manners: a FIFO's reader can
//! hold the process up, as its user chose; a log never does.

use crate::poll::{Interest, Key, Poller, Token};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::mem::MaybeUninit;

/// Where what was read goes.
pub enum Sink {
    /// Nowhere.
    Null,
    /// A FIFO or pipe, non-blocking, and what it did not take yet.
    Pipe(OwnedFd, Vec<u8>),
    /// The end of a file.
    File(File),
    /// The process's [`crate::log::Log`].
    Log,
    /// The process's [`crate::command::Command`].
    Kept,
    /// The one attached client, with back-pressure; waits until there is one.
    Attach,
}

/// Where what was read came from.
pub struct Output {
    key: Key,
    /// 1 for stdout, 2 for stderr.
    number: u8,
    source: OwnedFd,
    /// Where it goes.
    pub sink: Sink,
    watched: bool,
    sink_watched: bool,
}

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// Nothing for now.
    Empty,
    /// Nothing ever again.
    End,
}

impl Output {
    /// From a non-blocking `source`.
    pub fn new(key: Key, number: u8, source: OwnedFd, sink: Sink) -> Self {
        Self {
            key,
            number,
            source,
            sink,
            watched: false,
            sink_watched: false,
        }
    }

    /// Watches the source for output, or stops to.
    pub fn watch(&mut self, on: bool, poller: &Poller) {
        if on == self.watched {
            return;
        }
        self.watched = on;
        if on {
            let token = Token::Output(self.key, self.number);
            let _ = poller.add(&self.source, token, Interest::IN);
        } else {
            poller.remove(&self.source);
        }
    }

    /// Whether the sink itself holds the source up.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.sink, Sink::Pipe(_, pending) if !pending.is_empty())
    }

    /// Reads what is there. Of the buffer only what that fills is touched: after a clone each page of
    /// it that is written costs a fault.
    pub fn read<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Read<'a> {
        match rustix::io::read(&self.source, buffer) {
            Ok(([], _)) => Read::End,
            Ok((data, _)) => Read::Data(data),
            // What is there all the same is told of by the next event.
            Err(Errno::AGAIN | Errno::INTR) => Read::Empty,
            // A terminal whose other side is closed says EIO.
            Err(_) => Read::End,
        }
    }

    /// Hands data to a pipe or file; the other sinks are the caller's.
    pub fn deliver(&mut self, data: &[u8], poller: &Poller) {
        match &mut self.sink {
            Sink::Pipe(_, pending) => {
                pending.extend_from_slice(data);
                self.flush(poller);
            }
            Sink::File(file) => {
                // A full disk loses output rather than stop the container.
                let _ = file.write_all(data);
            }
            Sink::Null | Sink::Log | Sink::Kept | Sink::Attach => {}
        }
    }

    /// Gives a pipe what it did not take before.
    pub fn flush(&mut self, poller: &Poller) {
        let Sink::Pipe(fd, pending) = &mut self.sink else {
            return;
        };
        let mut sent = 0;
        let mut broken = false;
        while sent < pending.len() && !broken {
            match rustix::io::write(&*fd, &pending[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => broken = true,
            }
        }
        pending.drain(..sent);
        if pending.is_empty() {
            *pending = Vec::new();
        }
        let waits = !pending.is_empty() && !broken;
        if waits && !self.sink_watched {
            let _ = poller.add(&*fd, Token::Sink(self.key, self.number), Interest::OUT);
        } else if !waits && self.sink_watched {
            poller.remove(&*fd);
        }
        self.sink_watched = waits;
        if broken {
            self.sink = Sink::Null;
        }
    }

    /// Forgets the descriptors.
    pub fn unwatch(&mut self, poller: &Poller) {
        self.watch(false, poller);
        if self.sink_watched
            && let Sink::Pipe(fd, _) = &self.sink
        {
            poller.remove(fd);
        }
    }
}
