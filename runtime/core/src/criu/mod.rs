//! Checkpoint and restore by CRIU, with which this program speaks its service protocol.

mod dump;
mod external;
mod restore;
mod rpc;

pub use dump::checkpoint;
pub use restore::{Restored, restore};

use crate::{Context, Error, Result};
use rpc::{Answer, Message, kind};
use rrun_sys::process::{self, Clone};
use rrun_sys::{fd, path, socket};
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the command line says, for both directions.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directory of the image files (`--image-path`).
    pub images: PathBuf,
    /// Directory of logs (`--work-path`); the images' when absent.
    pub work: Option<PathBuf>,
    /// An earlier pre-dump, relative to `images` (`--parent-path`).
    pub parent: Option<PathBuf>,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--tcp-skip-in-flight`.
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--shell-job`.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--pre-dump`.
    pub pre_dump: bool,
    /// `--auto-dedup`.
    pub auto_dedup: bool,
    /// `--lazy-pages`.
    pub lazy_pages: bool,
    /// `--status-fd`.
    pub status_fd: Option<i32>,
    /// `--page-server`: address and port.
    pub page_server: Option<(String, u16)>,
    /// `--manage-cgroups-mode`.
    pub cgroups: CgroupsMode,
    /// `--lsm-profile` (restore).
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context` (restore).
    pub lsm_mount_context: Option<String>,
}

/// What CRIU does about cgroups; the numbers are `criu_cg_mode`'s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Nothing.
    Ignore = 0,
    /// Restore properties of those that it makes.
    Soft = 3,
    /// Restore properties of all.
    Full = 4,
    /// Make all, or fail.
    Strict = 5,
    /// CRIU's own (soft).
    #[default]
    Default = 6,
}

impl CgroupsMode {
    /// From the command line's word.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" => Self::Default,
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            "ignore" => Self::Ignore,
            _ => return None,
        })
    }
}

/// `criu`, found on PATH.
fn program() -> Result<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join("criu"))
        .find(|file| path::may_execute(file))
        .ok_or_else(|| {
            Error::Unsupported("criu is not on PATH: install it to checkpoint and restore".into())
        })
}

/// A `criu swrk` process and the conversation with it.
struct Service {
    pid: i32,
    socket: OwnedFd,
    /// Written to when it may begin.
    gate: crate::sync::Channel,
}

impl Service {
    /// Starts CRIU; `first` is what its process does before, with the caller's rights.
    fn start(
        cgroup: Option<std::os::fd::BorrowedFd<'_>>,
        first: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let program = program()?;
        let (socket, theirs) = socket::pair()?;
        let (gate, wait) = crate::sync::pair()?;
        match process::clone3(0, cgroup).context("clone criu's process")? {
            Clone::Child => {
                let error = run(&program, &theirs, &wait, first);
                let _ = wait.send(&crate::sync::Message::Error(error.chain()));
                process::exit_now(1)
            }
            Clone::Parent { pid, .. } => Ok(Self { pid, socket, gate }),
        }
    }

    /// Lets CRIU begin, with `request`.
    fn send(&self, request: &Message) -> Result<()> {
        self.gate.send(&crate::sync::Message::Go)?;
        Ok(fd::write_all(self.socket.as_fd(), request.as_bytes())?)
    }

    fn receive(&self) -> Result<(Answer, Option<OwnedFd>)> {
        let mut buffer = vec![0; 40960];
        let (length, passed) = socket::receive_with_fd(self.socket.as_fd(), &mut buffer)?;
        if length == 0 {
            if let Ok(Some(crate::sync::Message::Error(text))) = self.gate.receive() {
                return Err(Error::Remote(text));
            }
            return Err(Error::Remote("criu ended without an answer".into()));
        }
        Ok((rpc::answer(&buffer[..length])?, passed))
    }

    /// Speaks with CRIU to the end; `notified` does what it asks for.
    fn converse(
        self,
        request: &Message,
        mut notified: impl FnMut(&Answer, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Answer> {
        let result = self.send(request).and_then(|()| {
            loop {
                let (answer, passed) = self.receive()?;
                if !answer.success {
                    let why = if answer.why.is_empty() { "" } else { ": " };
                    return Err(Error::Remote(format!(
                        "criu failed: type {} errno {}{why}{}",
                        type_name(answer.kind),
                        answer.errno,
                        answer.why
                    )));
                }
                if answer.kind != kind::NOTIFY {
                    return Ok(answer);
                }
                crate::debug!("notify: {}", answer.script);
                notified(&answer, passed)?;
                let mut reply = Message::default();
                reply.number(1, kind::NOTIFY).flag(3, true);
                fd::write_all(self.socket.as_fd(), reply.as_bytes())?;
            }
        });
        // Without its client it ends.
        drop(self.socket);
        process::wait(self.pid, false)?;
        result
    }
}

fn type_name(kind: u64) -> &'static str {
    match kind {
        kind::DUMP => "DUMP",
        kind::RESTORE => "RESTORE",
        kind::PRE_DUMP => "PRE_DUMP",
        kind::NOTIFY => "NOTIFY",
        kind::FEATURE_CHECK => "FEATURE_CHECK",
        kind::VERSION => "VERSION",
        _ => "UNKNOWN",
    }
}

/// CRIU's process until it is CRIU.
fn run(
    program: &Path,
    socket: &OwnedFd,
    gate: &crate::sync::Channel,
    first: impl FnOnce() -> Result<()>,
) -> Error {
    let prepare = || -> Result<()> {
        gate.close_peer()?;
        first()?;
        gate.expect(&crate::sync::Message::Go)?;
        rrun_sys::signal::reset_for_exec()?;
        Ok(fd::keep_over_exec(socket.as_raw_fd())?)
    };
    if let Err(error) = prepare() {
        return error;
    }
    let text = |text: &[u8]| CString::new(text).unwrap_or_default();
    let number = socket.as_raw_fd().to_string();
    let args = [b"criu", b"swrk" as &[u8], number.as_bytes()].map(text);
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| {
            text(
                &[name, OsString::from("="), value]
                    .map(OsString::into_vec)
                    .concat(),
            )
        })
        .collect();
    let error = process::exec(&text(program.as_os_str().as_bytes()), &args, &env);
    Error::file(
        "exec",
        program,
        std::io::Error::from_raw_os_error(error.errno().0),
    )
}

