//! The init process: from clone3 to exec. Everything here runs in the child.

pub mod process;
pub mod scheduling;

use crate::explain::trace::{Key, span};
use crate::plan::{Namespaces, Plan, namespaces};
use crate::sync::{Channel, Message};
use crate::{Context, Error, Result, cgroup, console, hooks, rootfs};
use process::Prepared;
use rrun_sys::{cred, ns, path};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// How the init process learns that it may execute the user's program.
#[derive(Debug)]
pub enum Gate {
    /// `run`: a message on the channel.
    Channel,
    /// `create`: a fifo (O_PATH) that `start` will open for reading.
    Fifo(OwnedFd),
}

/// What the parent leaves to the init process.
#[derive(Debug)]
pub struct Inherited {
    /// Init's end of the conversation.
    pub channel: Option<Channel>,
    /// How to wait for `start`.
    pub gate: Gate,
    /// Trees opened in the caller's user namespace.
    pub trees: rootfs::Trees,
    /// Namespaces to join, with their flags.
    pub join: Vec<(i32, OwnedFd)>,
    /// Whether the process is in its new time namespace already.
    pub in_time: bool,
    /// Opened by the parent where the child will lack the rights.
    pub joiner: Option<cgroup::Joiner>,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    /// Compiled seccomp profile.
    pub seccomp: Option<crate::seccomp::Filter>,
}

impl Inherited {
    fn split(mut self) -> (Self, Channel) {
        let channel = self.channel.take().expect("the parent gives one");
        (self, channel)
    }
}

/// Runs the init process; never returns.
pub fn main(plan: &Plan, inherited: Inherited) -> ! {
    let mut reply = None;
    let (inherited, channel) = inherited.split();
    let error = match run(plan, inherited, &channel, &mut reply) {
        Ok(never) => match never {},
        Err(error) => error.chain(),
    };
    match reply {
        Some(fd) => {
            let fd: OwnedFd = fd;
            // `start` may be gone; then nobody asks.
            let _ = rrun_sys::fd::write_all(fd.as_fd(), error.as_bytes());
        }
        None => {
            let _ = channel.send(&Message::Error(error));
        }
    }
    rrun_sys::process::exit_now(1)
}

/// A type without values: a function that returns it does not return.
#[derive(Debug, Clone, Copy)]
pub enum Never {}

fn run(
    plan: &Plan,
    mut inherited: Inherited,
    channel: &Channel,
    reply: &mut Option<OwnedFd>,
) -> Result<Never> {
    crate::debug!("child process in init()");
    // Die with the command that creates the container, as long as it is at work.
    cred::set_parent_death_signal(9)?;
    channel.close_peer()?;
    enter_namespaces(plan, &mut inherited, channel)?;
    if !plan.net_devices.is_empty() {
        channel.send(&Message::Devices)?;
        channel.expect(&Message::Go)?;
    }
    let mut root = rootfs::build(plan, &mut inherited.trees, channel)?;
    run_create_hooks(plan, channel)?;
    enter_root(plan, &mut inherited, &mut root)?;
    let (prepared, descriptors) = prepare(plan, &mut inherited, channel, root)?;
    let began = span(Key::Identity);
    let before_start = prepared.take_identity(channel)?;
    drop(began);
    cred::set_parent_death_signal(0)?;
    crate::debug!("init: closing the pipe to signal completion");
    channel.send(&Message::Ready)?;
    match (inherited.gate, descriptors) {
        (Gate::Fifo(fifo), Some(descriptors)) => {
            rrun_sys::signal::die_as_init();
            *reply = Some(wait_for_start(&fifo, &descriptors)?);
        }
        _ => channel.expect(&Message::Go)?,
    }
    start_container_hooks(plan, before_start.environment())?;
    Err(before_start.exec().into())
}

/// Makes the built root the only one, and finishes what can only be done in it: the session, sysctls,
/// masks.
fn enter_root(plan: &Plan, inherited: &mut Inherited, root: &mut rootfs::Root) -> Result<()> {
    let fifo = matches!(inherited.gate, Gate::Fifo(_));
    root.procfs_if(fifo || !plan.sysctls.is_empty() || process::needs_procfs(&plan.spec))?;
    let began = span(Key::Pivot);
    rootfs::enter(plan)?;
    drop(began);
    process::make_directory(root.fd(), &plan.spec);
    let mut null = None;
    if let Some(socket) = inherited.console.take() {
        process::open_console(plan, root.fd(), socket.as_fd())?;
    } else {
        // A session of its own, so that signals of the caller's terminal do not reach it.
        cred::setsid()?;
        if plan.setup_dev {
            null = process::reopen_null(root.fd())?;
        }
    }
    if !plan.sysctls.is_empty() {
        let _began = span(Key::Sysctls);
        process::write_sysctls(root.procfs()?, &plan.sysctls)?;
    }
    let began = span(Key::Masks);
    rootfs::masks::apply(plan, root.fd(), null)?;
    drop(began);
    let _began = span(Key::Seal);
    rootfs::seal(plan, root)
}

