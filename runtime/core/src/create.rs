//! The parent's side of `create` and `run`: clone the init process, make its
//! cgroups while it makes its namespaces, run hooks, keep the record.

use crate::cgroup::Cgroup;
use crate::container::{self, Container, RECORD_VERSION, Record, Status};
use crate::explain::trace::{Key, span};
use crate::init::{Gate, Inherited};
use crate::plan::{Plan, namespaces};
use crate::sync::{self, Channel, Message};
use crate::{Context, Error, Result, annotations, hooks, rlimits, rootfs, seccomp};
use rrun_sys::process;
use rrun_sys::{cred, path};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A container whose init process waits for its start.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// Init, for good.
    pub pidfd: OwnedFd,
    channel: Channel,
}

/// Everything that must be undone when a step fails.
pub(crate) struct Undo<'a> {
    dir: &'a Path,
    pub(crate) cgroup: Option<Cgroup>,
    rdt: Option<crate::rdt::Group>,
    init: Option<(i32, OwnedFd)>,
    /// Whose poststop hooks run: its environment was made, and its hooks may have run.
    poststop: Option<&'a Plan>,
    armed: bool,
}

impl<'a> Undo<'a> {
    /// For a container whose directory has been made.
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            cgroup: None,
            rdt: None,
            init: None,
            poststop: None,
            armed: true,
        }
    }

    /// Nothing failed.
    pub(crate) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some((pid, pidfd)) = &self.init {
            // It may be dead already; what matters is that it is reaped.
            let _ = process::pidfd_signal(pidfd.as_fd(), process::SIGKILL);
            let _ = process::wait(*pid, false);
        }
        if let Some(cgroup) = &self.cgroup
            && let Err(e) = cgroup.kill(process::SIGKILL).and_then(|()| cgroup.delete())
        {
            crate::warning!("clean up the cgroup: {}", e.chain());
        }
        if let Some(Err(e)) = self.rdt.as_ref().map(crate::rdt::Group::remove) {
            crate::warning!("clean up the Intel RDT class: {}", e.chain());
        }
        let _ = std::fs::remove_dir_all(self.dir);
        if let Some((plan, hooks)) = self
            .poststop
            .and_then(|p| Some((p, p.spec.hooks().as_ref()?)))
        {
            // Its lifecycle goes on at step 12 (runtime-spec, runtime.md#lifecycle).
            hooks::run_poststop(hooks, &state(plan, Status::Stopped, None));
        }
    }
}

/// Creates the container of `plan` below `root`. `config` is config.json as it
/// was read. With `fifo` the start comes from another process (`create`),
/// without from [`Created::start`] (`run`).
pub fn create(plan: &Plan, root: &Path, config: &[u8], fifo: bool) -> Result<Created> {
    if plan.spec.process().is_none() {
        let why = "process property must not be empty";
        return Err(Error::config("process", why));
    }
    let began = span(Key::Directory);
    let dir = make_directory(root, &plan.id)?;
    drop(began);
    let mut undo = Undo::new(&dir);
    let console = connect_console(plan)?;
    let (record, pidfd, channel) = start_init(plan, config, (fifo, console), &mut undo)
        .context("unable to start container process")?;
    undo.disarm();
    let container = Container::created(dir, record, plan.spec.hooks().clone());
    Ok(Created {
        container,
        pidfd,
        channel,
    })
}

/// Starts init in the directory that `undo` knows, and serves it until it waits for its start. What
/// it waits at is a fifo or not, as for [`create`]; its console is where its terminal goes.
fn start_init<'a>(
    plan: &'a Plan,
    config: &[u8],
    (fifo, console): (bool, Option<OwnedFd>),
    undo: &mut Undo<'a>,
) -> Result<(Record, OwnedFd, Channel)> {
    let dir = undo.dir;
    if plan.options.notify {
        crate::sdnotify::make_directory(dir)?;
    }
    let (pid, channel) = launch(plan, (fifo, console), undo)?;
    let began = span(Key::Record);
    let mut record = record(plan, pid, undo.cgroup.as_ref().expect("launch set it"))?;
    record.rdt.clone_from(&undo.rdt);
    write(&dir.join(container::CONFIG), config)?;
    let creating = dir.join(container::STATE_CREATING);
    write_record(dir, &record, container::STATE_CREATING)?;
    drop(began);
    let (_, pidfd) = undo.init.as_ref().expect("launch set it");
    if let Err(error) = supervise(plan, (pid, pidfd), &channel) {
        undo.poststop = Some(plan);
        return Err(error);
    }
    let state = dir.join(container::STATE);
    std::fs::rename(&creating, &state).map_err(|e| Error::file("rename", &creating, e))?;
    if let (Some(path), Some((_, pidfd))) = (annotations::pidfd_receiver(&plan.spec), &undo.init) {
        send_pidfd(path, pidfd)?;
    }
    let (_, pidfd) = undo.init.take().expect("launch set it");
    Ok((record, pidfd, channel))
}