/// CRIU's version as one number: 3.17.1 is 31701.
fn version() -> Result<u64> {
    let mut request = Message::default();
    request.number(1, kind::VERSION);
    let answer = Service::start(None, || Ok(()))?
        .converse(&request, |_, _| Ok(()))
        .context("CRIU version check failed")?;
    let [major, minor, sublevel] = answer.version;
    let number = major * 10_000 + minor * 100 + sublevel;
    if number < 30_000 {
        return Err(Error::Unsupported(
            format!("CRIU version {number} must be 30000 or higher").into(),
        ));
    }
    Ok(number)
}

/// Refuses where CRIU lacks, on this kernel, one of (memory tracking, lazy pages) that is wanted.
fn check_features(wanted: [bool; 2]) -> Result<()> {
    if wanted == [false, false] {
        return Ok(());
    }
    let mut features = Message::default();
    let mut request = Message::default();
    for (field, wanted) in (1..).zip(wanted) {
        if wanted {
            features.flag(field, true);
        }
    }
    request.number(1, kind::FEATURE_CHECK).inner(5, &features);
    let answer = Service::start(None, || Ok(()))?
        .converse(&request, |_, _| Ok(()))
        .context("CRIU feature check failed")?;
    for (name, (wanted, has)) in ["MemTrack", "LazyPages"]
        .iter()
        .zip(wanted.into_iter().zip(answer.features))
    {
        if wanted && !has {
            return Err(Error::Unsupported(
                format!("criu is missing features on this kernel: {name}").into(),
            ));
        }
    }
    Ok(())
}

/// A directory for CRIU, made where it is missing; it is given as a descriptor that it inherits.
fn directory(dir: &Path) -> Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::file("mkdir", dir, e))?;
    let opened = path::open(dir, path::O_DIRECTORY)?;
    fd::keep_over_exec(opened.as_raw_fd())?;
    Ok(opened)
}

/// The options (`criu_opts`) that both directions share.
fn common(options: &Options, log: &str, images: &OwnedFd, work: Option<&OwnedFd>) -> Message {
    let mut opts = Message::default();
    opts.int(1, images.as_raw_fd())
        .flag(4, options.ext_unix_sk)
        .flag(5, options.tcp_established)
        .flag(7, options.shell_job)
        .flag(8, options.file_locks)
        .number(9, 4)
        .text(10, log)
        .flag(12, true)
        .flag(16, options.auto_dedup)
        .flag(24, true)
        .number(34, options.cgroups as u64)
        // Interfaces of the network namespace are whose who made them.
        .int(38, crate::plan::namespaces::NET)
        .flag(48, options.lazy_pages)
        .flag(50, true);
    if let Some(work) = work {
        opts.int(17, work.as_raw_fd());
    }
    opts
}

/// The configuration file that CRIU reads: runc's, unless an annotation names another
/// (`org.criu.config`; empty for none).
fn config_file(opts: &mut Message, annotation: Option<&str>) {
    match annotation {
        None => opts.text(51, "/etc/criu/runc.conf"),
        Some("") => opts,
        Some(file) => opts.text(51, file),
    };
}

/// What CRIU's log says of a failure, added to `error`.
fn explain(error: Error, dir: &Path, log: &str) -> Error {
    let file = dir.join(log);
    let text = std::fs::read(&file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let why = text.lines().find(|line| line.contains("Error"));
    let what = match why {
        Some(line) => format!("{} (more in {})", line.trim(), file.display()),
        None => format!("criu's log is {}", file.display()),
    };
    Error::Step {
        what: what.into(),
        source: Box::new(error),
    }
}

/// Tells who waits on descriptor `number` that the lazy pages server is ready.
fn status_ready(number: i32) {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{number}"))
        .and_then(|mut file| file.write_all(b"\0"));
    if let Err(error) = written {
        crate::warning!("can't write \\0 to status fd: {error}");
    }
    let _ = fd::close_inherited(number);
}

/// Names of the files of the first three descriptors, which a restore may get others for.
const DESCRIPTORS: &str = "descriptors.json";
