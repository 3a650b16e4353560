//! Standard input on its way to the process: from a FIFO or from attached clients, with
//! back-pressure, closed when its writers are done.

use crate::poll::{Interest, Key, Poller, Token};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Input that the process has not taken yet is kept up to this many bytes, then its source waits.
const MAX_PENDING: usize = 64 * 1024;

/// The way to one process's standard input.
pub struct Stdin {
    key: Key,
    /// Write end of a pipe, or a terminal's master.
    sink: OwnedFd,
    fifo: Option<OwnedFd>,
    pending: Vec<u8>,
    waits_for_sink: bool,
    closing: bool,
}

/// What became of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// There is room for more.
    Open,
    /// The process reads too slowly: hold the source.
    Full,
    /// Closed; drop it.
    Closed,
}

impl Stdin {
    /// To a non-blocking `sink`; `fifo` is read, non-blocking, where it is given.
    pub fn new(key: Key, sink: OwnedFd, fifo: Option<OwnedFd>, poller: &Poller) -> Self {
        if let Some(fifo) = &fifo {
            // A FIFO can be watched; the descriptor is ours and new.
            let _ = poller.add(fifo, Token::Stdin(key), Interest::IN);
        }
        Self {
            key,
            sink,
            fifo,
            pending: Vec::new(),
            waits_for_sink: false,
            closing: false,
        }
    }

    /// The FIFO has something, or its last writer has gone.
    pub fn on_fifo(&mut self, poller: &Poller) -> Flow {
        let mut chunk = [0; 8192];
        while let Some(fifo) = &self.fifo {
            if !self.pending.is_empty() {
                poller.remove(fifo);
                return Flow::Full;
            }
            match rustix::io::read(fifo, &mut chunk) {
                Ok(0) => {
                    self.drop_fifo(poller);
                    return self.close(poller);
                }
                Ok(n) => {
                    if self.push(&chunk[..n], poller) == Flow::Closed {
                        return Flow::Closed;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return if self.closing {
                        self.close(poller)
                    } else {
                        Flow::Open
                    };
                }
                Err(_) => self.drop_fifo(poller),
            }
        }
        Flow::Open
    }

    /// Input from an attached client.
    pub fn push(&mut self, data: &[u8], poller: &Poller) -> Flow {
        self.pending.extend_from_slice(data);
        self.flush(poller)
    }

    /// The process may take more. Reads on from the FIFO when there is room.
    pub fn on_sink(&mut self, poller: &Poller) -> Flow {
        match self.flush(poller) {
            Flow::Open if self.fifo.is_some() => {
                if let Some(fifo) = &self.fifo {
                    poller.remove(fifo);
                    let _ = poller.add(fifo, Token::Stdin(self.key), Interest::IN);
                }
                self.on_fifo(poller)
            }
            flow => flow,
        }
    }

    /// No more input comes; closed once what was written is on its way.
    pub fn close(&mut self, poller: &Poller) -> Flow {
        let first = !std::mem::replace(&mut self.closing, true);
        if first && self.fifo.is_some() {
            return self.on_fifo(poller);
        }
        if self.pending.is_empty() {
            self.drop_fifo(poller);
            return Flow::Closed;
        }
        Flow::Full
    }

    /// Forgets the descriptors.
    pub fn unwatch(&mut self, poller: &Poller) {
        self.drop_fifo(poller);
        poller.remove(&self.sink);
    }

    fn drop_fifo(&mut self, poller: &Poller) {
        if let Some(fifo) = self.fifo.take() {
            poller.remove(&fifo);
        }
    }

    fn flush(&mut self, poller: &Poller) -> Flow {
        let mut sent = 0;
        while sent < self.pending.len() {
            match rustix::io::write(&self.sink, &self.pending[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // The process closed its standard input; nobody will read the rest.
                    self.unwatch(poller);
                    return Flow::Closed;
                }
            }
        }
        self.pending.drain(..sent);
        if self.pending.is_empty() {
            self.pending = Vec::new();
            if std::mem::take(&mut self.waits_for_sink) {
                poller.remove(&self.sink);
            }
            return if self.closing && self.fifo.is_none() {
                Flow::Closed
            } else {
                Flow::Open
            };
        }
        if !self.waits_for_sink {
            self.waits_for_sink = true;
            let _ = poller.add(&self.sink, Token::StdinSink(self.key), Interest::OUT);
        }
        if self.pending.len() > MAX_PENDING {
            Flow::Full
        } else {
            Flow::Open
        }
    }
}
