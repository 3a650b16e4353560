//! The cloned process: from the shim's namespaces to the program.
//!
//! It is not dumpable, as the shim is not: nothing in the container may trace it or take hold of
//! what it has open (CVE-2016-9962). Its own file cannot be written through it (CVE-2019-5736):
//! the shim runs from a read-only mount. No descriptor but the report is open when it enters
//! (CVE-2024-21626).

use super::{PID, Plan, USER};
use rrun_process::Identity;
use rrun_sys::{cred, fd, keyring, ns, path, process, rlimit, sched, seccomp};
use rustix::fd::{AsFd, BorrowedFd};
use std::fmt::Display;
use std::path::Path;

/// As `Err`: what was done, and why it failed.
type Step<T> = std::result::Result<T, String>;

/// Enters the container and executes the program; never returns.
pub fn main(
    plan: &Plan,
    init: BorrowedFd<'_>,
    stdio: [BorrowedFd<'_>; 3],
    report: BorrowedFd<'_>,
) -> ! {
    let Err(why) = run(plan, init, stdio, report);
    // The shim may be gone; then nobody asks.
    let _ = fd::write_all(report, why.as_bytes());
    process::exit_now(255)
}

fn run(
    plan: &Plan,
    init: BorrowedFd<'_>,
    stdio: [BorrowedFd<'_>; 3],
    report: BorrowedFd<'_>,
) -> Step<std::convert::Infallible> {
    for (number, stream) in (0..).zip(stdio) {
        fd::onto(stream, number).map_err(told("give standard streams"))?;
    }
    fd::close_all_but(3, &[init, report]).map_err(told("close descriptors"))?;
    if let Some(score) = plan.process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(told(
            "set process.oomScoreAdj (lowering it needs CAP_SYS_RESOURCE)",
        ))?;
    }
    confine(plan.process.apparmor_profile.as_deref().unwrap_or_default())?;
    join(plan, init)?;
    join_keyring(plan)?;
    // Only the report is left.
    fd::close_all_but(3, &[report]).map_err(told("close descriptors"))?;
    cred::setsid().map_err(told("start a session"))?;
    for (number, soft, hard) in &plan.rlimits {
        rlimit::set(0, *number, *soft, *hard).map_err(told("set process.rlimits"))?;
    }
    let (process, user) = (&plan.process, &plan.process.user);
    let identity = Identity {
        uid: user.uid,
        gid: user.gid,
        umask: user.umask,
        groups: Some(user.additional_gids.as_deref().unwrap_or_default()),
        cwd: &process.cwd,
        sets: plan.sets,
        no_new_privileges: process.no_new_privileges,
        env: process.env.as_deref().unwrap_or_default(),
        args: process.args.as_deref().unwrap_or_default(),
    };
    // What is left out by a rule is not worth a warning here, or was the runtime's to do.
    let program = identity.take(|| filter(plan.filter.as_ref()), &|_| {})?;
    Err(program.exec().into())
}

fn told<E: Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// The AppArmor profile from the exec on. Said now, while /proc is the machine's, whose files nobody
/// in the container has replaced (CVE-2019-16884), and while the ids are those that open it (since
/// Linux 5.13 the kernel asks).
fn confine(profile: &str) -> Step<()> {
    if profile.is_empty() {
        return Ok(());
    }
    // Below `apparmor` since Linux 5.8; the other file is any security module's.
    let own = Path::new("/proc/thread-self/attr/apparmor/exec");
    let old = Path::new("/proc/thread-self/attr/exec");
    let path = if own.exists() { own } else { old };
    std::fs::write(path, format!("exec {profile}"))
        .map_err(told(&format!("apply AppArmor profile {profile}")))
}

/// Cgroups while their files are in reach, then the namespaces.
fn join(plan: &Plan, init: BorrowedFd<'_>) -> Step<()> {
    for tasks in &plan.tasks {
        let file = path::open(tasks, path::O_WRONLY);
        file.and_then(|file| fd::write_all(file.as_fd(), b"0"))
            .map_err(told("join the cgroup"))?;
    }
    // The shim's affinity is not the container's: its cpuset is.
    sched::reset_affinity();
    let flags = plan.namespaces & !PID;
    if flags != 0 {
        ns::setns(init, flags).map_err(told("join the container's namespaces"))?;
    }
    if flags & USER != 0 {
        cred::set_gid(0).map_err(told("become group 0 of the user namespace"))?;
        cred::set_uid(0).map_err(told("become user 0 of the user namespace"))?;
        cred::set_dumpable(false).map_err(told("stay undumpable"))?;
    }
    Ok(())
}

/// By its name, which the container's user namespace has: the shim's keys are not for the container.
fn join_keyring(plan: &Plan) -> Step<()> {
    let Some(name) = &plan.keyring else {
        return Ok(());
    };
    match keyring::join_session(name) {
        Err(e) if e.is(path::ENOSYS) => Ok(()),
        joined => joined.map(drop).map_err(told("join the session keyring")),
    }
}

fn filter(filter: Option<&(Vec<seccomp::Instruction>, u32)>) -> Step<()> {
    let Some((program, flags)) = filter else {
        return Ok(());
    };
    seccomp::load(program, *flags)
        .map(drop)
        .map_err(told("unable to init seccomp"))
}