/// Sends a pidfd to the unix socket at `path` (`--pidfd-socket`).
pub fn send_pidfd(path: &Path, pidfd: &OwnedFd) -> Result<()> {
    let send = || {
        let socket = rrun_sys::socket::connect_unix(path)?;
        rrun_sys::socket::send_fds(socket.as_fd(), b"pidfd", &[pidfd.as_fd()])
    };
    send().with_context(|| format!("send the pidfd to {}", path.display()))
}

impl Created {
    /// Removes the container, which has ended. Its descriptors stay open: they are closed by the
    /// end of the program, which is next.
    pub fn destroy(self) -> Result<()> {
        std::mem::forget((self.pidfd, self.channel));
        self.container.destroy()
    }

    /// Sends init's pidfd to the unix socket at `path`.
    pub fn send_pidfd(&self, path: &Path) -> Result<()> {
        send_pidfd(path, &self.pidfd)
    }

    /// Lets init execute the program (`run`), and runs poststart hooks.
    pub fn start(&self) -> Result<()> {
        let began = span(Key::Exec);
        self.channel.send(&Message::Go)?;
        let answer = self.channel.receive()?;
        drop(began);
        match answer {
            // Exec closed it (or init was killed: its status will tell).
            None => {
                let _began = span(Key::PoststartHooks);
                self.container.poststart()
            }
            Some(Message::Error(text)) => Err(Error::Remote(text)),
            Some(other) => Err(Error::Remote(format!(
                "unexpected message {other:?} from init"
            ))),
        }
    }
}

/// Makes `<root>/<id>`; that it is not there yet is what reserves the id.
pub(crate) fn make_directory(root: &Path, id: &str) -> Result<PathBuf> {
    crate::spec::validate_id(id)?;
    let dir = root.join(id);
    let make = |recursive: bool, path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(recursive)
            .mode(0o711)
            .create(path)
    };
    match make(false, &dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            make(true, root).map_err(|e| Error::file("mkdir", root, e))?;
            make(false, &dir).map_err(|e| Error::file("mkdir", &dir, e))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::State(
                "container with given ID already exists".into(),
            ));
        }
        Err(e) => return Err(Error::file("mkdir", &dir, e)),
        Ok(()) => {}
    }
    Ok(dir)
}

/// Writes a container's record as `name`, which readers see whole or not at all.
pub(crate) fn write_record(dir: &Path, record: &Record, name: &str) -> Result<()> {
    let half = dir.join(".state.json");
    write(
        &half,
        &serde_json::to_vec(record).expect("a record is plain data"),
    )?;
    std::fs::rename(&half, dir.join(name)).map_err(|e| Error::file("rename", &half, e))
}

pub(crate) fn write(path: &Path, data: &[u8]) -> Result<()> {
    std::fs::write(path, data).map_err(|e| Error::file("write", path, e))
}

/// Clones init, and makes its cgroups while it makes its namespaces.
fn launch(
    plan: &Plan,
    (fifo, console): (bool, Option<OwnedFd>),
    undo: &mut Undo<'_>,
) -> Result<(i32, Channel)> {
    let (mut theirs, ours) = inherit(plan, undo.dir, fifo)?;
    theirs.console = console;
    let cgroup = undo.cgroup.insert(begin_cgroup(plan)?);
    if plan.namespaces.user() {
        let made = cgroup.complete(&plan.cgroup, None);
        made.context("create the cgroup")?;
        theirs.joiner = Some(plan.cgroup.joiner()?);
    }
    // The child has its own descriptors of the same mounts.
    let mapped = plan.mounts.iter().any(|m| m.idmap.is_some());
    let trees = if mapped {
        Some(rootfs::copy_trees(&theirs.trees)?)
    } else {
        None
    };
    let began = span(Key::Clone);
    let (pid, pidfd) = crate::launch::clone_init(plan, cgroup, theirs)?;
    drop(began);
    undo.init = Some((pid, pidfd));
    if plan.namespaces.new & namespaces::USER != 0 {
        map_ids(plan, pid, trees.as_ref())?;
        ours.send(&Message::Mapped)?;
    }
    limit_init(plan, pid, undo)?;
    ours.send(&Message::Cgroup).or_else(|e| explain(&ours, e))?;
    Ok((pid, ours))
}

fn begin_cgroup(plan: &Plan) -> Result<Cgroup> {
    let _began = span(Key::CgroupBegin);
    plan.cgroup.begin().context("create the cgroup")
}

