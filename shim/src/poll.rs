//! epoll, with tokens that say whom an event is for, and timers.

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::time::{Duration, Instant};

pub use epoll::EventFlags as Interest;

/// Number of a process of ours, never used twice in a shim's life.
pub type Key = u32;

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A signal arrived.
    Signals,
    /// Somebody connects to the Task API.
    Listener,
    /// A ttrpc connection.
    Conn(Key),
    /// A program we ran has ended.
    Op(Key),
    /// A container's or exec's process has ended.
    Exit(Key),
    /// The runtime hands over a terminal.
    Console(Key),
    /// Output to read: process, and 1 for stdout, 2 for stderr.
    Output(Key, u8),
    /// The reader of an output takes more again.
    Sink(Key, u8),
    /// Input to read.
    Stdin(Key),
    /// The process takes more input again.
    StdinSink(Key),
    /// Somebody connects to an attach socket.
    AttachListener(Key),
    /// An attached client.
    Attach(Key),
    /// Something happened to a cgroup's memory.
    Oom(Key),
    /// containerd's events service.
    Publish,
    /// The shim that runs a container instead of us.
    Peer(Key),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, key, sub) = match self {
            Self::Signals => (0, 0, 0),
            Self::Listener => (1, 0, 0),
            Self::Conn(key) => (2, key, 0),
            Self::Op(key) => (3, key, 0),
            Self::Exit(key) => (4, key, 0),
            Self::Console(key) => (5, key, 0),
            Self::Output(key, sub) => (6, key, sub),
            Self::Sink(key, sub) => (7, key, sub),
            Self::Stdin(key) => (8, key, 0),
            Self::StdinSink(key) => (9, key, 0),
            Self::AttachListener(key) => (10, key, 0),
            Self::Attach(key) => (11, key, 0),
            Self::Oom(key) => (12, key, 0),
            Self::Publish => (13, 0, 0),
            Self::Peer(key) => (14, key, 0),
        };
        (kind << 40) | (u64::from(sub) << 32) | u64::from(key)
    }

    fn decode(data: u64) -> Option<Self> {
        let (key, sub) = (data as u32, (data >> 32) as u8);
        Some(match data >> 40 {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Conn(key),
            3 => Self::Op(key),
            4 => Self::Exit(key),
            5 => Self::Console(key),
            6 => Self::Output(key, sub),
            7 => Self::Sink(key, sub),
            8 => Self::Stdin(key),
            9 => Self::StdinSink(key),
            10 => Self::AttachListener(key),
            11 => Self::Attach(key),
            12 => Self::Oom(key),
            13 => Self::Publish,
            14 => Self::Peer(key),
            _ => return None,
        })
    }
}

/// Something to do later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Nobody connected to an attach socket.
    AttachExpires(Key),
    /// A process is gone, but something holds its output open.
    OutputEnds(Key),
    /// A command did not end at once.
    CommandGoesOn(Key),
    /// A command ran for too long.
    CommandExpires(Key),
    /// A probe is to run.
    ProbeDue(Key),
    /// A command has ended, but something holds its output open.
    CommandDrained(Key),
    /// Try again to publish events.
    Publish,
    /// Listen again after a shortage of descriptors.
    Listen,
    /// Nothing has happened for a while, perhaps.
    Rest,
    /// Nobody has made a container, perhaps.
    Unused,
}

/// An event: for whom, and what can be done.
pub type Event = (Token, Interest);

/// The one epoll instance and the timers.
pub struct Poller {
    epoll: OwnedFd,
    timers: Vec<(Instant, Timer)>,
}

impl Poller {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            timers: Vec::new(),
        })
    }

    /// Watches a descriptor, level-triggered. Files that never block are refused with EPERM.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.encode()),
            interest,
        )
    }

    /// Changes what a descriptor is watched for.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<()> {
        epoll::modify(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.encode()),
            interest,
        )
    }

    /// No longer watches a descriptor; one that was not watched is fine.
    pub fn remove(&self, fd: impl AsFd) {
        // ENOENT is the only failure of a valid descriptor, and what was wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Sets a timer.
    pub fn after(&mut self, delay: Duration, timer: Timer) {
        self.at(Instant::now() + delay, timer);
    }

    /// Sets a timer to an instant.
    pub fn at(&mut self, instant: Instant, timer: Timer) {
        self.timers.push((instant, timer));
    }

    /// Takes a timer back.
    pub fn cancel(&mut self, timer: Timer) {
        self.timers.retain(|(_, t)| *t != timer);
    }

    /// Takes the timers that are due.
    pub fn due(&mut self) -> Vec<Timer> {
        if self.timers.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let due = self
            .timers
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, t)| *t)
            .collect();
        self.timers.retain(|(at, _)| *at > now);
        due
    }

    /// Waits for events, or for the next timer.
    pub fn wait(&self, events: &mut Vec<Event>) -> Result<()> {
        let timeout = self.timers.iter().map(|(at, _)| *at).min().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let mut raw: Vec<epoll::Event> = Vec::with_capacity(16);
        match epoll::wait(&self.epoll, spare_capacity(&mut raw), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        events.clear();
        events.extend(raw.iter().filter_map(|event| {
            Token::decode({ event.data }.u64()).map(|token| (token, { event.flags }))
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let key = u32::MAX - 1;
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Conn(key),
            Token::Op(key),
            Token::Exit(key),
            Token::Console(key),
            Token::Output(key, 2),
            Token::Sink(key, 1),
            Token::Stdin(key),
            Token::StdinSink(key),
            Token::AttachListener(key),
            Token::Attach(key),
            Token::Oom(key),
            Token::Publish,
            Token::Peer(key),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
