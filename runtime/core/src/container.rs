//! A container on disk: `<root>/<id>/state.json` (runc's fields and format),
//! its status, and what commands do with it.
//!
//! ```text
//! <root>/<id>/              mode 0711
//!   state.json              written once init exists; renamed from state.json.creating
//!   config.json             the configuration, byte for byte
//!   seccomp.bpf             its compiled filter, if it has one without a listener
//!   exec.fifo               opened by `start`, which ends the wait of init; then removed
//! ```

use crate::cgroup::{self, Cgroup};
use crate::plan::{self, Plan};
use crate::{Context, Error, Result, oci, spec};
use rrun_sys::process;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Life cycle of a container (runtime-spec, runtime.md#state), plus runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The user's process runs.
    Running,
    /// Frozen.
    Paused,
    /// The init process is gone.
    Stopped,
}

impl Status {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Version of this file's format.
    pub version: u32,
    /// Container id.
    pub id: String,
    /// Process id of init, in the runtime's pid namespace.
    pub init_process_pid: i32,
    /// Start time of init in clock ticks since boot (field 22 of /proc/PID/stat).
    pub init_process_start: u64,
    /// When it was created, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Controller (or "" for the unified hierarchy) to absolute cgroup directory.
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// Which driver made the cgroups.
    pub cgroup_manager: cgroup::Manager,
    /// `CLONE_NEW*` name to /proc path of the namespace.
    pub namespace_paths: BTreeMap<String, PathBuf>,
    /// Whether the runtime ran without root on the host.
    pub rootless: bool,
    /// Version of the specification that the configuration names.
    pub oci_version: String,
    /// Bundle directory, absolute.
    pub bundle: PathBuf,
    /// Root file system, absolute.
    pub rootfs: PathBuf,
    /// Whether the container has no pid namespace of its own: then its processes
    /// outlive its init.
    #[serde(default)]
    pub shares_pid_namespace: bool,
    /// Its Intel RDT groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<crate::rdt::Group>,
    /// Whether it was restored from a checkpoint: then it has a time namespace of its own.
    #[serde(default)]
    pub restored: bool,
    /// Whether it has its creator's session keyring: then its execs have theirs (`--no-new-keyring`).
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Annotations of the configuration.
    #[serde(default)]
    pub annotations: Option<HashMap<String, String>>,
}

/// Format of [`Record`].
pub const RECORD_VERSION: u32 = 1;

/// A container found below a root directory.
#[derive(Debug)]
pub struct Container {
    /// `<root>/<id>`.
    pub dir: PathBuf,
    /// Its record.
    pub record: Record,
    creating: bool,
    /// Its hooks; read from its configuration when they are first needed.
    hooks: OnceCell<Option<oci::Hooks>>,
}

/// Name of the record.
pub const STATE: &str = "state.json";
/// Its name until `create` is done.
pub const STATE_CREATING: &str = "state.json.creating";
/// The fifo on which init waits.
pub const START_FIFO: &str = "exec.fifo";
/// The configuration.
pub const CONFIG: &str = "config.json";

