//! The cloned process: from the shim's namespaces to the program.
//!
//! It is not dumpable, as the shim is not: nothing in the container may trace it or take hold of
//! what it has open (CVE-2016-9962). Its own file cannot be written through it (CVE-2019-5736):
//! the shim runs from a read-only mount. No descriptor but the report is open when it enters
//! (CVE-2024-21626).

use super::{PID, Plan, USER, spec};
use rrun_sys::{Result, cred, fd, ns, path, process, rlimit, sched, seccomp, signal};
use rustix::fd::{AsFd, BorrowedFd};
use std::ffi::CString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

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
    // Only the report is left.
    fd::close_all_but(3, &[report]).map_err(told("close descriptors"))?;
    cred::setsid().map_err(told("start a session"))?;
    for (number, soft, hard) in &plan.rlimits {
        rlimit::set(0, *number, *soft, *hard).map_err(told("set process.rlimits"))?;
    }
    own_stdio(plan.process.user.uid).map_err(told("give standard streams to the user"))?;
    let (before, after) = match (&plan.filter, plan.process.no_new_privileges) {
        (filter, true) => (None, filter.as_ref()),
        (filter, false) => (filter.as_ref(), None),
    };
    if plan.process.no_new_privileges {
        cred::set_no_new_privs().map_err(told("set no_new_privs"))?;
    }
    filter(before)?;
    change_user(plan)?;
    let env = environment(&plan.process)?;
    let args = plan.process.args.as_deref().unwrap_or_default();
    let name = args.first().ok_or("process.args: is empty")?;
    let program = find(name, search_path(&env))?;
    let program = text(&program.to_string_lossy())?;
    let args = args.iter().map(|arg| text(arg)).collect::<Step<Vec<_>>>()?;
    let env = env
        .iter()
        .map(|entry| text(entry))
        .collect::<Step<Vec<_>>>()?;
    filter(after)?;
    signal::reset_for_exec().map_err(told("reset signals"))?;
    let error = process::exec(&program, &args, &env);
    Err(format!(
        "exec {}: {}",
        program.to_string_lossy(),
        error.errno()
    ))
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

fn filter(filter: Option<&(Vec<seccomp::Instruction>, u32)>) -> Step<()> {
    let Some((program, flags)) = filter else {
        return Ok(());
    };
    seccomp::load(program, *flags)
        .map(drop)
        .map_err(told("unable to init seccomp"))
}

/// Standard streams belong to the user of the process, unless they are the null device or cannot
/// be given away (a read-only file system, a socket).
fn own_stdio(uid: u32) -> Result<()> {
    if uid == 0 {
        return Ok(());
    }
    for stream in fd::standard() {
        let Ok(stat) = path::stat(stream) else {
            continue;
        };
        if stat.rdev == path::makedev(1, 3) || stat.uid == uid {
            continue;
        }
        match path::chown_fd(stream, Some(uid), None) {
            Err(e) if e.is(path::EINVAL) || e.is(path::EPERM) || e.is(path::EROFS) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Bounding set, groups, ids, working directory, the other capability sets.
fn change_user(plan: &Plan) -> Step<()> {
    for number in (0..=cred::LAST_CAPABILITY).filter(|n| plan.bounding & 1 << n == 0) {
        match cred::drop_bounding(number) {
            // An older kernel does not know the newest.
            Err(e) if !e.is(path::EINVAL) => return Err(told("drop capabilities")(e)),
            _ => {}
        }
    }
    cred::set_keepcaps(true).map_err(told("keep capabilities"))?;
    let user = &plan.process.user;
    cred::umask(user.umask.unwrap_or(0o022));
    let groups = user.additional_gids.as_deref().unwrap_or_default();
    match cred::set_groups(groups) {
        // Given up for a user namespace with a single id (user_namespaces(7)).
        Err(e) if e.is(path::EPERM) && groups.is_empty() => {}
        result => result.map_err(told("set process.user.additionalGids"))?,
    }
    // Some directories are open to root only, others to the user only.
    let early = enter_directory(&plan.process.cwd);
    cred::set_gid(user.gid).map_err(told("set process.user.gid"))?;
    cred::set_uid(user.uid).map_err(told("set process.user.uid"))?;
    if early.is_err() {
        enter_directory(&plan.process.cwd)?;
    }
    cred::set_capabilities(&plan.sets).map_err(told("can't apply capabilities"))?;
    cred::clear_ambient().map_err(told("can't apply capabilities"))?;
    for number in (0..=cred::LAST_CAPABILITY).filter(|n| plan.ambient & 1 << n != 0) {
        // One that is not permitted and inheritable cannot be; runc's rule is to go on.
        let _ = cred::raise_ambient(number);
    }
    Ok(())
}

/// Changes to `process.cwd`, and proves that it lies inside the root (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Step<()> {
    std::env::set_current_dir(cwd)
        .map_err(|e| format!("process.cwd: chdir to cwd {}: {e}", cwd.display()))?;
    if path::cwd_is_inside_root() {
        return Ok(());
    }
    Err("current working directory is outside of container mount namespace root -- possible container breakout detected".into())
}

/// The environment, with HOME from the container's passwd where it is not given. Of a name given
/// twice the last counts.
fn environment(process: &spec::Process) -> Step<Vec<String>> {
    let mut env: Vec<String> = Vec::new();
    for variable in process.env.iter().flatten() {
        let Some((name, _)) = variable.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            return Err(format!("process.env: {variable:?} is not NAME=value"));
        };
        let is_same = |v: &&mut String| v.split_once('=').is_some_and(|(n, _)| n == name);
        match env.iter_mut().find(is_same) {
            Some(earlier) => earlier.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    if !env.iter().any(|v| v.starts_with("HOME=") && v.len() > 5) {
        env.retain(|v| v != "HOME=");
        env.push(format!("HOME={}", home(process.user.uid)));
    }
    Ok(env)
}

fn home(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).map(str::to_owned))?
    });
    entry
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

fn search_path(env: &[String]) -> &str {
    env.iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or_default()
}

/// Finds what `name` means, as a shell would; the errors are worded as rrun's, which engines read.
fn find(name: &str, search: &str) -> Step<PathBuf> {
    let failed = |why: &str| format!("exec: {name:?}: {why}");
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Unusable::Missing) => {
                Err(failed(&format!("stat {name}: no such file or directory")))
            }
            Err(Unusable::Directory) => Err(failed("is a directory")),
            Err(Unusable::Denied) => Err(failed("permission denied")),
        };
    }
    let mut denied = false;
    for dir in search.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match usable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Unusable::Denied) => denied = true,
            Err(_) => {}
        }
    }
    Err(failed(if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    }))
}

enum Unusable {
    Missing,
    Directory,
    Denied,
}

fn usable(program: &Path) -> std::result::Result<(), Unusable> {
    let meta = std::fs::metadata(program).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => Unusable::Denied,
        _ => Unusable::Missing,
    })?;
    if meta.is_dir() {
        return Err(Unusable::Directory);
    }
    if path::may_execute(program) {
        Ok(())
    } else {
        Err(Unusable::Denied)
    }
}

fn text(text: &str) -> Step<CString> {
    CString::new(text).map_err(|_| format!("process: {text:?} holds a nul byte"))
}
