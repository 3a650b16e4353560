//! One more process in a container that runs.

use crate::cgroup::{Cgroup, Joiner, SubCgroups};
use crate::container::{Container, Status};
use crate::explain::trace::{Key, span};
use crate::init::process::{self as last, Prepared};
use crate::plan::{Console, Namespaces, namespaces};
use crate::sync::{self, Channel, Message};
use crate::{Context, Error, Result, console, idmap, rlimits, seccomp};
use oci_spec::runtime::{Linux, Process, Spec};
use rrun_sys::process::{self, Clone};
use rrun_sys::seccomp::SAVED;
use rrun_sys::{cred, fd, mount, ns, path, sched};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What the command line says besides the process.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the terminal's master is sent.
    pub console: Option<Console>,
    /// How many descriptors from 3 up the process inherits.
    pub preserve_fds: u32,
    /// Cgroups below the container's (`--cgroup`).
    pub cgroup: SubCgroups,
    /// Execute in a paused container, where the process will wait (`--ignore-paused`).
    pub ignore_paused: bool,
}

/// Starts `process` in `container`, of which [`check`] says that it can: its process id, and a
/// descriptor of it.
pub fn exec(
    container: &Container,
    spec: &Spec,
    process: &Process,
    options: &Options,
) -> Result<(i32, OwnedFd)> {
    crate::spec::validate_process(process)?;
    let init = container.init()?.ok_or_else(not_running)?;
    let rlimits = rlimits::from_spec(process.rlimits().as_deref().unwrap_or_default())?;
    let (ours, theirs) = sync::pair()?;
    let cgroup = container.cgroup()?;
    let child = Child {
        init,
        in_user: false,
        keyring: (!container.record.no_new_keyring)
            .then(|| rrun_sys::keyring::name_of(&container.record.id)),
        flags: flags(container, spec)?,
        joiner: cgroup
            .exec_joiner(&options.cgroup)
            .context("error adding pid of the process to cgroups")?,
        console: connect_console(process, options)?,
        seccomp: compile_seccomp(container, spec)?,
        channel: theirs,
        preserve_fds: options.preserve_fds,
    };
    let linux = spec.linux().as_ref();
    let (pid, pidfd) = child.spawn(process, linux, || {
        clone_into(&cgroup, options, container.record.init_process_pid)
    })?;
    let finished = idmap::oom_score(pid, process.oom_score_adj()).and_then(|()| {
        let agent = |number| notify_agent(container, spec, (pid, &pidfd), number);
        finish(&ours, agent, || rlimits::apply(pid, &rlimits))
    });
    if let Err(error) = finished {
        let _ = process::pidfd_signal(pidfd.as_fd(), process::SIGKILL);
        let _ = process::wait(pid, false);
        return Err(error);
    }
    Ok((pid, pidfd))
}

/// The namespaces of the container that are not the host's.
fn flags(container: &Container, spec: &Spec) -> Result<i32> {
    let namespaces = Namespaces::from_spec(spec)?;
    let joined = namespaces.join.iter().fold(0, |all, (flag, _)| all | flag);
    let restored = if container.record.restored {
        namespaces::TIME
    } else {
        0
    };
    Ok(restored | namespaces.new | joined)
}

/// The process that `stage`, a process in between, has cloned on behalf of this one.
fn staged_process(report: &Channel, stage: i32) -> Result<(i32, OwnedFd)> {
    let answer = report.receive()?;
    process::wait(stage, false)?;
    match answer {
        // A child of this process: its number is not reused before it is waited for.
        Some(Message::Pid(pid)) => Ok((pid, process::pidfd_open(pid)?)),
        Some(Message::Error(text)) => Err(Error::Remote(text)),
        _ => Err(Error::Remote(
            "the process that joins the user namespace ended early".into(),
        )),
    }
}

/// Clones into the container's v2 cgroup or, where that takes no process and none was asked for, into
/// that of process `init`.
fn clone_into(cgroup: &Cgroup, options: &Options, init: i32) -> Result<Clone> {
    let into = |dir: &Path| {
        path::open(dir, path::O_RDONLY | path::O_DIRECTORY)
            .and_then(|dir| process::clone3(0, Some(dir.as_fd())))
    };
    let Some(dir) = cgroup.exec_dir(&options.cgroup)? else {
        return Ok(process::clone3(0, None)?);
    };
    let error = match into(&dir) {
        Ok(cloned) => return Ok(cloned),
        Err(error) => error,
    };
    if cgroup.has_legacy() {
        // Of a hybrid machine the v2 hierarchy is an extra.
        return Ok(process::clone3(0, None)?);
    }
    let second = cgroup
        .dir_of_init(init)
        .filter(|_| options.cgroup.is_empty())
        .and_then(|dir| into(&dir).ok());
    second
        .ok_or(error)
        .context("error adding pid of the process to cgroups")
}

fn not_running() -> Error {
    Error::State("cannot exec in a stopped container".into())
}

