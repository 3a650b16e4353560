//! Processes: clone3, pidfd, wait, exec, kill; and the clock.

use crate::error::Call;
use crate::{Error, Result};
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

pub use libc::{
    EAGAIN, ECHILD, ENOENT, ESRCH, SIGCHLD, SIGKILL, SIGPIPE, SIGTERM, SIGURG, SIGWINCH,
};

/// Which side of a clone one is on.
#[derive(Debug)]
pub enum Clone {
    /// The caller, with the child's process id and pidfd.
    Parent {
        /// In the caller's pid namespace.
        pid: i32,
        /// Refers to the child for good.
        pidfd: OwnedFd,
    },
    /// The child.
    Child,
}

/// `struct clone_args` of clone3(2), up to `cgroup` (5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) as fork(2): a child with a copy of the memory, in new namespaces
/// `flags` (`CLONE_NEW*`, CLONE_PARENT) and, given `cgroup`, in that v2 cgroup
/// from its first instruction (CLONE_INTO_CGROUP).
///
/// The caller must be single-threaded: locks that other threads hold would stay
/// locked in the child. This is checked, with EBUSY.
pub fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    if !single_threaded() {
        let args = format_args!("process has threads");
        return Err(Error::new("clone3", args, crate::Errno(libc::EBUSY)));
    }
    let mut pidfd: i32 = -1;
    let parent = flags & libc::CLONE_PARENT != 0;
    let mut args = CloneArgs {
        flags: u64::from(flags as u32) | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if parent { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this stack and memory, as after
    // fork(2); there is one thread, so no lock of another is copied in a locked state. `args` and
    // `pidfd` are live and of the size given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            size_of::<CloneArgs>(),
        )
    };
    match ret {
        0 => Ok(Clone::Child),
        pid if pid > 0 => {
            // SAFETY: CLONE_PIDFD made a descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Clone::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
        _ => Err(Error::last(
            "clone3",
            format_args!(
                "{}{}",
                crate::ns::names(flags),
                if cgroup.is_some() {
                    ", CLONE_INTO_CGROUP"
                } else {
                    ""
                }
            ),
        )),
    }
}

/// With musl, whose own note of it is hidden: /proc/self/task has a link for each thread, and two.
#[cfg(not(target_env = "gnu"))]
fn single_threaded() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/task").is_ok_and(|tasks| tasks.nlink() == 3)
}

#[cfg(target_env = "gnu")]
fn single_threaded() -> bool {
    unsafe extern "C" {
        // glibc 2.32: nonzero as long as the process never had a second thread.
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: a byte that glibc defines and writes only when threads start or end.
    unsafe { std::ptr::read_volatile(&raw const __libc_single_threaded) != 0 }
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    let invalid = || {
        Error::new(
            "pidfd_open",
            format_args!("{pid}"),
            crate::Errno(libc::ESRCH),
        )
    };
    let target = rustix::process::Pid::from_raw(pid).ok_or_else(invalid)?;
    rustix::process::pidfd_open(target, rustix::process::PidfdFlags::empty())
        .call("pidfd_open", format_args!("{pid}"))
}

/// The number by which the procfs at /proc knows a process.
pub fn pid_in_proc(pidfd: &OwnedFd) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::io("read", format_args!("{path}"), &e))?;
    let pid = text
        .lines()
        .find_map(|l| l.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|p| *p > 0)
        .ok_or_else(|| Error::new("read", format_args!("{path}"), crate::Errno(libc::ESRCH)))
}

/// pidfd_getfd(2): descriptor `number` of another process (5.6).
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers; returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(Error::last("pidfd_getfd", format_args!("{number}")));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_send_signal(2); signal 0 only asks whether the process lives.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: plain integers and a null siginfo.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if ret == 0 {
        return Ok(());
    }
    Err(Error::last(
        "pidfd_send_signal",
        format_args!("signal {signal}"),
    ))
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(Error::last("kill", format_args!("{pid}, signal {signal}")))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// exit(2) with this status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl Exit {
    /// As a shell reports it: the status, or 128 + signal.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code as u8,
            Self::Signal(signal) => 128u8.wrapping_add(signal as u8),
        }
    }
}

/// waitpid(2) for `pid` (-1: any child). `None` with `nohang` when none has ended.
pub fn wait(pid: i32, nohang: bool) -> Result<Option<(i32, Exit)>> {
    let mut status = 0;
    let options = if nohang { libc::WNOHANG } else { 0 };
    loop {
        // SAFETY: `status` is valid for writes of an int.
        let ret = unsafe { libc::waitpid(pid, &raw mut status, options) };
        if ret == 0 {
            return Ok(None);
        }
        if ret < 0 {
            let error = Error::last("waitpid", format_args!("{pid}"));
            if error.is(libc::EINTR) {
                continue;
            }
            return Err(error);
        }
        if libc::WIFEXITED(status) {
            return Ok(Some((ret, Exit::Code(libc::WEXITSTATUS(status)))));
        }
        if libc::WIFSIGNALED(status) {
            return Ok(Some((ret, Exit::Signal(libc::WTERMSIG(status)))));
        }
    }
}

