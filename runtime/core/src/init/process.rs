//! The last part of every process of a container, its first or an exec's: from
//! root with everything set up to the user's program.

use crate::capabilities;
use crate::plan::Plan;
use crate::seccomp::Filter;
use crate::sync::{Channel, Message};
use crate::{Context, Error, Result, console, rlimits};
use oci_spec::runtime::{Process, Spec};
use rrun_process::{Identity, Program};
use rrun_sys::{fd, path, sched};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Everything that the last steps need, read while that is still possible.
#[derive(Debug)]
pub struct Prepared<'a> {
    process: &'a Process,
    filter: Option<Filter>,
    procfs: Option<OwnedFd>,
    keyring: Option<CString>,
    /// Whether the parent must set limits: here the right to raise them is gone.
    by_parent: bool,
    linux: Option<&'a oci_spec::runtime::Linux>,
    /// Whether the process has the caller's supplementary groups.
    keep_groups: bool,
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
    let profile = process.apparmor_profile().as_ref();
    profile.is_some_and(|p| !p.is_empty()) || selinux_label(process).is_some()
}

fn selinux_label(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|l| !l.is_empty())
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
            keyring: (!plan.options.no_new_keyring).then(|| rrun_sys::keyring::name_of(&plan.id)),
            by_parent: plan.namespaces.user(),
            linux: plan.spec.linux().as_ref(),
            keep_groups: crate::annotations::keeps_groups(&plan.spec),
        })
    }

    /// For an exec: `process` in a container that exists, and that has the session keyring `keyring`.
    pub fn for_exec(
        process: &'a Process,
        procfs: Option<OwnedFd>,
        filter: Option<Filter>,
        keyring: Option<CString>,
        by_parent: bool,
        linux: Option<&'a oci_spec::runtime::Linux>,
    ) -> Self {
        Self {
            process,
            filter,
            procfs,
            keyring,
            by_parent,
            linux,
            keep_groups: false,
        }
    }

    /// Labels, keyring and scheduling. What is open afterwards must not get past exec, nor into
    /// the reach of a working directory below /proc/self/fd: the caller closes it.
    pub fn prepare(&mut self) -> Result<()> {
        self.write_labels()?;
        self.join_keyring()?;
        self.schedule()
    }

    /// Gives up the procfs.
    pub fn take_procfs(&mut self) -> Option<OwnedFd> {
        self.procfs.take()
    }

    /// Takes on limits, the filter, ids and capabilities; the program is found.
    pub fn take_identity(self, channel: &Channel) -> Result<Program> {
        self.limit(channel)?;
        let (process, user) = (self.process, self.process.user());
        let capabilities = process.capabilities().as_ref();
        let identity = Identity {
            uid: user.uid(),
            gid: user.gid(),
            umask: user.umask(),
            groups: (!self.keep_groups)
                .then(|| user.additional_gids().as_deref().unwrap_or_default()),
            cwd: process.cwd(),
            sets: capabilities
                .map(capabilities::from_spec)
                .unwrap_or_default(),
            no_new_privileges: process.no_new_privileges() == Some(true),
            env: process.env().as_deref().unwrap_or_default(),
            args: process.args().as_deref().unwrap_or_default(),
        };
        let load = || {
            self.filter
                .as_ref()
                .map_or(Ok(()), |filter| load(filter, channel))
        };
        identity.take(load, &|what| crate::warning!("{what}"))
    }

    /// The container's own session keyring, made by whichever process of it comes first; with its
    /// label, as it could not use it otherwise.
    fn join_keyring(&self) -> Result<()> {
        let Some(name) = &self.keyring else {
            return Ok(());
        };
        if let Some(label) = selinux_label(self.process) {
            let told = || format!("label the session keyring {label:?}");
            self.attribute("attr/keycreate", label).with_context(told)?;
        }
        match rrun_sys::keyring::join_session(name) {
            // A kernel or a seccomp filter around us without keyrings: nothing to separate.
            Err(e) if e.is(path::ENOSYS) => Ok(()),
            Err(e) => Err(e).context("join the session keyring (--no-new-keyring avoids it)"),
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
            let why = "has the kernel AppArmor, and is it loaded?";
            self.attribute("attr/apparmor/exec", &format!("exec {profile}"))
                .with_context(|| format!("unable to apply apparmor profile {profile:?} ({why})"))?;
        }
        if let Some(label) = selinux_label(process) {
            let why = "has the kernel SELinux, and that label?";
            self.attribute("attr/exec", label)
                .with_context(|| format!("unable to set selinux exec label {label:?} ({why})"))?;
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
