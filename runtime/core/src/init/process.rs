//! The last part of every process of a container, its first or an exec's: from
//! root with everything set up to the user's program.

use super::Never;
use crate::capabilities::Sets;
use crate::plan::Plan;
use crate::seccomp::Filter;
use crate::sync::{Channel, Message};
use crate::{Context, Error, Result, console, rlimits};
use oci_spec::runtime::{Process, Spec};
use rrun_sys::{cred, fd, path, process, sched, signal};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Everything that the last steps need, read while that is still possible.
#[derive(Debug)]
pub struct Prepared<'a> {
    process: &'a Process,
    filter: Option<Filter>,
    procfs: Option<OwnedFd>,
    keyring: Option<String>,
    /// Whether the parent must set limits: here the right to raise them is gone.
    by_parent: bool,
    linux: Option<&'a oci_spec::runtime::Linux>,
}

/// A process that has its identity and only waits for its start.
#[derive(Debug)]
pub struct Ready {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Writes sysctls below `procfs`, before parts of it are made read-only.
pub fn write_sysctls(procfs: BorrowedFd<'_>, sysctls: &[(PathBuf, String)]) -> Result<()> {
    for (name, value) in sysctls {
        let write = || -> Result<()> {
            let file = Path::new("sys").join(name);
            let file = path::open_beneath(procfs, &file, path::O_WRONLY)?;
            Ok(fd::write_all(file.as_fd(), value.as_bytes())?)
        };
        write().with_context(|| format!("set sysctl {} to {value:?}", name.display()))?;
    }
    Ok(())
}

/// Makes `process.cwd` where the image does not have it. Whether it can be used shows later,
/// when it is entered: root may not see what the user of the process sees.
pub fn make_directory(root: BorrowedFd<'_>, spec: &Spec) {
    let cwd = spec.process().as_ref().map(|p| p.cwd().as_path());
    if let Some(cwd) = cwd.filter(|cwd| *cwd != Path::new("/")) {
        let _ = path::make_in_root(root, cwd, path::Make::Dir);
    }
}

/// Whether the last steps write below /proc.
pub fn needs_procfs(spec: &Spec) -> bool {
    spec.process().as_ref().is_some_and(labelled)
}

/// Whether `process` has an AppArmor or SELinux label.
pub fn labelled(process: &Process) -> bool {
    let set = |s: &Option<String>| s.as_ref().is_some_and(|s| !s.is_empty());
    set(process.apparmor_profile()) || set(process.selinux_label())
}

/// Sets up the terminal of `plan`'s process below `root`.
pub fn open_console(plan: &Plan, root: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<()> {
    let process = plan
        .spec
        .process()
        .as_ref()
        .expect("a terminal belongs to a process");
    console::set_up(
        root,
        socket,
        console_size(process),
        process.user().uid(),
        true,
    )
}

/// Standard streams that are the host's null device become the container's own below `root`: otherwise
/// they keep a mount of the host alive, which CRIU cannot save either. Returns that device, if it was opened.
pub fn reopen_null(root: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let is_null = |fd: BorrowedFd<'_>| {
        path::stat(fd)
            .is_ok_and(|s| s.kind == path::Kind::CharDevice && s.rdev == path::makedev(1, 3))
    };
    let numbers: Vec<i32> = fd::standard()
        .filter(|stream| is_null(*stream))
        .map(|stream| stream.as_raw_fd())
        .collect();
    if numbers.is_empty() {
        return Ok(None);
    }
    let flags = path::O_RDWR | path::O_NOFOLLOW;
    let own = match path::open_in_root(root, Path::new("/dev/null"), flags) {
        Ok(own) if is_null(own.as_fd()) => own,
        // An image without a null device keeps the caller's.
        _ => return Ok(None),
    };
    for number in numbers {
        fd::onto(own.as_fd(), number)?;
    }
    Ok(Some(own))
}

/// Columns and rows of `process.consoleSize`, where it is not zero.
pub fn console_size(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    let (columns, rows) = (size.width() as u16, size.height() as u16);
    (columns != 0 || rows != 0).then_some((columns, rows))
}

impl<'a> Prepared<'a> {
    /// For the first process of a container.
    pub fn new(plan: &'a Plan, procfs: Option<OwnedFd>, filter: Option<Filter>) -> Result<Self> {
        let process = plan.spec.process().as_ref();
        Ok(Self {
            process: process.ok_or_else(|| Error::config("process", "is missing"))?,
            filter,
            procfs,
            keyring: (!plan.options.no_new_keyring).then(|| format!("_ses.{}", plan.id)),
            by_parent: plan.namespaces.user(),
            linux: plan.spec.linux().as_ref(),
        })
    }

