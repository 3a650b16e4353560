//! Namespaces without a process: a thread makes them, bind mounts keep them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Child;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::users::{self, Helper};
use super::{Plan, init, pin};

/// Makes and pins the namespaces of a plan, with their hostname and sysctls.
///
/// Gives the first process of a shared pid namespace, which the caller is to reap.
pub fn make(plan: &Plan) -> Result<Option<Child>> {
    if plan.namespaces.is_empty() && !plan.shared_pid && plan.users.is_none() {
        return Ok(None);
    }
    // A thread of its own: it leaves the machine's namespaces and never comes back.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespaces".into());
        thread
            .spawn_scoped(scope, || make_here(plan))
            .context("start a thread")?
            .join()
            .map_err(|_| anyhow!("the thread that makes namespaces panicked"))?
    })
}

fn make_here(plan: &Plan) -> Result<Option<Child>> {
    let flags = plan
        .namespaces
        .iter()
        .fold(CloneFlags::empty(), |all, (_, flag)| all | *flag);
    if let Some(maps) = &plan.users {
        let sysctls: Vec<_> = plan
            .sysctls
            .iter()
            .map(|(k, v)| format!("{}={v}", sysctl_path(k)))
            .collect();
        let first = || init::arguments(users::last_id(maps), plan.labels.as_ref());
        let first = plan.shared_pid.then(first).unwrap_or_default();
        let helper = Helper::start(maps, flags, &first, &sysctls)?;
        let pinned = enter(plan, helper.pid).and_then(|()| prepare(plan));
        // Without the word to go on a first process ends: nothing unpinned is left behind.
        helper.finish(plan.shared_pid && pinned.is_ok())?;
        return pinned.map(|()| None);
    }
    unshare(flags).with_context(|| format!("unshare {flags:?}"))?;
    prepare(plan)?;
    let first = || init::start(&plan.dir, plan.labels.as_ref());
    plan.shared_pid.then(first).transpose()
}

/// Enters the namespaces that process `pid` is in, and pins those that a thread cannot enter.
fn enter(plan: &Plan, pid: u32) -> Result<()> {
    for (kind, flag) in &plan.namespaces {
        let path = format!("/proc/{pid}/ns/{kind}");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        setns(&file, *flag).with_context(|| format!("enter {path}"))?;
    }
    let pid_too = plan.shared_pid.then_some("pid");
    for kind in std::iter::once("user").chain(pid_too) {
        let source = format!("/proc/{pid}/ns/{kind}");
        bind(Path::new(&source), &pin(&plan.dir, kind))?;
    }
    Ok(())
}

/// Hostname, sysctls and pins of the namespaces that this thread is in.
fn prepare(plan: &Plan) -> Result<()> {
    if !plan.hostname.is_empty() {
        sethostname(&plan.hostname).with_context(|| format!("set hostname {}", plan.hostname))?;
    }
    for (key, value) in &plan.sysctls {
        set_sysctl(key, value)?;
    }
    for (kind, _) in &plan.namespaces {
        let source = format!("/proc/thread-self/ns/{kind}");
        bind(Path::new(&source), &pin(&plan.dir, kind))?;
    }
    Ok(())
}

/// Pins a namespace.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    File::create(target).with_context(|| format!("create {}", target.display()))?;
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("pin {} at {}", source.display(), target.display()))
}

/// `/proc/sys` shows every thread the values of its own namespaces. A dot in an interface's name
/// is written as a slash in the key, which the plan has made dots; the kernel has no such keys.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key);
    match fs::write(&path, value) {
        // Since kernel 6.9 those of an ipc namespace are the pod's root's alone, who has set it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && has_value(&path, value) => {
            Ok(())
        }
        written => written.with_context(|| format!("set sysctl {key} to {value:?}")),
    }
}

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn has_value(path: &str, value: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().eq(value.split_whitespace())
}

/// Lets the namespaces go. What is not pinned, or not there, is fine.
pub fn unpin(dir: &Path) -> Result<()> {
    let pins = dir.join("ns");
    let entries = match fs::read_dir(&pins) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("list {}", pins.display()))?,
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", pins.display()))?
            .path();
        unmount(&path)?;
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Unmounts everything that is mounted on a path; nothing is fine.
pub fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("unmount {}", path.display()));
            }
        }
    }
}

/// Whether a namespace of a sandbox is still pinned: a reboot leaves the record, not the pin.
pub fn is_pinned(dir: &Path, kind: &str) -> bool {
    nix::sys::statfs::statfs(&pin(dir, kind))
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
