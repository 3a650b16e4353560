//! The OCI runtime as a program: its command lines, and what it says when it fails.

use crate::peer::Peer;
use crate::spawn::{self, Child};
use rrun_task_api::Status;
use rrun_task_api::pb::runc::{CheckpointOptions, Options};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// Name of the file in the bundle that holds a [`Runtime`], for a `delete` after our death.
const FILE: &str = "shim.json";
const VERSION: u32 = 1;
/// Variables that the runtime does not get.
const FILTERED: [&str; 4] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];
/// State directory where the request names none; each namespace has one below it.
const ROOT: &str = "/run/rrun";

/// Which program, and the flags that every command gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    version: u32,
    /// Path, or name on PATH.
    pub binary: String,
    /// `--root`
    pub root: PathBuf,
    /// `--systemd-cgroup`
    pub systemd_cgroup: bool,
    /// `create --no-pivot`
    pub no_pivot: bool,
    /// `create --no-new-keyring`
    pub no_new_keyring: bool,
    /// The shim that runs the container instead of the runtime.
    #[serde(default)]
    pub peer: Option<Peer>,
}

impl Runtime {
    /// From the options of a Create request.
    pub fn new(options: &Options, namespace: &str) -> Self {
        let root = if options.root.is_empty() {
            ROOT
        } else {
            &options.root
        };
        Self {
            version: VERSION,
            binary: match options.binary_name.as_str() {
                "" => default_binary(),
                name => name.to_owned(),
            },
            root: Path::new(root).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            peer: None,
        }
    }

    /// The state directory of container `id`, where the runtime is one whose state we can read.
    pub fn own_state(&self, id: &str) -> Option<PathBuf> {
        let name = Path::new(&self.binary).file_name()?;
        (name == "rrun" && self.peer.is_none()).then(|| self.root.join(id))
    }

    /// Keeps it in the bundle.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        let temporary = bundle.join(".shim.json.tmp");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, bundle.join(FILE))
    }

    /// What was kept in a bundle; `None` where nothing was created in it.
    pub fn load(bundle: &Path) -> io::Result<Option<Self>> {
        match fs::read(bundle.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole command line of a command.
    pub fn command(&self, log: &Path, args: &[&str]) -> Vec<String> {
        let mut line: Vec<String> = [
            &self.binary,
            "--root",
            &self.root.to_string_lossy(),
            "--log",
            &log.to_string_lossy(),
            "--log-format",
            "json",
        ]
        .map(str::to_owned)
        .into();
        if self.systemd_cgroup {
            line.push("--systemd-cgroup".to_owned());
        }
        line.extend(args.iter().map(|arg| (*arg).to_owned()));
        line
    }

    /// Starts a command.
    pub fn start(&self, log: &Path, args: &[&str], fds: Fds<'_>) -> Result<Run, Status> {
        let argv = self
            .command(log, args)
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Status::invalid("a NUL in an argument of the runtime"))?;
        let started = start(self.binary.as_ref(), &argv, fds);
        let (child, stderr) = started.map_err(|error| {
            Status::internal(format!("start the OCI runtime {:?}: {error}", self.binary))
        })?;
        Ok(Run {
            child,
            log: log.to_owned(),
            stderr,
            command: args[0].to_owned(),
        })
    }
}

/// What a command gets as descriptors 0, 1, 2.
#[derive(Clone, Copy)]
pub enum Fds<'a> {
    /// Nothing; what it prints is kept for its error.
    None,
    /// The container's stdio.
    Stdio(BorrowedFd<'a>, BorrowedFd<'a>, BorrowedFd<'a>),
}

/// A command that runs.
#[derive(Debug)]
pub struct Run {
    /// Its process.
    pub child: Child,
    log: PathBuf,
    stderr: Option<OwnedFd>,
    command: String,
}

impl Run {
    /// What went wrong, once it has ended with an error.
    pub fn error(self, ended: spawn::Ended) -> Status {
        let how = match ended {
            spawn::Ended::Code(code) => format!("exit code {code}"),
            spawn::Ended::Signal(signal) => format!("killed by signal {signal}"),
        };
        let logged = fs::read(&self.log).ok().and_then(|log| last_error(&log));
        let said = logged.or_else(|| self.stderr.and_then(printed));
        let _ = fs::remove_file(&self.log);
        let what = said.unwrap_or(how);
        let status = Status::new(
            rrun_task_api::Code::Unknown,
            format!("OCI runtime {}", described(&self.command, &what)),
        );
        if what.contains("does not exist") && self.command != "create" && self.command != "exec" {
            return Status {
                code: rrun_task_api::Code::NotFound,
                ..status
            };
        }
        status
    }

    /// Removes the log of a command that went well.
    pub fn finish(self) {
        let _ = fs::remove_file(&self.log);
    }
}