/// Whether the state of `container` allows one more process.
pub fn check(container: &Container, options: &Options) -> Result<()> {
    match container.status()? {
        Status::Stopped => Err(not_running()),
        Status::Paused if !options.ignore_paused => Err(Error::State(
            "cannot exec in a paused container (use --ignore-paused to override)".into(),
        )),
        Status::Creating => Err(Error::State(
            "cannot exec in a container being created".into(),
        )),
        _ => Ok(()),
    }
}

fn connect_console(process: &Process, options: &Options) -> Result<Option<OwnedFd>> {
    match (&options.console, process.terminal() == Some(true)) {
        (Some(console), true) => console.open().map(Some),
        (None, false) => Ok(None),
        (None, true) => Err(Error::State(
            "cannot allocate tty if runc will detach without setting console socket".into(),
        )),
        (Some(_), false) => Err(Error::State(
            "cannot use console socket if runc will not detach or allocate tty".into(),
        )),
    }
}

fn compile_seccomp(container: &Container, spec: &Spec) -> Result<Option<seccomp::Filter>> {
    let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
        return Ok(None);
    };
    let _began = span(Key::Seccomp);
    // Of a container that an earlier version made there is none.
    if let Some((program, flags)) = rrun_sys::seccomp::saved(&container.dir.join(SAVED)) {
        return Ok(Some(seccomp::Filter {
            program,
            flags,
            listener: None,
        }));
    }
    let cache = container.dir.parent().map(|root| root.join(".seccomp"));
    seccomp::compile(profile, cache.as_deref()).context("compile the seccomp profile")
}

/// Lets the process go, and waits until exec closes the channel.
fn finish(
    channel: &Channel,
    agent: impl Fn(i32) -> Result<()>,
    limit: impl Fn() -> Result<()>,
) -> Result<()> {
    let sent = channel.send(&Message::Go);
    loop {
        match channel.receive()? {
            None => return sent,
            Some(Message::Limits) => {
                limit()?;
                channel.send(&Message::Go)?;
            }
            Some(Message::Listener(number)) => {
                agent(number)?;
                channel.send(&Message::Go)?;
            }
            Some(Message::Error(text)) => return Err(Error::Remote(text)),
            Some(other) => return Err(Error::Remote(format!("unexpected message {other:?}"))),
        }
    }
}

fn notify_agent(
    container: &Container,
    spec: &Spec,
    (pid, pidfd): (i32, &OwnedFd),
    number: i32,
) -> Result<()> {
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let seccomp = seccomp.ok_or_else(|| Error::State("a listener without a profile".into()))?;
    let state = container.state(container.status()?);
    crate::notify::send_listener(seccomp, &state, pid, pidfd.as_fd(), number)
}

/// What the new process needs.
struct Child {
    init: OwnedFd,
    /// Whether the process is in the container's user namespace already.
    in_user: bool,
    flags: i32,
    joiner: Joiner,
    console: Option<OwnedFd>,
    seccomp: Option<seccomp::Filter>,
    keyring: Option<CString>,
    channel: Channel,
    preserve_fds: u32,
}

/// How the process comes into the container's pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entered {
    /// It is in the right one as it is.
    None,
    /// This process's children are in it from now on.
    Now,
    /// Without privileges on the host the right to it comes with the user namespace, in which a
    /// process in between then is.
    Later,
}

/// Restricts the process to the processors of a list such as "0-3,7".
fn pin(cpus: Option<&str>) -> Result<()> {
    let Some(cpus) = cpus.filter(|c| !c.is_empty()) else {
        return Ok(());
    };
    let cpus = crate::init::scheduling::number_list(cpus)
        .map_err(|why| Error::config("process.execCPUAffinity", why))?;
    sched::set_affinity(0, &cpus)?;
    let low = cpus
        .iter()
        .filter(|c| **c < 64)
        .fold(0u64, |mask, cpu| mask | 1 << cpu);
    crate::debug!("nsexec: affinity: {low:#x}");
    Ok(())
}

impl Child {
    /// Lets `clone` make the process, born in the container's pid namespace: its id, and a descriptor.
    /// In the process itself it does not return.
    fn spawn(
        self,
        process: &Process,
        linux: Option<&Linux>,
        clone: impl FnOnce() -> Result<Clone>,
    ) -> Result<(i32, OwnedFd)> {
        let own = path::open(Path::new("/proc/self/ns/pid"), path::O_RDONLY)?;
        let entered = self.enter_pid()?;
        let staged = if entered == Entered::Later {
            Some(sync::pair()?)
        } else {
            None
        };
        cred::set_dumpable(false)?;
        let began = span(Key::Clone);
        let cloned = match clone()? {
            Clone::Child => {
                // The parent's.
                std::mem::forget(began);
                if let Some((_, report)) = staged {
                    self.stage(process, linux, &report)
                }
                self.main(process, linux)
            }
            Clone::Parent { pid, pidfd } => match staged {
                Some((report, theirs)) => {
                    drop(theirs);
                    staged_process(&report, pid)?
                }
                None => (pid, pidfd),
            },
        };
        drop(began);
        drop(self);
        if entered == Entered::Now {
            ns::setns(own.as_fd(), namespaces::PID).context("return to the pid namespace")?;
        }
        Ok(cloned)
    }

