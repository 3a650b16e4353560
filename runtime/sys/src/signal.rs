//! Signal names, masks and signalfd.

use crate::error::Call;
use crate::{Error, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// The first and last real-time signal, as systemd, Go and callers of a runtime number them; musl keeps
/// number 34 for itself, though not in other programs.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of a signal given as "9", "KILL" or "SIGKILL" in any case, "RTMIN+n" included.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return realtime(offset, *REALTIME.start(), "+");
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return realtime(offset, *REALTIME.end(), "-");
    }
    if name == "POLL" {
        return Some(libc::SIGPOLL);
    }
    format!("SIG{name}")
        .parse::<Signal>()
        .ok()
        .map(|s| s as i32)
}

fn realtime(offset: &str, base: i32, sign: &str) -> Option<i32> {
    if offset.is_empty() {
        return Some(base);
    }
    let offset: i32 = offset.strip_prefix(sign)?.parse().ok()?;
    let number = if sign == "+" {
        base + offset
    } else {
        base - offset
    };
    REALTIME.contains(&number).then_some(number)
}

/// What a shell says of a signal that ended a process, as "bad system call".
pub fn describe(signal: i32) -> String {
    // Where musl has other words.
    match signal {
        libc::SIGFPE => return "floating point exception".into(),
        _ if REALTIME.contains(&signal) => {
            return format!("real-time signal {}", signal - REALTIME.start());
        }
        _ => {}
    }
    // SAFETY: strsignal returns a string that lives until the next call in this thread.
    let text = unsafe { std::ffi::CStr::from_ptr(libc::strsignal(signal)) };
    text.to_string_lossy().to_lowercase()
}

/// Blocks every signal and returns a signalfd that delivers them.
pub fn fd_of_all() -> Result<OwnedFd> {
    // Number 34 too, which musl's "all" leaves out.
    // SAFETY: a sigset_t is plain bits.
    let set = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        std::ptr::write_bytes(&raw mut all, 0xff, 1);
        SigSet::from_sigset_t_unchecked(all)
    };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)
        .call("sigprocmask", format_args!("all"))?;
    // SAFETY: the set is live for the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, set.as_ref(), libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last("signalfd", format_args!("all signals")));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal from a signalfd (blocks): its number.
pub fn next(fd: impl AsFd) -> Result<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    crate::fd::read(fd.as_fd(), &mut info)?;
    // ssi_signo is the first field.
    Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
}

/// Lets SIGHUP, SIGINT, SIGQUIT and SIGTERM end the caller even where it is the
/// init of a pid namespace, to which the kernel delivers only signals that have a
/// handler. Exec undoes it.
pub fn die_as_init() {
    extern "C" fn die(signal: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let handler: extern "C" fn(libc::c_int) = die;
        // SAFETY: the handler calls nothing but _exit.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// What a new program expects: no signal blocked, SIGPIPE not ignored (the
/// standard library of this program ignores it).
pub fn reset_for_exec() -> Result<()> {
    // SAFETY: sets the default disposition; no handler of ours is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .call("sigprocmask", format_args!("none"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse("9"), Some(9));
        assert_eq!(parse("KILL"), Some(9));
        assert_eq!(parse("sigterm"), Some(15));
        assert_eq!(parse("SIGRTMIN+3"), Some(37));
        assert_eq!(parse("RTMAX-1"), Some(63));
        assert_eq!(parse("SIGRTMIN+99"), None);
        assert_eq!(parse("65"), None);
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("NOPE"), None);
    }
}