/// Makes `$run: fn() -> u8` the program's entry, without the standard library's
/// own start-up (some 25 system calls for a stack guard that a program without
/// recursion does not need). Goes with `#![no_main]`.
#[macro_export]
macro_rules! c_main {
    ($run:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: i32, argv: *const *const std::ffi::c_char) -> i32 {
            // SAFETY: libc calls it with the program's arguments.
            unsafe { $crate::process::keep_arguments(argc, argv) };
            $crate::process::start_up();
            i32::from($run())
        }
    };
}

/// What `main` was given, and with it [`arguments`].
static ARGUMENTS: (AtomicUsize, AtomicPtr<*const c_char>) =
    (AtomicUsize::new(0), AtomicPtr::new(std::ptr::null_mut()));

/// Keeps what libc gives to `main`, for [`arguments`].
///
/// # Safety
///
/// There are `argc` pointers to C strings at `argv`; all stay as they are as long as the program runs.
pub unsafe fn keep_arguments(argc: i32, argv: *const *const c_char) {
    ARGUMENTS.1.store(argv.cast_mut(), Relaxed);
    ARGUMENTS
        .0
        .store(usize::try_from(argc).unwrap_or(0), Relaxed);
}

/// The program's arguments, its name first. The standard library has them of its own start-up, or,
/// without that ([`c_main`](crate::c_main)), only from glibc.
pub fn arguments() -> Vec<OsString> {
    let (argc, argv) = (ARGUMENTS.0.load(Relaxed), ARGUMENTS.1.load(Relaxed));
    if argv.is_null() {
        return std::env::args_os().collect();
    }
    let argument = |index| {
        // SAFETY: one of `argc`; see keep_arguments.
        let text = unsafe { CStr::from_ptr(*argv.add(index)) };
        OsStr::from_bytes(text.to_bytes()).to_owned()
    };
    (0..argc).map(argument).collect()
}

/// What remains of that start-up: standard streams that are not open become
/// /dev/null, so that no other file takes their numbers; SIGPIPE is ignored.
pub fn start_up() {
    let closed = |fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    let mut streams = [closed(0), closed(1), closed(2)];
    // SAFETY: the array is live and of the length given; a zero time-out returns at once.
    unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) };
    for stream in streams {
        if stream.revents & libc::POLLNVAL != 0 {
            // SAFETY: a constant C string. The lowest free number is that of the stream.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// execve(2); returns only when it fails.
pub fn exec(path: &CString, args: &[CString], env: &[CString]) -> Error {
    match nix::unistd::execve(path, args, env) {
        Ok(never) => match never {},
        Err(e) => Error::new(
            "execve",
            format_args!("{}", path.to_string_lossy()),
            e.into(),
        ),
    }
}

/// Ends the process at once, without destructors or atexit handlers: the way out
/// of a cloned child.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// The caller's process id.
pub fn pid() -> i32 {
    std::process::id() as i32
}

/// Start time of a process in clock ticks since boot (field 22 of
/// /proc/PID/stat) and its state letter; `None` when there is no such process.
pub fn start_time(pid: i32) -> Option<(u64, char)> {
    parse_stat(&crate::fd::read_small(format!("/proc/{pid}/stat").as_ref()).ok()?)
}

/// The same from the text of /proc/PID/stat.
pub fn parse_stat(text: &str) -> Option<(u64, char)> {
    // The name (field 2) may hold spaces and parentheses; it ends at the last one.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// The wall clock plus `offset_seconds` in RFC 3339, UTC, with nanoseconds.
pub fn utc_now(offset_seconds: i64) -> String {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writes of a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    rfc3339(now.tv_sec + offset_seconds, now.tv_nsec as u32)
}

/// Seconds and nanoseconds since 1970 in RFC 3339, UTC. Civil-from-days after
/// the usual proleptic Gregorian arithmetic over 400-year eras.
pub fn rfc3339(seconds: i64, nanoseconds: u32) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::{parse_stat, rfc3339};

    #[test]
    fn a_name_may_look_like_other_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(&format!("9 (a) Z 1) {rest}")), Some((777, 'S')));
        assert_eq!(parse_stat("9 (a) S 1 2"), None);
    }

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(
            rfc3339(4_102_444_799, 999_999_999),
            "2099-12-31T23:59:59.999999999Z"
        );
    }
}
