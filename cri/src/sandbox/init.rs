//! The first process of a pod that shares its pid namespace. The kernel ends such a namespace
//! with its first process, so there must be one that outlives the containers: it reaps orphans,
//! sees an empty root, and has no privileges.
//!
//! It is this program under another command, started by the thread that makes the namespaces. It
//! waits on standard input until the namespace is pinned, so that a daemon that is killed between
//! the two leaves no process behind: whatever is pinned can be found and ended. On standard error it
//! says that it is all that it is to be, or why not; the end of that means that it waits.
//!
//! It has its pod's SELinux label, so that containers which are kept to that can look at it as they do
//! at each other. It gives itself that label as the last thing (`dyntransition` of the policy): with it
//! it could make no root, and in that there is no program to execute with it.

use std::fs::{self, File, OpenOptions};
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
use nix::unistd::{Gid, Pid, Uid, dup2_stderr, pivot_root, setgid, setgroups, setuid};

use super::{namespaces, pin};
use crate::selinux::{self, Labels};

/// The command of the process.
pub const COMMAND: &str = "pod-init";

/// An account that owns nothing, as pause images have it.
pub const NOBODY: u32 = 65_535;

/// What the process says once nothing is left to do that must be done.
const READY: &str = "ready\n";

/// The arguments of the process: which user to be, in a user namespace that may be too small for
/// [`NOBODY`], and its labels, where it has any.
pub fn arguments(user: u32, labels: Option<&Labels>) -> Vec<String> {
    let mut all = vec![COMMAND.to_owned(), user.to_string()];
    all.extend(
        labels
            .into_iter()
            .flat_map(|l| [l.process.clone(), l.file.clone()]),
    );
    all
}

/// Starts the process in a new pid namespace, pins that, and waits until the process is all that it is
/// to be. For the thread that makes the namespaces: its children are in the new one from here on.
pub fn start(dir: &Path, labels: Option<&Labels>) -> Result<Child> {
    unshare(CloneFlags::CLONE_NEWPID).context("unshare CLONE_NEWPID")?;
    let mut child = Command::new("/proc/self/exe")
        .args(arguments(NOBODY, labels))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the first process of the pod")?;
    let begun = begin(dir, &mut child);
    if begun.is_err() {
        // It has been told to go on, or ends with the pipe; whatever it is, there is no pod.
        let _ = child.kill();
        let _ = child.wait();
    }
    begun.map(|()| child)
}

fn begin(dir: &Path, child: &mut Child) -> Result<()> {
    let source = format!("/proc/{}/ns/pid", child.id());
    namespaces::bind(Path::new(&source), &pin(dir, "pid"))?;
    let go = child.stdin.take().map(|mut stdin| stdin.write_all(b"1"));
    go.context("no pipe to the first process of the pod")?
        .context("tell the first process of the pod to go on")?;
    let mut said = String::new();
    let stderr = child.stderr.as_mut();
    stderr
        .context("no pipe from the first process of the pod")?
        .read_to_string(&mut said)
        .context("hear the first process of the pod")?;
    check(&said)
}

/// Whether all went well with a process that said this on standard error.
pub fn check(said: &str) -> Result<()> {
    let Some(doubts) = said.strip_prefix(READY) else {
        bail!("the first process of the pod ended: {}", said.trim());
    };
    if !doubts.is_empty() {
        tracing::warn!("the first process of a pod: {}", doubts.trim());
    }
    Ok(())
}

/// Is that process: never returns unless something fails.
pub fn run() -> Result<()> {
    let mut args = std::env::args().skip(2);
    let user = args.next().context("an argument is missing")?;
    let user = user
        .parse()
        .with_context(|| format!("{user:?} is no user"))?;
    let labels = args.next().zip(args.next());
    let labels = labels.map(|(process, file)| Labels { process, file });
    let signals = SigSet::all();
    signals.thread_block().context("block signals")?;
    let mut go = [0; 1];
    std::io::stdin()
        .read_exact(&mut go)
        .context("the daemon ended before the namespace was pinned")?;
    let (silence, attribute) = (null()?, labels.as_ref().map(|_| own_label()).transpose()?);
    empty_root(labels.as_ref()).context("make an empty root")?;
    setgroups(&[]).context("drop groups")?;
    setgid(Gid::from_raw(user)).context("drop the group")?;
    setuid(Uid::from_raw(user)).context("drop the user and its capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    // With the label it may not be allowed to say anything.
    eprint!("{READY}");
    if let Some((labels, mut file)) = labels.zip(attribute)
        && let Err(error) = file.write_all(labels.process.as_bytes())
    {
        // A policy may let processes have a label by executing something alone.
        let label = labels.process;
        eprintln!("keeps rrun-cri's SELinux label, for it may not change to {label}: {error}");
    }
    dup2_stderr(silence).context("leave standard error")?;
    loop {
        if signals.wait().context("wait for a signal")? == Signal::SIGCHLD {
            reap();
        }
    }
}

fn null() -> Result<File> {
    let opened = OpenOptions::new().write(true).open("/dev/null");
    opened.context("open /dev/null")
}

/// The process's SELinux label, to be written: by what it leads to later, it has no path then.
fn own_label() -> Result<File> {
    let path = "/proc/thread-self/attr/current";
    let opened = OpenOptions::new().write(true).open(path);
    opened.with_context(|| format!("open {path}"))
}

/// Containers see this process, and so its root, in `/proc/1/root`.
fn empty_root(labels: Option<&Labels>) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare CLONE_NEWNS")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make / private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let mut options = "size=0,nr_inodes=1,mode=755".to_owned();
    if let Some(labels) = labels {
        options += &format!(",{}", selinux::mount_option(&labels.file));
    }
    let options = Some(options.as_str());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_process_says_whether_it_is_ready() {
        assert!(check("ready\n").is_ok());
        assert!(check("ready\nkeeps rrun-cri's SELinux label\n").is_ok());
        for said in ["", "read", "rrun-cri: make an empty root: EPERM\n"] {
            assert!(check(said).is_err(), "{said}");
        }
    }

    #[test]
    fn labels_are_told_in_one_argument_each() {
        let labels = Labels {
            process: "u:r:container_t:s0:c1,c2".into(),
            file: "u:r:container_file_t:s0:c1,c2".into(),
        };
        let all = arguments(7, Some(&labels));
        assert_eq!(all, [COMMAND, "7", &labels.process, &labels.file]);
        assert_eq!(arguments(NOBODY, None), [COMMAND, "65535"]);
    }
}