/// Makes the rest of the cgroups with their limits, and what else limits init, which is `pid`.
fn limit_init(plan: &Plan, pid: i32, undo: &mut Undo<'_>) -> Result<()> {
    let began = span(Key::OomScore);
    let process = plan.spec.process().as_ref();
    let score = process.and_then(oci_spec::runtime::Process::oom_score_adj);
    crate::idmap::oom_score(pid, score)?;
    drop(began);
    let cgroup = undo.cgroup.as_mut().expect("init was cloned into it");
    let began = span(Key::CgroupMake);
    let made = cgroup.complete(&plan.cgroup, Some(pid));
    made.context("create the cgroup")?;
    drop(began);
    let began = span(Key::Limits);
    cgroup.limit(&plan.cgroup).context("set cgroup limits")?;
    cgroup.give(&plan.cgroup).context("give the cgroup away")?;
    drop(began);
    if let Some(rdt) = &plan.rdt {
        let _began = span(Key::Rdt);
        undo.rdt = Some(rdt.execute(&crate::rdt::root()?, &plan.id, pid)?);
    }
    Ok(())
}

/// Maps the ids of init's new user namespace, and `trees` by it.
fn map_ids(plan: &Plan, pid: i32, trees: Option<&rootfs::Trees>) -> Result<()> {
    let began = span(Key::IdMaps);
    crate::idmap::write_maps(pid, &plan.namespaces)?;
    drop(began);
    let Some(trees) = trees else { return Ok(()) };
    let namespace = crate::idmap::of_process(pid)?;
    rootfs::map_trees(plan, trees, namespace.as_fd())
}

/// A failed send means that init is gone: what it said last is the better error.
fn explain(channel: &Channel, error: Error) -> Result<()> {
    match channel.receive() {
        Ok(Some(Message::Error(text))) => Err(Error::Remote(text)),
        _ => Err(error),
    }
}

/// What init may not open in its user namespace. A caller without privileges may not clone mounts
/// either, and need not: its own ids are the ones that are mapped, so init opens them itself.
fn trees_for_init(plan: &Plan) -> Result<rootfs::Trees> {
    match rootfs::open_trees(plan) {
        Err(error) if error.errno() == Some(path::EPERM) => Ok(rootfs::Trees::new()),
        opened => opened,
    }
}

fn inherit(plan: &Plan, dir: &Path, fifo: bool) -> Result<(Inherited, Channel)> {
    let (ours, theirs) = sync::pair()?;
    let gate = if fifo {
        Gate::Fifo(start_fifo(plan, dir)?)
    } else {
        Gate::Channel
    };
    let mut trees = if plan.namespaces.user() {
        let _began = span(Key::Trees);
        trees_for_init(plan)?
    } else {
        rootfs::Trees::new()
    };
    rootfs::open_mapped_trees(plan, &mut trees)?;
    let inherited = Inherited {
        channel: Some(theirs),
        gate,
        join: open_namespaces(plan, &trees)?,
        trees,
        joiner: None,
        in_time: false,
        console: None,
        seccomp: filter(plan, dir)?,
    };
    Ok((inherited, ours))
}

/// The fifo in `dir` at which init waits for its start.
fn start_fifo(plan: &Plan, dir: &Path) -> Result<OwnedFd> {
    let fifo = dir.join(container::START_FIFO);
    path::mkfifo(&fifo, 0o622)?;
    if plan.namespaces.user() {
        // Whatever the umask says: init is another user when it opens it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o622);
        std::fs::set_permissions(&fifo, mode).map_err(|e| Error::file("chmod", &fifo, e))?;
    }
    Ok(path::open(&fifo, path::O_PATH)?)
}

/// The namespaces to join; `trees` are mapped as the user namespace among them says.
fn open_namespaces(plan: &Plan, trees: &rootfs::Trees) -> Result<Vec<(i32, OwnedFd)>> {
    let mut join = Vec::new();
    for (flag, target) in &plan.namespaces.join {
        let what = || format!("join namespace {}", target.display());
        let namespace = path::open(target, path::O_RDONLY).with_context(what)?;
        if *flag == namespaces::USER {
            rootfs::map_trees(plan, trees, namespace.as_fd())?;
        }
        join.push((*flag, namespace));
    }
    Ok(join)
}