fn start(
    binary: &std::ffi::OsStr,
    argv: &[CString],
    fds: Fds<'_>,
) -> io::Result<(Child, Option<OwnedFd>)> {
    let mut env = spawn::environment();
    // Meant for the daemon above us; a runtime would wait for a READY=1, or pass on descriptors
    // that nobody gave it.
    env.retain(|entry| {
        let name = entry.as_bytes().split(|b| *b == b'=').next();
        !FILTERED
            .iter()
            .any(|filtered| name == Some(filtered.as_bytes()))
    });
    match fds {
        Fds::Stdio(stdin, stdout, stderr) => Ok((
            spawn::spawn(binary, argv, &env, &[stdin, stdout, stderr])?,
            None,
        )),
        Fds::None => {
            let null = spawn::null()?;
            let output = rustix::fs::memfd_create(c"runtime", MemfdFlags::CLOEXEC)?;
            let fds = [null.as_fd(), output.as_fd(), output.as_fd()];
            Ok((spawn::spawn(binary, argv, &env, &fds)?, Some(output)))
        }
    }
}

/// The program beside our own, else the name for PATH. Our own is what `start` called it: what
/// /proc knows is a mount that is attached nowhere.
fn default_binary() -> String {
    let own = env::args_os().next().map(PathBuf::from);
    let beside = own
        .filter(|own| own.is_absolute())
        .or_else(|| env::current_exe().ok())
        .map(|own| own.with_file_name("rrun"));
    match beside {
        Some(path) if path.is_file() => path.to_string_lossy().into_owned(),
        _ => "rrun".to_owned(),
    }
}

#[derive(Deserialize)]
struct Line {
    level: String,
    msg: String,
}

/// The last error of a JSON log.
fn last_error(log: &[u8]) -> Option<String> {
    log.split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .rfind(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"))
        .map(|line| line.msg.trim().to_owned())
}

/// `<command> failed: <why>`, said once: rrun begins its own errors with `rrun <command> failed`.
fn described(command: &str, what: &str) -> String {
    let said = format!("{command} failed: ");
    match what.split_once(&said) {
        Some((program, why)) if !program.trim_end().contains(' ') => format!("{said}{why}"),
        _ => format!("{said}{what}"),
    }
}

/// The last line that a command printed.
fn printed(fd: OwnedFd) -> Option<String> {
    let mut text = String::new();
    let mut file = fs::File::from(fd);
    file.rewind().ok()?;
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

/// Flags of `checkpoint` for its options.
pub fn checkpoint_flags(options: &CheckpointOptions) -> Vec<String> {
    let mut flags = Vec::new();
    let mut switch = |on: bool, flag: &str| {
        if on {
            flags.push(flag.to_owned());
        }
    };
    switch(!options.exit, "--leave-running");
    switch(options.open_tcp, "--tcp-established");
    switch(options.external_unix_sockets, "--ext-unix-sk");
    switch(options.terminal, "--shell-job");
    switch(options.file_locks, "--file-locks");
    for namespace in &options.empty_namespaces {
        flags.extend(["--empty-ns".to_owned(), namespace.clone()]);
    }
    for (flag, value) in [
        ("--manage-cgroups-mode", &options.cgroups_mode),
        ("--work-path", &options.work_path),
        ("--parent-path", &options.parent_path),
    ] {
        if !value.is_empty() {
            flags.extend([flag.to_owned(), value.clone()]);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_what_went_wrong() {
        let log = br#"{"level":"warning","msg":"w","time":"t"}
{"level":"error","msg":"first","time":"t"}
not json
{"level":"error","msg":"exec: \"x\": not found\n","time":"t"}
{"level":"info","msg":"i","time":"t"}
"#;
        assert_eq!(last_error(log).as_deref(), Some("exec: \"x\": not found"));
        assert_eq!(last_error(b"{\"level\":\"info\",\"msg\":\"x\"}"), None);
    }

    #[test]
    fn an_error_says_once_which_command_failed() {
        assert_eq!(
            described("create", "rrun create failed: no rootfs"),
            "create failed: no rootfs"
        );
        assert_eq!(described("create", "no rootfs"), "create failed: no rootfs");
        let inner = "exec a: create failed: x";
        assert_eq!(
            described("create", inner),
            format!("create failed: {inner}")
        );
    }

    #[test]
    fn the_command_line_is_runcs() {
        let options = Options {
            binary_name: "/bin/runc".into(),
            root: "/r".into(),
            systemd_cgroup: true,
            ..Options::default()
        };
        let line = Runtime::new(&options, "ns").command(Path::new("/l"), &["start", "id"]);
        let expected =
            "/bin/runc --root /r/ns --log /l --log-format json --systemd-cgroup start id";
        assert_eq!(line.join(" "), expected);
    }
}