    /// For an exec: `process` in a container that exists.
    pub fn for_exec(
        process: &'a Process,
        procfs: Option<OwnedFd>,
        filter: Option<Filter>,
        by_parent: bool,
        linux: Option<&'a oci_spec::runtime::Linux>,
    ) -> Self {
        Self {
            process,
            filter,
            procfs,
            keyring: None,
            by_parent,
            linux,
        }
    }

    /// Keyring, labels and scheduling. What is open afterwards must not get past exec, nor into
    /// the reach of a working directory below /proc/self/fd: the caller closes it.
    pub fn prepare(&mut self) -> Result<()> {
        self.join_keyring()?;
        self.write_labels()?;
        self.schedule()
    }

    /// Gives up the procfs.
    pub fn take_procfs(&mut self) -> Option<OwnedFd> {
        self.procfs.take()
    }

    /// Takes on labels, limits, ids and capabilities, in an order in which each
    /// step still has the rights it needs.
    pub fn take_identity(mut self, channel: &Channel) -> Result<Ready> {
        let process = self.process;
        self.limit(channel)?;
        fix_stdio(process.user().uid())?;
        let no_new_privs = process.no_new_privileges() == Some(true);
        if no_new_privs {
            cred::set_no_new_privs()?;
        } else if let Some(filter) = self.filter.take() {
            // Needs CAP_SYS_ADMIN, which is about to go.
            load(&filter, channel)?;
        }
        change_user(process)?;
        let env = environment(process)?;
        let args = process.args().as_deref().unwrap_or_default();
        let program = find_program(&args[0], search_path(&env))?;
        let args = args.iter().map(|a| text(a)).collect::<Result<_>>()?;
        let program = CString::new(program.into_os_string().into_encoded_bytes())
            .map_err(|_| Error::config("process.args[0]", "holds a nul byte"))?;
        let env = env.iter().map(|e| text(e)).collect::<Result<_>>()?;
        if let Some(filter) = self.filter.take() {
            // As late as there is somebody to hand a listener to; hooks are under it.
            load(&filter, channel)?;
        }
        Ok(Ready { program, args, env })
    }

    fn join_keyring(&self) -> Result<()> {
        let Some(name) = &self.keyring else {
            return Ok(());
        };
        let name = text(name)?;
        match rrun_sys::keyring::join_session(&name) {
            // A kernel or a seccomp filter around us without keyrings: nothing to separate.
            Err(e) if e.is(path::ENOSYS) => Ok(()),
            Err(e) => Err(e).context("create a session keyring (--no-new-keyring avoids it)"),
            Ok(serial) => {
                Ok(rrun_sys::keyring::allow_search(serial).context("share the session keyring")?)
            }
        }
    }

    /// Resource limits come last: a low one on descriptors would stop the set-up.
    fn limit(&self, channel: &Channel) -> Result<()> {
        let rlimits = self.process.rlimits().as_deref().unwrap_or_default();
        if rlimits.is_empty() {
            return Ok(());
        }
        if self.by_parent {
            channel.send(&Message::Limits)?;
            return channel.expect(&Message::Go);
        }
        rlimits::apply(0, &rlimits::from_spec(rlimits)?)
    }

    fn write_labels(&self) -> Result<()> {
        let process = self.process;
        if !labelled(process) {
            return Ok(());
        }
        if let Some(profile) = process
            .apparmor_profile()
            .as_deref()
            .filter(|p| !p.is_empty())
        {
            self.attribute("attr/apparmor/exec", &format!("exec {profile}"))
                .with_context(|| format!("unable to apply apparmor profile {profile:?}"))?;
        }
        if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty()) {
            self.attribute("attr/exec", label)
                .with_context(|| format!("unable to set selinux exec label {label:?}"))?;
        }
        Ok(())
    }

    /// Writes /proc/self/`name` by way of the private procfs (CVE-2025-52881).
    fn attribute(&self, name: &str, value: &str) -> Result<()> {
        let procfs = self.procfs.as_ref().expect("opened when there are labels");
        let name = Path::new("thread-self").join(name);
        let file = path::open_proc_self(procfs.as_fd(), &name, path::O_WRONLY)?;
        Ok(fd::write_all(file.as_fd(), value.as_bytes())?)
    }

    /// A deadline is for a whole set of processors: a cpuset rules it out.
    fn explain_scheduler(&self, error: rrun_sys::Error) -> Error {
        let resources = self.linux.and_then(|l| l.resources().as_ref());
        let cpus = resources
            .and_then(|r| r.cpu().as_ref())
            .and_then(|c| c.cpus().as_ref());
        if error.is(path::EPERM) && cpus.is_some_and(|c| !c.is_empty()) {
            let what = "process scheduler can't be used together with AllowedCPUs";
            return Error::Step {
                what: what.into(),
                source: Box::new(error.into()),
            };
        }
        error.into()
    }