/// The compiled seccomp profile; one without a listener is kept in `dir` for exec.
fn filter(plan: &Plan, dir: &Path) -> Result<Option<seccomp::Filter>> {
    let linux = plan.spec.linux().as_ref();
    let Some(profile) = linux.and_then(|l| l.seccomp().as_ref()) else {
        return Ok(None);
    };
    let began = span(Key::Seccomp);
    let cache = dir.parent().map(|root| root.join(".seccomp"));
    let filter =
        seccomp::compile(profile, cache.as_deref()).context("compile the seccomp profile")?;
    drop(began);
    if let Some(filter) = filter.as_ref().filter(|f| f.listener.is_none()) {
        let path = dir.join(rrun_sys::seccomp::SAVED);
        rrun_sys::seccomp::save(&path, &filter.program, filter.flags)?;
    }
    Ok(filter)
}

fn connect_console(plan: &Plan) -> Result<Option<OwnedFd>> {
    let terminal = plan
        .spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal);
    match (&plan.options.console, terminal == Some(true)) {
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

pub(crate) fn record(plan: &Plan, pid: i32, cgroup: &Cgroup) -> Result<Record> {
    let (start, _) = process::start_time(pid)
        .ok_or_else(|| Error::State("init ended early (killed, or out of memory)".into()))?;
    Ok(Record {
        version: RECORD_VERSION,
        id: plan.id.clone(),
        init_process_pid: pid,
        init_process_start: start,
        created: process::utc_now(0),
        cgroup_paths: cgroup.paths(),
        cgroup_manager: plan.options.manager,
        namespace_paths: plan.namespaces.paths(pid),
        rootless: !cred::is_root(),
        oci_version: plan.spec.version().clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        shares_pid_namespace: plan.namespaces.new & namespaces::PID == 0,
        annotations: plan.spec.annotations().clone(),
        restored: false,
        no_new_keyring: plan.options.no_new_keyring,
        rdt: None,
    })
}

/// Answers init until it is ready.
fn supervise(plan: &Plan, init: (i32, &OwnedFd), channel: &Channel) -> Result<()> {
    loop {
        match channel.receive()? {
            Some(Message::Ready) => return Ok(()),
            Some(Message::Tree(index)) => rootfs::late::serve(plan, init.0, channel, index)?,
            Some(Message::Error(text)) => {
                return Err(Error::Remote(text)).context("error during container init");
            }
            Some(request) => {
                serve(plan, init, &request)?;
                channel.send(&Message::Go)?;
            }
            None => {
                return Err(Error::Remote(
                    "init ended without a word (killed, or out of memory: is the memory limit too low?)".into(),
                ));
            }
        }
    }
}

/// Does what init, which waits, may not do itself.
fn serve(plan: &Plan, (pid, pidfd): (i32, &OwnedFd), request: &Message) -> Result<()> {
    match request {
        Message::Hooks => {
            let _began = span(Key::RuntimeHooks);
            run_runtime_hooks(plan, pid)
        }
        Message::Devices => {
            let _began = span(Key::NetDevices);
            crate::netdev::move_all(&plan.net_devices, pid)
        }
        Message::Limits => limit(plan, pid),
        Message::Listener(number) => {
            let linux = plan.spec.linux().as_ref();
            let seccomp = linux.and_then(|l| l.seccomp().as_ref());
            let seccomp = seccomp.expect("init has a filter only from a profile");
            let state = creating(plan, pid);
            crate::notify::send_listener(seccomp, &state, pid, pidfd.as_fd(), *number)
        }
        other => Err(Error::Remote(format!(
            "unexpected message {other:?} from init"
        ))),
    }
}

fn limit(plan: &Plan, pid: i32) -> Result<()> {
    let process = plan.spec.process().as_ref();
    let list = process
        .and_then(|p| p.rlimits().as_deref())
        .unwrap_or_default();
    rlimits::apply(pid, &rlimits::from_spec(list)?)
}

/// The state while `create` is at work.
fn creating(plan: &Plan, pid: i32) -> hooks::State<'_> {
    state(plan, Status::Creating, Some(pid))
}

fn state(plan: &Plan, status: Status, pid: Option<i32>) -> hooks::State<'_> {
    hooks::State {
        oci_version: crate::SPEC_VERSION,
        id: &plan.id,
        status,
        pid,
        bundle: &plan.bundle,
        annotations: plan.spec.annotations().as_ref(),
    }
}

/// Runs prestart and createRuntime hooks with the state of a container whose init is `pid`.
pub(crate) fn run_runtime_hooks(plan: &Plan, pid: i32) -> Result<()> {
    let Some(all) = plan.spec.hooks() else {
        return Ok(());
    };
    let state = creating(plan, pid);
    #[allow(
        deprecated,
        reason = "the field is deprecated in the specification, but in use"
    )]
    hooks::run("prestart", all.prestart().as_ref(), &state)?;
    hooks::run("createRuntime", all.create_runtime().as_ref(), &state)
}