/// All that is done with the rights that the process is about to lose. With it come its own
/// descriptors, in which it finds the fifo.
fn prepare<'a>(
    plan: &'a Plan,
    inherited: &mut Inherited,
    channel: &Channel,
    mut root: rootfs::Root,
) -> Result<(Prepared<'a>, Option<OwnedFd>)> {
    let descriptors = match &inherited.gate {
        Gate::Fifo(_) => Some(path::open_at(
            root.procfs()?,
            Path::new(OWN_FDS),
            path::O_PATH,
        )?),
        Gate::Channel => None,
    };
    let mut prepared = Prepared::new(plan, root.take_procfs(), inherited.seccomp.take())?;
    let _began = span(Key::Prepare);
    prepared.prepare()?;
    // Closed with everything else.
    std::mem::forget((root, prepared.take_procfs()));
    close_the_rest(plan, channel, &inherited.gate, descriptors.as_ref())?;
    Ok((prepared, descriptors))
}

/// Where a procfs has the descriptors of whoever looks.
const OWN_FDS: &str = "thread-self/fd";

/// Waits until `start` opens the fifo, and tells it so. What comes back is for
/// the reason why it failed, and closed by exec. Only open(2) and write(2): a
/// seccomp filter may be in force already.
fn wait_for_start(fifo: &OwnedFd, descriptors: &OwnedFd) -> Result<OwnedFd> {
    let number = fifo.as_raw_fd().to_string();
    let gate = path::open_at(descriptors.as_fd(), Path::new(&number), path::O_WRONLY)?;
    rrun_sys::fd::write_all(gate.as_fd(), b"0")?;
    Ok(gate)
}

/// Closes what was inherited and has had its use: a process that waits for its
/// start holds nothing of the host's.
fn close_the_rest(
    plan: &Plan,
    channel: &Channel,
    gate: &Gate,
    descriptors: Option<&OwnedFd>,
) -> Result<()> {
    let mut keep = vec![channel.as_fd()];
    if let Gate::Fifo(fifo) = gate {
        keep.push(fifo.as_fd());
    }
    keep.extend(descriptors.map(OwnedFd::as_fd));
    keep.extend(crate::log::descriptor());
    keep.extend(crate::explain::trace::descriptor());
    Ok(rrun_sys::fd::close_all_but(
        3 + plan.options.preserve_fds,
        &keep,
    )?)
}

/// Joins the user namespace among `join`, if there is one. First, those others
/// that it gives no right to (they are the host's); left are those that it does.
pub fn join_user_namespace(join: &mut Vec<(i32, OwnedFd)>) -> Result<()> {
    if join.iter().all(|(flag, _)| *flag != namespaces::USER) {
        return Ok(());
    }
    let mut left = Vec::new();
    let mut user = None;
    for (flag, fd) in join.drain(..) {
        if flag == namespaces::USER {
            user = Some(fd);
        } else if ns::setns(fd.as_fd(), flag).is_err() {
            left.push((flag, fd));
        }
    }
    *join = left;
    let user = user.expect("found above");
    ns::setns(user.as_fd(), namespaces::USER).context("join the user namespace")?;
    become_root()
}

/// Writes the offsets of the time namespace that children will be in.
pub fn write_time_offsets(offsets: &str) -> Result<()> {
    if offsets.is_empty() {
        return Ok(());
    }
    let path = "/proc/self/timens_offsets";
    std::fs::write(path, offsets).map_err(|e| Error::file("write", path, e))
}

/// Joins and makes namespaces, and the cgroup in between.
fn enter_namespaces(plan: &Plan, inherited: &mut Inherited, channel: &Channel) -> Result<()> {
    let namespaces = &plan.namespaces;
    let new = ns::names(namespaces.new);
    crate::debug!("nsexec container setup: new {new:?}");
    join_namespaces(namespaces, &mut inherited.join)?;
    if namespaces.new & namespaces::USER != 0 {
        channel.expect(&Message::Mapped)?;
        become_root()?;
    }
    make_namespaces(namespaces, inherited.in_time)?;
    channel.expect(&Message::Cgroup)?;
    enter_cgroup(plan, inherited.joiner.take())?;
    if namespaces.new & namespaces::CGROUP != 0 {
        let _began = span(Key::CgroupNamespace);
        ns::unshare(namespaces::CGROUP)?;
    }
    names(plan)
}

fn join_namespaces(namespaces: &Namespaces, join: &mut Vec<(i32, OwnedFd)>) -> Result<()> {
    let _began = span(Key::Join);
    join_user_namespace(join)?;
    for (flag, fd) in std::mem::take(join) {
        ns::setns(fd.as_fd(), flag).with_context(|| join_failed(namespaces, flag))?;
    }
    Ok(())
}

