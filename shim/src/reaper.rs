//! Orphans: processes of a container whose parents died become our children, as the shim is a
//! sub-reaper. Those that we know end through their pidfd; the others are only buried.

use crate::poll::{Interest, Poller, Token};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::io;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// A child has ended.
    Child,
    /// Somebody wants the shim to end.
    Terminate,
}

/// The signals of the shim as a descriptor.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals and watches for them. The shim becomes a sub-reaper.
    pub fn new(poller: &Poller) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        poller.add(&fd, Token::Signals, Interest::IN)?;
        Ok(Self(fd))
    }

    /// The next signal.
    pub fn next(&self) -> Option<Signalled> {
        let info = self.0.read_signal().ok().flatten()?;
        Some(match i32::try_from(info.ssi_signo) {
            Ok(number) if number == Signal::SIGCHLD as i32 => Signalled::Child,
            _ => Signalled::Terminate,
        })
    }
}

/// Buries ended children until one comes that `is_ours`, which its pidfd will tell of. Returns
/// whether to come again after that.
pub fn bury(is_ours: impl Fn(i32) -> bool) -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let Some(pid) = waitid(Id::All, peek).ok().and_then(|status| status.pid()) else {
            return false;
        };
        if is_ours(pid.as_raw()) {
            return true;
        }
        if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
            return false;
        }
    }
}