    fn schedule(&self) -> Result<()> {
        if let Some(scheduler) = self.process.scheduler() {
            let attr = super::scheduling::scheduler(scheduler)?;
            sched::set_scheduler(&attr).map_err(|e| self.explain_scheduler(e))?;
        }
        if let Some(priority) = self.process.io_priority() {
            let (class, level) = super::scheduling::io_priority(priority)?;
            sched::set_io_priority(class, level)?;
        }
        let Some(linux) = self.linux else {
            return Ok(());
        };
        if let Some(personality) = linux.personality() {
            sched::set_personality(super::scheduling::personality(personality)?)?;
        }
        if let Some(policy) = linux.memory_policy() {
            let (mode, nodes) = super::scheduling::memory_policy(policy)?;
            sched::set_memory_policy(mode, &nodes).context("set memory policy")?;
        }
        Ok(())
    }
}

impl Ready {
    /// The environment that the program will have.
    pub fn environment(&self) -> &[CString] {
        &self.env
    }

    /// Executes the program.
    pub fn exec(self) -> Result<Never> {
        signal::reset_for_exec()?;
        let error = process::exec(&self.program, &self.args, &self.env);
        let program = self.program.to_string_lossy();
        // Callers look for runc's wording.
        Err(Error::State(
            format!("exec {program}: {}", error.errno()).into(),
        ))
    }
}

const SECCOMP: &str = "unable to init seccomp";

/// Loads the filter. A listener is fetched by the parent, by its number: from
/// here on any system call but write(2) may wait for the agent that it goes to.
fn load(filter: &Filter, channel: &Channel) -> Result<()> {
    crate::debug!("seccomp filter flags: {}", filter.flags);
    let listener = rrun_sys::seccomp::load(&filter.program, filter.flags).context(SECCOMP)?;
    if let Some(listener) = listener {
        channel.send(&Message::Listener(listener.as_raw_fd()))?;
        channel.expect(&Message::Go)?;
    }
    Ok(())
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::config("process", format!("{text:?} holds a nul byte")))
}

/// Standard streams belong to the user of the process, unless they are the null
/// device or somebody else's business (a read-only file system, a socket).
fn fix_stdio(uid: u32) -> Result<()> {
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
fn change_user(process: &Process) -> Result<()> {
    // None named means none, as with runc and crun.
    let sets = process
        .capabilities()
        .as_ref()
        .map(Sets::from_spec)
        .unwrap_or_default();
    sets.drop_bounding()
        .context("drop capabilities of the bounding set")?;
    cred::set_keepcaps(true)?;
    let user = process.user();
    cred::umask(user.umask().unwrap_or(0o022));
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    match cred::set_groups(groups) {
        Err(e) if e.is(path::EPERM) && super::setgroups_denied() => {
            if !groups.is_empty() {
                return Err(Error::config(
                    "process.user.additionalGids",
                    "cannot be set: setgroups is denied in this user namespace",
                ));
            }
        }
        result => result?,
    }
    // Some directories are open to root only, others to the user only.
    let early = enter_directory(process.cwd());
    cred::set_gid(user.gid())?;
    cred::set_uid(user.uid())?;
    if early.is_err() {
        enter_directory(process.cwd())?;
    }
    sets.apply().context("apply capabilities")
}

/// Changes to `process.cwd`, and proves that it lies inside the root: a leaked
/// descriptor as the directory would be a way out (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Result<()> {
    std::env::set_current_dir(cwd)
        .map_err(|e| Error::file("chdir to cwd", cwd, e))
        .context("process.cwd")?;
    if path::cwd_is_inside_root() {
        return Ok(());
    }
    Err(Error::State("current working directory is outside of container mount namespace root -- possible container breakout detected".into()))
}

/// The environment, with HOME from the container's passwd where it is not given.
/// Of a name given twice the last counts.
fn environment(process: &Process) -> Result<Vec<String>> {
    let mut env: Vec<String> = Vec::new();
    for variable in process.env().iter().flatten() {
        let Some((name, _)) = variable.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            return Err(Error::config(
                "process.env",
                format!("{variable:?} is not NAME=value"),
            ));
        };
        let prefix = format!("{name}=");
        match env.iter_mut().find(|v| v.starts_with(&prefix)) {
            Some(earlier) => earlier.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    if !env.iter().any(|v| v.starts_with("HOME=") && v.len() > 5) {
        env.retain(|v| v != "HOME=");
        env.push(format!("HOME={}", home(process.user().uid())));
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

/// Finds what `name` means, as a shell would. The wording of the errors is what
/// engines look for (Docker: "executable file not found in $PATH").
fn find_program(name: &str, search: &str) -> Result<PathBuf> {
    let failed = |why: &str| Error::State(format!("exec: {name:?}: {why}").into());
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
