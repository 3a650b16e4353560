//! One ttrpc connection: bytes in, frames out, and the other way round. Never blocks.

use rrun_task_api::frame::{self, Frame, HEADER, MAX_DATA};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::mem::MaybeUninit;

/// Answers that a client does not fetch are kept up to this many bytes.
const MAX_UNSENT: usize = 4 * MAX_DATA;

/// A client's connection.
pub struct Conn {
    /// The socket, non-blocking.
    pub fd: OwnedFd,
    /// It is watched for room to send, too.
    pub waits_for_room: bool,
    input: Vec<u8>,
    unsent: Vec<u8>,
}

/// The connection is of no more use.
pub struct Closed;

impl Conn {
    /// Over a connected, non-blocking socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            waits_for_room: false,
            input: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Reads what is there and returns the whole frames.
    pub fn read(&mut self) -> Result<Vec<Frame>, Closed> {
        let mut chunk = [MaybeUninit::uninit(); 8192];
        let mut frames = Vec::new();
        let mut is_drained = false;
        while !is_drained {
            match rustix::io::read(&self.fd, &mut chunk) {
                Ok(([], _)) => {
                    return if frames.is_empty() {
                        Err(Closed)
                    } else {
                        Ok(frames)
                    };
                }
                Ok((data, rest)) => {
                    self.input.extend_from_slice(data);
                    // Where there is room left there was no more; an end is told by another event.
                    is_drained = !rest.is_empty();
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Closed),
            }
            while let Some(frame) = frame::take(&mut self.input).map_err(|_| Closed)? {
                frames.push(frame);
            }
            if self.input.len() > HEADER + MAX_DATA {
                return Err(Closed);
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(frames)
    }

    /// Sends bytes now as far as they go, the rest when [`Conn::flush`] is called.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        if self.unsent.len() > MAX_UNSENT {
            return Err(Closed);
        }
        self.unsent.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what could not be sent before.
    pub fn flush(&mut self) -> Result<(), Closed> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match rustix::io::write(&self.fd, &self.unsent[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Closed),
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }
}
