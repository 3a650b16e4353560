//! The first process of a pod that shares its pid namespace. The kernel ends such a namespace
//! with its first process, so there must be one that outlives the containers: it reaps orphans,
//! sees an empty root, and has no privileges.
//!
//! It is this program under another command, started by the thread that makes the namespaces. It
//! waits on standard input until the namespace is pinned, so that a daemon that is killed between
//! the two leaves no process behind: whatever is pinned can be found and ended.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pivot_root, setgid, setgroups, setuid};

use super::{namespaces, pin};

/// The command of the process.
pub const COMMAND: &str = "pod-init";

/// An account that owns nothing, as pause images have it.
pub const NOBODY: u32 = 65_535;

/// Starts the process in a new pid namespace and pins that. For the thread that makes the
/// namespaces: its children are in the new one from here on.
pub fn start(dir: &Path) -> Result<Child> {
    unshare(CloneFlags::CLONE_NEWPID).context("unshare CLONE_NEWPID")?;
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the first process of the pod")?;
    let source = format!("/proc/{}/ns/pid", child.id());
    namespaces::bind(Path::new(&source), &pin(dir, "pid"))?;
    let go = child.stdin.take().map(|mut stdin| stdin.write_all(b"1"));
    go.context("no pipe to the first process of the pod")?
        .context("tell the first process of the pod to go on")?;
    Ok(child)
}

/// Is that process: never returns unless something fails. An argument says which user to be, in a
/// user namespace that may be too small for the usual one.
pub fn run() -> Result<()> {
    let user = std::env::args().nth(2).map_or(Ok(NOBODY), |arg| {
        arg.parse().with_context(|| format!("{arg:?} is no user"))
    })?;
    let signals = SigSet::all();
    signals.thread_block().context("block signals")?;
    let mut go = [0; 1];
    std::io::stdin()
        .read_exact(&mut go)
        .context("the daemon ended before the namespace was pinned")?;
    empty_root().context("make an empty root")?;
    setgroups(&[]).context("drop groups")?;
    setgid(Gid::from_raw(user)).context("drop the group")?;
    setuid(Uid::from_raw(user)).context("drop the user and its capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    loop {
        if signals.wait().context("wait for a signal")? == Signal::SIGCHLD {
            reap();
        }
    }
}

/// Containers see this process, and so its root, in `/proc/1/root`.
fn empty_root() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare CLONE_NEWNS")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make / private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let options = Some("size=0,nr_inodes=1,mode=755");
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, options).context("mount a tmpfs")?;
    std::env::set_current_dir("/proc").context("enter the tmpfs")?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("unmount the old root")?;
    std::env::set_current_dir("/").context("enter the new root")
}

fn reap() {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Ends every process of the pinned pid namespace, the first one included. Without a pin there
/// is none.
pub fn end(dir: &Path) -> Result<()> {
    const WAIT: Duration = Duration::from_secs(10);
    if !namespaces::is_pinned(dir, "pid") {
        return Ok(());
    }
    let path = pin(dir, "pid");
    let inode = fs::metadata(&path)
        .with_context(|| format!("stat {}", path.display()))?
        .ino();
    let since = Instant::now();
    // The kernel kills the rest with the first process.
    while kill_all(inode)? {
        if since.elapsed() > WAIT {
            bail!("processes of the pod's pid namespace are still there {WAIT:?} after SIGKILL");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sends SIGKILL to all processes in a pid namespace; false where there was none alive.
fn kill_all(namespace: u64) -> Result<bool> {
    let mut any = false;
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let name = entry.context("list /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if !is_in(pid, namespace) {
            continue;
        }
        let Some(target) = rustix::process::Pid::from_raw(pid) else {
            continue;
        };
        // The descriptor first, the check again after it: the number may have gone to another.
        let flags = rustix::process::PidfdFlags::empty();
        let Ok(pidfd) = rustix::process::pidfd_open(target, flags) else {
            continue;
        };
        if is_in(pid, namespace) {
            any = true;
            // It may be gone by now.
            let _ =
                rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::KILL);
        }
    }
    Ok(any)
}

/// The first process, as this machine numbers it; `None` without one.
pub fn pid(dir: &Path) -> Option<u32> {
    if !namespaces::is_pinned(dir, "pid") {
        return None;
    }
    let namespace = fs::metadata(pin(dir, "pid")).ok()?.ino();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let first = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.is_some_and(|line| line.ends_with("\t1"))
    };
    let found = pids.filter(|pid| is_in(*pid, namespace)).find(first)?;
    u32::try_from(found).ok()
}

/// A zombie has no namespaces any more, so it counts as gone.
fn is_in(pid: i32, namespace: u64) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/pid")).is_ok_and(|meta| meta.ino() == namespace)
}