    /// Makes the container's pid namespace that of this process's next child.
    fn enter_pid(&self) -> Result<Entered> {
        if self.flags & namespaces::PID == 0 {
            return Ok(Entered::None);
        }
        match ns::setns(self.init.as_fd(), namespaces::PID) {
            Err(e) if e.is(path::EPERM) && self.flags & namespaces::USER != 0 => Ok(Entered::Later),
            result => {
                result.context("join the pid namespace")?;
                Ok(Entered::Now)
            }
        }
    }

    /// Joins user and pid namespace, and clones the process as a child of this one's parent.
    fn stage(mut self, process: &Process, linux: Option<&Linux>, report: &Channel) -> ! {
        let flags = namespaces::USER | namespaces::PID;
        let cloned = ns::setns(self.init.as_fd(), flags)
            .and_then(|()| cred::set_dumpable(false))
            .and_then(|()| process::clone3(namespaces::CLONE_PARENT, None))
            .context("join the container's user and pid namespaces");
        let answer = match cloned {
            Ok(Clone::Child) => {
                self.in_user = true;
                self.main(process, linux)
            }
            Ok(Clone::Parent { pid, .. }) => Message::Pid(pid),
            Err(error) => Message::Error(error.chain()),
        };
        let sent = report.send(&answer);
        rrun_sys::process::exit_now(i32::from(sent.is_err()))
    }

    fn main(mut self, process: &Process, linux: Option<&Linux>) -> ! {
        crate::debug!("child process in init()");
        if let Err(error) = self.run(process, linux) {
            let _ = self.channel.send(&Message::Error(error.chain()));
        }
        // As a shell's when it cannot execute; nobody sees it but by the message.
        rrun_sys::process::exit_now(255)
    }

    fn run(&mut self, process: &Process, linux: Option<&Linux>) -> Result<()> {
        self.channel.close_peer()?;
        crate::debug!("nsexec container setup: join {:?}", ns::names(self.flags));
        self.enter_cgroup(process)?;
        self.join_namespaces()?;
        self.channel.expect(&Message::Go)?;
        self.open_session(process)?;
        let prepared = self.prepare(process, linux)?;
        let began = span(Key::Identity);
        let ready = prepared.take_identity(&self.channel)?;
        drop(began);
        crate::debug!("setns_init: about to exec");
        Err(ready.exec().into())
    }

    /// Enters the cgroup, on the processors that `process` asks for before and after.
    fn enter_cgroup(&self, process: &Process) -> Result<()> {
        let affinity = process.exec_cpu_affinity().as_ref();
        pin(affinity.and_then(|a| a.initial().as_deref()))?;
        let began = span(Key::EnterCgroup);
        self.joiner.join_self().context("join the cgroup")?;
        drop(began);
        match affinity.and_then(|a| a.cpu_affinity_final().as_deref()) {
            Some(cpus) => pin(Some(cpus))?,
            None => sched::reset_affinity(),
        }
        Ok(())
    }

    /// Joins the container's namespaces but that of pids, which it was born in.
    fn join_namespaces(&self) -> Result<()> {
        let _began = span(Key::Join);
        let done = if self.in_user { namespaces::USER } else { 0 };
        let flags = self.flags & !namespaces::PID & !done;
        // That of users comes first, as it gives the rights for the others: all with the same call.
        if flags != 0 {
            ns::setns(self.init.as_fd(), flags).context("join the container's namespaces")?;
        }
        if self.flags & namespaces::USER != 0 {
            cred::set_gid(0).context("become group 0 of the user namespace")?;
            cred::set_uid(0).context("become user 0 of the user namespace")?;
            cred::set_dumpable(false)?;
        }
        Ok(())
    }

    /// A session of its own, with a terminal where one was asked for.
    fn open_session(&mut self, process: &Process) -> Result<()> {
        let Some(socket) = self.console.take() else {
            return Ok(cred::setsid()?);
        };
        let _began = span(Key::Console);
        let root = path::open(Path::new("/"), path::O_PATH)?;
        let (size, owner) = (last::console_size(process), process.user().uid());
        console::set_up(root.as_fd(), socket.as_fd(), size, owner, false)
    }

    /// All that is done with the rights that the process is about to lose.
    fn prepare<'a>(
        &mut self,
        process: &'a Process,
        linux: Option<&'a Linux>,
    ) -> Result<Prepared<'a>> {
        let procfs = if last::labelled(process) {
            Some(mount::FsContext::open("proc")?.mount(0)?)
        } else {
            None
        };
        let mut prepared = Prepared::for_exec(
            process,
            procfs,
            self.seccomp.take(),
            self.keyring.take(),
            self.flags & namespaces::USER != 0,
            linux,
        );
        let _began = span(Key::Prepare);
        prepared.prepare()?;
        drop(prepared.take_procfs());
        fd::cloexec_from(3 + self.preserve_fds)?;
        Ok(prepared)
    }
}