/// Makes those that come before the cgroup: the cgroup namespace shows the cgroup that one is in when
/// it is made. `in_time`: the process is in its time namespace already.
fn make_namespaces(namespaces: &Namespaces, in_time: bool) -> Result<()> {
    let later = namespaces::USER | namespaces::PID | namespaces::CGROUP;
    let time = if in_time { namespaces::TIME } else { 0 };
    let now = namespaces.new & !later & !time;
    if now != 0 {
        let _began = span(Key::Unshare);
        ns::unshare(now)?;
    }
    if now & namespaces::NET != 0 {
        let _began = span(Key::Loopback);
        rrun_sys::netlink::loopback_up().context("set the loopback interface up")?;
    }
    if now & namespaces::TIME != 0 {
        // Files of an undumpable process belong to the host's root.
        cred::set_dumpable(true)?;
        write_time_offsets(&namespaces.time_offsets)?;
        cred::set_dumpable(false)?;
    }
    Ok(())
}

/// Enters the cgroups, by what the parent opened where it did.
fn enter_cgroup(plan: &Plan, opened: Option<cgroup::Joiner>) -> Result<()> {
    let joiner = match opened {
        Some(joiner) => joiner,
        None => plan.cgroup.joiner()?,
    };
    let _began = span(Key::EnterCgroup);
    joiner.join_self().context("join the cgroup")?;
    // Its files are closed with everything else.
    std::mem::forget(joiner);
    // The caller's affinity is not the container's: its cpuset is.
    rrun_sys::sched::reset_affinity();
    Ok(())
}

fn join_failed(namespaces: &Namespaces, flag: i32) -> String {
    let path = namespaces.join.iter().find(|(kind, _)| *kind == flag);
    let path = path.map_or(std::path::Path::new(""), |(_, path)| path);
    let (path, kind) = (path.display(), ns::names(flag));
    format!("join namespace {path} (is it one of {kind}?)")
}

fn names(plan: &Plan) -> Result<()> {
    let _began = span(Key::Names);
    if let Some(name) = plan.spec.hostname().as_deref().filter(|n| !n.is_empty()) {
        ns::set_hostname(name)?;
    }
    if let Some(name) = plan.spec.domainname().as_deref().filter(|n| !n.is_empty()) {
        ns::set_domainname(name)?;
    }
    Ok(())
}

/// Takes user and group 0 of the user namespace just entered.
fn become_root() -> Result<()> {
    cred::set_gid(0).context("become group 0 of the user namespace: is it mapped?")?;
    cred::set_uid(0).context("become user 0 of the user namespace: is it mapped?")?;
    // setns and setresuid make it undumpable again or not; decide.
    Ok(cred::set_dumpable(false)?)
}

fn run_create_hooks(plan: &Plan, channel: &Channel) -> Result<()> {
    let Some(all) = plan.spec.hooks() else {
        return Ok(());
    };
    #[allow(
        deprecated,
        reason = "the field is deprecated in the specification, but in use"
    )]
    let runtime = [all.prestart(), all.create_runtime()];
    if runtime
        .iter()
        .any(|h| h.as_ref().is_some_and(|h| !h.is_empty()))
    {
        channel.send(&Message::Hooks)?;
        channel.expect(&Message::Go)?;
    }
    if all
        .create_container()
        .as_ref()
        .is_some_and(|h| !h.is_empty())
    {
        let _began = span(Key::ContainerHooks);
        let state = hook_state(plan, crate::container::Status::Creating);
        let list = all.create_container().as_ref();
        let files = crate::annotations::HookFiles::new(state.annotations);
        hooks::run_with("createContainer", list, &state, Some(&[]), files)?;
    }
    Ok(())
}

/// startContainer hooks, by default with the environment of the process.
fn start_container_hooks(plan: &Plan, environment: &[CString]) -> Result<()> {
    let Some(all) = plan.spec.hooks() else {
        return Ok(());
    };
    if all.start_container().as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let state = hook_state(plan, crate::container::Status::Created);
    hooks::run_with(
        "startContainer",
        all.start_container().as_ref(),
        &state,
        Some(environment),
        // The host's files are out of reach by now.
        crate::annotations::HookFiles::default(),
    )
}

/// The state as hooks inside the container see it: with the pid in its own namespace.
fn hook_state(plan: &Plan, status: crate::container::Status) -> hooks::State<'_> {
    hooks::State {
        oci_version: crate::SPEC_VERSION,
        id: &plan.id,
        status,
        pid: Some(rrun_sys::process::pid()),
        bundle: &plan.bundle,
        annotations: plan.spec.annotations().as_ref(),
    }
}

pub use console::set_up as set_up_console;
