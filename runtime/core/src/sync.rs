//! The conversation between the command and the init process it cloned, over a
//! SOCK_SEQPACKET pair: one byte of kind, then text.
//!
//! ```text
//! parent                         init
//!   ── Mapped ──────────────────▶      id maps are written (new user namespace only)
//!   ── Cgroup ──────────────────▶      cgroups exist
//!   ◀──────────────── Devices ──       interfaces move into its network namespace
//!   ── Go ──────────────────────▶
//!   ◀─────────────────── Tree ──       an id-mapped source that earlier mounts made
//!   ── (a descriptor) ──────────▶
//!   ◀────────────────── Hooks ──       namespaces and mounts are made, before pivot_root
//!   ── Go ──────────────────────▶      prestart and createRuntime hooks have run
//!   ◀───────────────── Limits ──       in a user namespace: rlimits, by the parent
//!   ── Go ──────────────────────▶
//!   ◀─────────────── Listener ──       seccomp: take the descriptor, pass it on
//!   ── Go ──────────────────────▶
//!   ◀────────────────── Ready ──       only the start is missing
//!   ── Go ──────────────────────▶      `run` only; `create` leaves, and a fifo tells
//!   ◀───────────────── (close) ──      exec closed it: the process runs
//!   ◀────────────────── Error ──       at any time: why init gave up
//! ```

use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The id maps are written.
    Mapped,
    /// The cgroups exist.
    Cgroup,
    /// The network namespace is there: interfaces may move into it.
    Devices,
    /// Hooks of the runtime's namespaces may run.
    Hooks,
    /// Go on.
    Go,
    /// Send the source of this mount (index in `mounts`), its ids mapped.
    Tree(usize),
    /// Set the resource limits now; answered with Go.
    Limits,
    /// All set up.
    Ready,
    /// A seccomp listener is open under this number in the sender; it waits for Go.
    Listener(i32),
    /// The init process, cloned by another.
    Pid(i32),
    /// Init gave up.
    Error(String),
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Number of the other end, which a clone copies.
    peer: i32,
}

/// A conversation: (parent's end, init's end).
pub fn pair() -> Result<(Channel, Channel)> {
    let (a, b) = rrun_sys::socket::pair()?;
    let (peer_a, peer_b) = (b.as_raw_fd(), a.as_raw_fd());
    Ok((
        Channel {
            fd: a,
            peer: peer_a,
        },
        Channel {
            fd: b,
            peer: peer_b,
        },
    ))
}

/// Longest error text, well below a socket's buffer.
const MAX: usize = 4096;

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// In a cloned process: closes its copy of the parent's end, without which it
    /// would never see that the parent is gone.
    pub fn close_peer(&self) -> Result<()> {
        Ok(rrun_sys::fd::close_inherited(self.peer)?)
    }

    /// Sends `message`.
    pub fn send(&self, message: &Message) -> Result<()> {
        let number;
        let (kind, text) = match message {
            Message::Mapped => (b'm', ""),
            Message::Cgroup => (b'c', ""),
            Message::Hooks => (b'h', ""),
            Message::Devices => (b'd', ""),
            Message::Go => (b'g', ""),
            Message::Ready => (b'r', ""),
            Message::Limits => (b'x', ""),
            Message::Listener(fd) => {
                number = fd.to_string();
                (b'l', number.as_str())
            }
            Message::Pid(pid) => {
                number = pid.to_string();
                (b'p', number.as_str())
            }
            Message::Tree(index) => {
                number = index.to_string();
                (b't', number.as_str())
            }
            Message::Error(text) => (b'e', text.as_str()),
        };
        let mut data = vec![kind];
        data.extend(text.bytes().take(MAX));
        Ok(rrun_sys::fd::write_all(self.fd.as_fd(), &data)?)
    }

    /// The next message; `None` when the other side has closed.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; MAX + 1];
        let length = rrun_sys::fd::read(self.fd.as_fd(), &mut buffer)?;
        let Some((kind, text)) = buffer[..length].split_first() else {
            return Ok(None);
        };
        Ok(Some(match kind {
            b'm' => Message::Mapped,
            b'c' => Message::Cgroup,
            b'h' => Message::Hooks,
            b'd' => Message::Devices,
            b'g' => Message::Go,
            b'r' => Message::Ready,
            b'p' => Message::Pid(String::from_utf8_lossy(text).parse().unwrap_or(-1)),
            b'x' => Message::Limits,
            b't' => Message::Tree(String::from_utf8_lossy(text).parse().unwrap_or(usize::MAX)),
            b'l' => Message::Listener(String::from_utf8_lossy(text).parse().unwrap_or(-1)),
            _ => Message::Error(String::from_utf8_lossy(text).into_owned()),
        }))
    }

    /// The next message, which must be `wanted`; an error of init's otherwise.
    pub fn expect(&self, wanted: &Message) -> Result<()> {
        match self.receive()? {
            Some(message) if message == *wanted => Ok(()),
            Some(Message::Error(text)) => Err(Error::Remote(text)),
            other => Err(Error::Remote(match other {
                Some(message) => {
                    format!("expected {wanted:?} from the other side, got {message:?}")
                }
                None => "the other side ended early (killed, or out of memory)".to_owned(),
            })),
        }
    }
}