impl Container {
    /// Reads `<root>/<id>/state.json`; [`Error::NoContainer`] when there is none.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        spec::validate_id(id)?;
        let dir = root.join(id);
        for (name, creating) in [(STATE, false), (STATE_CREATING, true)] {
            let path = dir.join(name);
            match rrun_sys::fd::read_small(&path) {
                Ok(text) => {
                    let record = serde_json::from_str(&text)
                        .map_err(|source| Error::Json { path, source })?;
                    return Ok(Self {
                        dir,
                        record,
                        creating,
                        hooks: OnceCell::new(),
                    });
                }
                Err(e) if e.is(rrun_sys::process::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::NoContainer { id: id.to_owned() })
    }

    /// A container that this process has just created in `dir`.
    pub(crate) fn created(dir: PathBuf, record: Record, hooks: Option<oci::Hooks>) -> Self {
        Self {
            dir,
            record,
            creating: false,
            hooks: OnceCell::from(hooks),
        }
    }

    /// Every container below `root`, by id. Directories without a record are left out.
    pub fn list(root: &Path) -> Result<Vec<Self>> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("read", root, e)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| spec::validate_id(name).is_ok())
            .collect();
        names.sort();
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            match Self::load(root, &name) {
                Ok(container) => list.push(container),
                Err(Error::NoContainer { .. }) => {}
                Err(e) => crate::warning!("load container {name}: {}", e.chain()),
            }
        }
        Ok(list)
    }

    /// The plan of the configuration that it was created with.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let record = &self.record;
        let options = plan::Options {
            manager: record.cgroup_manager,
            ..plan::Options::default()
        };
        let spec = self.spec()?;
        Plan::new(&record.id, &record.bundle, spec, options, record.rootless)
    }

    /// The container's cgroup, as its record names it.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::open(self.record.cgroup_manager, &self.record.cgroup_paths)
    }

    /// A descriptor of the init process; `None` when it has ended. The start time
    /// tells it from a later process with its number.
    pub fn init(&self) -> Result<Option<OwnedFd>> {
        let pid = self.record.init_process_pid;
        let pidfd = match process::pidfd_open(pid) {
            Ok(fd) => fd,
            Err(e) if e.is(rrun_sys::process::ESRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(self.is_alive().then_some(pidfd))
    }

    /// Whether init lives (a zombie does not).
    pub fn is_alive(&self) -> bool {
        match process::start_time(self.record.init_process_pid) {
            Some((start, state)) => {
                start == self.record.init_process_start && !matches!(state, 'Z' | 'X')
            }
            None => false,
        }
    }

    /// Its status now.
    pub fn status(&self) -> Result<Status> {
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.creating {
            return Ok(Status::Creating);
        }
        if self.cgroup()?.is_frozen()? {
            return Ok(Status::Paused);
        }
        if self.dir.join(START_FIFO).exists() {
            return Ok(Status::Created);
        }
        Ok(Status::Running)
    }

    /// The configuration it was created with.
    pub fn spec(&self) -> Result<oci::Spec> {
        Ok(spec::load(&self.dir.join(CONFIG))?.0)
    }

    fn hooks(&self) -> Result<Option<&oci::Hooks>> {
        if let Some(hooks) = self.hooks.get() {
            return Ok(hooks.as_ref());
        }
        let hooks = spec::load_hooks(&self.dir.join(CONFIG))?;
        Ok(self.hooks.get_or_init(|| hooks).as_ref())
    }

    /// Lets a created container execute its program, then runs poststart hooks.
    pub fn start(&self) -> Result<()> {
        match self.status()? {
            Status::Created => {}
            Status::Stopped => {
                return Err(Error::State(
                    "cannot start a container that has stopped".into(),
                ));
            }
            Status::Running | Status::Paused => {
                return Err(Error::State(
                    "cannot start an already running container".into(),
                ));
            }
            Status::Creating => {
                return Err(Error::State(
                    "cannot start a container in the creating state".into(),
                ));
            }
        }
        self.open_gate()?;
        self.poststart()
    }

    /// Init waits in open(2) of the fifo for this reader. It then writes a byte,
    /// and the reason if it fails; exec closes its end.
    fn open_gate(&self) -> Result<()> {
        use rrun_sys::path::{self, O_NONBLOCK, O_RDONLY};
        let fifo = self.dir.join(START_FIFO);
        let init = self
            .init()?
            .ok_or_else(|| Error::State("init has ended".into()))?;
        let gate = path::open(&fifo, O_RDONLY | O_NONBLOCK)?;
        let mut text = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            let ended = match &text[..] {
                // Before its first byte the fifo has no writer, and so no end either.
                [] => rrun_sys::fd::wait_any([Some(gate.as_fd()), Some(init.as_fd())])?[1],
                _ => !rrun_sys::fd::wait_readable(gate.as_fd(), None)?,
            };
            match rrun_sys::fd::read(gate.as_fd(), &mut buffer) {
                Ok(0) if !text.is_empty() || ended => break,
                Ok(0) => {}
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(e) if e.is(rrun_sys::process::EAGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
        std::fs::remove_file(&fifo).map_err(|e| Error::file("remove", fifo, e))?;
        match text.get(1..) {
            None => Err(Error::State("init ended while it was started".into())),
            Some([]) => Ok(()),
            Some(why) => Err(Error::Remote(String::from_utf8_lossy(why).into_owned())),
        }
    }

    /// Runs poststart hooks; their failure stops the container.
    pub fn poststart(&self) -> Result<()> {
        let Some(hooks) = self.hooks()? else {
            return Ok(());
        };
        let state = self.state(Status::Running);
        crate::hooks::run("poststart", hooks.poststart().as_ref(), &state).inspect_err(|_| {
            let _ = self.kill_all();
        })
    }

    /// The state of the specification, with `status`.
    pub fn state(&self, status: Status) -> crate::hooks::State<'_> {
        let pid = self.record.init_process_pid;
        crate::hooks::State {
            oci_version: crate::SPEC_VERSION,
            id: &self.record.id,
            status,
            pid: (status != Status::Stopped).then_some(pid),
            bundle: &self.record.bundle,
            annotations: self.record.annotations.as_ref(),
        }
    }

    /// Signals init.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let stopped = || Error::State("container not running".into());
        if signal == rrun_sys::process::SIGKILL && self.record.shares_pid_namespace {
            let cgroup = self.cgroup()?;
            return if cgroup.pids()?.is_empty() {
                Err(stopped())
            } else {
                cgroup.kill(signal)
            };
        }
        let Some(init) = self.init()? else {
            return Err(stopped());
        };
        match process::pidfd_signal(init.as_fd(), signal) {
            Err(e) if e.is(rrun_sys::process::ESRCH) => Err(stopped()),
            Err(e) => Err(e.into()),
            Ok(()) => {
                // A frozen process cannot die.
                if signal == rrun_sys::process::SIGKILL {
                    let _ = self.cgroup().and_then(|c| c.thaw());
                }
                Ok(())
            }
        }
    }

    /// Kills every process of the container, and waits until init is gone.
    pub fn kill_all(&self) -> Result<()> {
        let init = self.init()?;
        if let Some(init) = &init {
            match process::pidfd_signal(init.as_fd(), rrun_sys::process::SIGKILL) {
                Err(e) if e.is(rrun_sys::process::ESRCH) => {}
                result => result?,
            }
        }
        self.cgroup()?.kill(rrun_sys::process::SIGKILL)?;
        if let Some(init) = init {
            let limit = Some(std::time::Duration::from_secs(10));
            if !rrun_sys::fd::wait_readable(init.as_fd(), limit)? {
                return Err(Error::State(
                    "init does not die within 10 s of SIGKILL".into(),
                ));
            }
        }
        Ok(())
    }

    /// Removes a container that does not run: processes that outlived its init,
    /// cgroups, directory; then poststop hooks. With `force` init is killed first.
    pub fn delete(self, force: bool) -> Result<()> {
        match self.status()? {
            Status::Stopped => {}
            _ if force => self.kill_all()?,
            Status::Created => self.kill_all()?,
            status => {
                let text = format!(
                    "cannot delete container {} that is not stopped: {}",
                    self.record.id,
                    status.as_str()
                );
                return Err(Error::State(text.into()));
            }
        }
        self.destroy()
    }

    /// The removal itself. Goes on after an error, and reports the first.
    pub fn destroy(self) -> Result<()> {
        // Read while they are there; what cannot be read must not keep the rest from going.
        let _ = self.hooks();
        let cgroup = self.cgroup().and_then(|cgroup| {
            if self.record.shares_pid_namespace {
                cgroup.kill(rrun_sys::process::SIGKILL)?;
            }
            cgroup.delete().context("remove the cgroup")
        });
        let rdt = self
            .record
            .rdt
            .as_ref()
            .map_or(Ok(()), crate::rdt::Group::remove);
        cgroup.and(rdt).and(remove(&self.dir))?;
        if let Some(Some(hooks)) = self.hooks.get() {
            crate::hooks::run_poststop(hooks, &self.state(Status::Stopped));
        }
        Ok(())
    }
}

/// Removes a container's directory: the files that are in it as a rule, then whatever
/// else there is.
fn remove(dir: &Path) -> Result<()> {
    use std::io::ErrorKind::NotFound;
    for files in [&[CONFIG, STATE][..], &[rrun_sys::seccomp::SAVED]] {
        for file in files {
            // What cannot be removed is found again below.
            let _ = std::fs::remove_file(dir.join(file));
        }
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == NotFound => return Ok(()),
            Err(_) => {}
        }
    }
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != NotFound => Err(Error::file("remove", dir, e)),
        _ => Ok(()),
    }
}
