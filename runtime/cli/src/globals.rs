//! The global options: before the command or, as runc takes them, among its own.

use crate::args::{self, path, switch, text};
use lexopt::{Arg, Parser};
use rrun_core::cgroup::Manager;
use rrun_core::log::daemon::Daemon;
use rrun_core::log::{Level, Output, Sink};
use rrun_core::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The global options.
#[derive(Debug, Clone)]
pub struct Global {
    /// `--root`: where containers' directories are.
    pub root: PathBuf,
    /// Whether `--root` was given: then it must exist for `list`.
    pub root_given: bool,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--log-format json`.
    pub log_json: bool,
    /// `--log-level`, `--debug`.
    pub level: Level,
    /// `--systemd-cgroup`, `--cgroup-manager`.
    pub manager: Manager,
    /// `--rootless`; `None` for auto.
    pub rootless: Option<bool>,
}

impl Global {
    /// What is asked for where no option is given.
    pub fn new() -> Self {
        Self {
            root: default_root(),
            root_given: false,
            log: None,
            log_json: false,
            level: Level::Info,
            manager: Manager::Cgroupfs,
            rootless: None,
        }
    }

    /// Takes the global options that are among those of command `name`, as runc does. What is left
    /// is the command's own.
    pub fn take_from(&mut self, name: &str, mut parser: Parser) -> Result<Parser> {
        let any = parser.try_raw_args().is_some_and(|rest| {
            let mut all = rest.as_slice().iter();
            all.any(|arg| global_name(name, arg).is_some())
        });
        if !any {
            return Ok(parser);
        }
        let all: Vec<OsString> = parser.raw_args().map_err(args::usage)?.collect();
        let (own, global) = split(name, all);
        let mut parser = Parser::from_args(global);
        while let Some(arg) = parser.next().map_err(args::usage)? {
            match arg {
                Arg::Long(name) => {
                    let name = name.to_owned();
                    self.set(&name, &mut parser)?;
                }
                other => return Err(args::unexpected(other)),
            }
        }
        Ok(Parser::from_args(own))
    }

    /// One option, its name just read.
    pub fn set(&mut self, name: &str, parser: &mut Parser) -> Result<()> {
        match name {
            "root" => (self.root, self.root_given) = (path(parser)?, true),
            "log" => self.log = Some(path(parser)?).filter(|p| !p.as_os_str().is_empty()),
            "log-format" => {
                self.log_json = match text(parser)?.as_str() {
                    "json" => true,
                    "text" | "" => false,
                    other => {
                        return Err(Error::Usage(format!(
                            "invalid log-format {other:?}: text or json"
                        )));
                    }
                }
            }
            "log-level" => {
                self.level = match text(parser)?.as_str() {
                    "error" => Level::Error,
                    "warn" | "warning" => Level::Warning,
                    "info" => Level::Info,
                    "debug" => Level::Debug,
                    other => return Err(Error::Usage(format!("invalid log-level {other:?}"))),
                }
            }
            "debug" => {
                if switch(parser)? {
                    self.level = Level::Debug;
                }
            }
            "systemd-cgroup" => {
                if switch(parser)? {
                    self.manager = Manager::Systemd;
                }
            }
            "cgroup-manager" => {
                self.manager = match text(parser)?.as_str() {
                    "cgroupfs" => Manager::Cgroupfs,
                    "systemd" => Manager::Systemd,
                    "disabled" => Manager::Disabled,
                    other => return Err(Error::Usage(format!("invalid cgroup-manager {other:?}"))),
                }
            }
            "rootless" => {
                self.rootless = match text(parser)?.as_str() {
                    "auto" => None,
                    "true" | "1" => Some(true),
                    "false" | "0" => Some(false),
                    other => {
                        return Err(Error::Usage(format!(
                            "invalid value {other:?} for --rootless"
                        )));
                    }
                }
            }
            // Older callers of runc still name the program.
            "criu" => drop(path(parser)?),
            other => {
                return Err(Error::Usage(format!(
                    "invalid option '--{other}'; see 'rrun --help'"
                )));
            }
        }
        Ok(())
    }

    /// Whether permission errors of cgroups are tolerated: the caller is not the
    /// host's root, or says so.
    pub fn is_rootless(&self) -> bool {
        self.rootless
            .unwrap_or_else(|| !rrun_sys::cred::is_root() || rrun_sys::cred::in_user_namespace())
    }

    /// The log sink that these options ask for.
    pub fn sink(&self) -> Result<Sink> {
        let output = self.log.as_deref().map(log_output).transpose()?;
        Ok(Sink {
            output,
            json: self.log_json,
            level: self.level,
        })
    }
}

/// A destination as crun has them: `BACKEND:SPECIFIER`, or a file alone.
fn log_output(destination: &Path) -> Result<Output> {
    let text = destination.to_str().unwrap_or_default();
    let path = match text.split_once(':') {
        Some(("journald", identifier)) => return Daemon::journal(identifier).map(Output::Daemon),
        Some(("syslog", identifier)) => return Daemon::syslog(identifier).map(Output::Daemon),
        Some(("file", path)) => Path::new(path),
        _ => destination,
    };
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(Output::File)
        .map_err(|e| Error::file("open", path, e))
}

/// The name of the global option that `arg` is, where command `command` has none of that name.
fn global_name<'a>(command: &str, arg: &'a OsStr) -> Option<&'a str> {
    let text = arg.to_str()?.strip_prefix("--")?;
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    match name {
        _ if matches!(command, "image" | "cri" | "pods") => false,
        "rootless" => command != "spec",
        "root" | "log" | "log-format" | "log-level" | "debug" | "systemd-cgroup"
        | "cgroup-manager" => true,
        _ => false,
    }
    .then_some(name)
}

/// Options of `exec` and `ps` that a value follows: behind their first argument that is none, all
/// is another program's.
const WITH_VALUE: [&str; 14] = [
    "--process",
    "--user",
    "--additional-gids",
    "--cwd",
    "--env",
    "--cap",
    "--apparmor",
    "--process-label",
    "--cgroup",
    "--pid-file",
    "--console-socket",
    "--pidfd-socket",
    "--preserve-fds",
    "--format",
];
const SHORT_WITH_VALUE: &str = "pugecf";

fn value_follows(arg: &str) -> bool {
    match arg.strip_prefix('-') {
        Some(long) if long.starts_with('-') => WITH_VALUE.contains(&arg),
        Some(short) => {
            let first = short.find(|c| SHORT_WITH_VALUE.contains(c));
            first.is_some_and(|at| at + 1 == short.len())
        }
        None => false,
    }
}

/// A command's own arguments, and the global options that are among them.
fn split(command: &str, all: Vec<OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let (mut own, mut global) = (Vec::new(), Vec::new());
    let mut all = all.into_iter();
    while let Some(arg) = all.next() {
        let text = arg.to_str().unwrap_or_default();
        if let Some(name) = global_name(command, &arg) {
            let has_value = text.contains('=') || matches!(name, "debug" | "systemd-cgroup");
            global.push(arg);
            global.extend(if has_value { None } else { all.next() });
            continue;
        }
        let foreign = matches!(command, "exec" | "ps");
        let last = text == "--" || (foreign && !text.starts_with('-'));
        let value = value_follows(text);
        own.push(arg);
        if last {
            break;
        }
        own.extend(if value { all.next() } else { None });
    }
    own.extend(all);
    (own, global)
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() && !rrun_sys::cred::is_root() => {
            PathBuf::from(dir).join("rrun")
        }
        _ => PathBuf::from("/run/rrun"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(command: &str, args: &str) -> (String, String) {
        let all = args.split_whitespace().map(OsString::from).collect();
        let (own, global) = super::split(command, all);
        let line = |all: Vec<OsString>| all.join(OsStr::new(" ")).into_string().unwrap();
        (line(own), line(global))
    }

    #[test]
    fn global_options_are_taken_from_among_a_commands_own() {
        let of = |command, args, own: &str, global: &str| {
            assert_eq!(split(command, args), (own.to_owned(), global.to_owned()));
        };
        of("list", "--debug -q", "-q", "--debug");
        of("state", "--root /x a --log=y", "a", "--root /x --log=y");
        of("spec", "--rootless -b x", "--rootless -b x", "");
        of("run", "--rootless true a", "a", "--rootless true");
        of("run", "-- --debug", "-- --debug", "");
        of("pods", "--root /x get pods", "--root /x get pods", "");
    }

    #[test]
    fn what_another_program_gets_is_left_alone() {
        let exec = |args, own: &str, global: &str| {
            assert_eq!(split("exec", args), (own.to_owned(), global.to_owned()));
        };
        exec("--debug a ls --debug", "a ls --debug", "--debug");
        exec(
            "-tu 0 --root /x a ls --root",
            "-tu 0 a ls --root",
            "--root /x",
        );
        exec("-u0 a --log", "-u0 a --log", "");
        exec("--user 0 --debug a", "--user 0 a", "--debug");
        exec(
            "--user=0 --debug a --debug",
            "--user=0 a --debug",
            "--debug",
        );
        let (own, global) = split("ps", "-f json --debug a --root");
        assert_eq!(
            (own.as_str(), global.as_str()),
            ("-f json a --root", "--debug")
        );
    }
}
