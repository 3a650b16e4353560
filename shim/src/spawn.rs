//! Starting programs: three descriptors, more where wanted, no inherited signal mask.

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// A program that runs.
#[derive(Debug)]
pub struct Child {
    /// Its pid, which stays its own until we reap it.
    pub pid: Pid,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u32),
    /// By this signal.
    Signal(u32),
}

/// Starts a program found on PATH or by its path. `fds` become its descriptors 0, 1, 2 …; all
/// others of ours are close-on-exec.
pub fn spawn(
    program: &OsStr,
    args: &[CString],
    env: &[CString],
    fds: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    let path = CString::new(program.as_bytes())?;
    let mut actions = PosixSpawnFileActions::init()?;
    // Sources in the range of the targets would be overwritten before they are copied.
    let above = rustix::fd::RawFd::try_from(fds.len()).map_err(io::Error::other)?;
    let copies = fds
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, above))
        .collect::<Result<Vec<_>, _>>()?;
    for (target, source) in (0..).zip(&copies) {
        actions.add_dup2(source.as_raw_fd(), target)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGPIPE);
    attributes.set_sigdefault(&ignored)?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    let pid = posix_spawnp(&path, &actions, &attributes, args, env)?;
    let pid = Pid::from_raw(pid.as_raw()).expect("posix_spawn gives a positive pid");
    // It is our child and not reaped yet, so the pid is still its own.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Child { pid, pidfd })
}

/// The environment of this process, as programs get it.
pub fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.as_bytes()).ok()
        })
        .collect()
}

/// Reaps a child that has ended; `None` while it runs. A process that is not our child is
/// reported as gone with exit code 255, as nobody can know more.
pub fn reap(pidfd: impl AsFd) -> Option<Ended> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(None) => None,
        Ok(Some(status)) => Some(match status.terminating_signal() {
            Some(signal) => Ended::Signal(signal as u32),
            None => Ended::Code(status.exit_status().unwrap_or(255) as u32),
        }),
        Err(_) => Some(Ended::Code(255)),
    }
}

/// Waits for a child to end.
pub fn wait(child: &Child) -> Ended {
    wait_for(&child.pidfd)
}

/// [`wait`] by pidfd.
pub fn wait_for(pidfd: &OwnedFd) -> Ended {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return match status.terminating_signal() {
                    Some(signal) => Ended::Signal(signal as u32),
                    None => Ended::Code(status.exit_status().unwrap_or(255) as u32),
                };
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Ended::Code(255),
        }
    }
}

/// `/dev/null`, for reading and writing.
pub fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
