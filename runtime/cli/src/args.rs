//! The global options, and what is common to the options of commands.

use lexopt::{Arg, Parser};
use rrun_core::cgroup::Manager;
use rrun_core::log::{Level, Sink};
use rrun_core::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// Options before the command.
#[derive(Debug, Clone)]
pub struct Global {
    /// `--root`: where containers' directories are.
    pub root: PathBuf,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--log-format json`.
    pub log_json: bool,
    /// `--log-level`, `--debug`.
    pub level: Level,
    /// `--systemd-cgroup`, `--cgroup-manager`.
    pub manager: Manager,
}

/// A command's name and its arguments, not yet parsed.
#[derive(Debug)]
pub struct Command {
    /// As `create`.
    pub name: String,
    /// The rest of the command line.
    pub parser: Parser,
}

impl Global {
    /// The log sink that these options ask for.
    pub fn sink(&self) -> Result<Sink> {
        let file = match &self.log {
            None => None,
            Some(path) => Some(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|e| Error::file("open", path, e))?,
            ),
        };
        Ok(Sink { file, json: self.log_json, level: self.level })
    }
}

/// A usage error from lexopt's.
pub fn usage(error: lexopt::Error) -> Error {
    Error::Usage(format!("{error}; see 'rrun --help'"))
}

/// The value of the option just read, as text.
pub fn text(parser: &mut Parser) -> Result<String> {
    string(parser.value().map_err(usage)?)
}

/// A value as text.
pub fn string(value: OsString) -> Result<String> {
    value.into_string().map_err(|v| Error::Usage(format!("argument {v:?} is not UTF-8")))
}

/// A switch: present, or with an explicit `=true` or `=false`.
pub fn switch(parser: &mut Parser) -> Result<bool> {
    match parser.optional_value() {
        None => Ok(true),
        Some(value) => match value.to_str() {
            Some("true" | "1" | "t" | "T") => Ok(true),
            Some("false" | "0" | "f" | "F") => Ok(false),
            _ => Err(Error::Usage(format!("invalid boolean value {value:?}"))),
        },
    }
}

/// The value of the option just read, as a number.
pub fn number(parser: &mut Parser) -> Result<u32> {
    let value = text(parser)?;
    value.parse().map_err(|_| Error::Usage(format!("invalid number {value:?}")))
}

/// The one argument of commands that take a container id and nothing else.
pub fn only_id(mut parser: Parser) -> Result<String> {
    let mut id = None;
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Value(value) if id.is_none() => id = Some(string(value)?),
            other => return Err(unexpected(other)),
        }
    }
    id.filter(|id| !id.is_empty())
        .ok_or_else(|| Error::Usage("container id cannot be empty".into()))
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Error::file("write", "standard output", e))
}

/// Descriptors that socket activation passes on (sd_listen_fds(3)).
pub fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The value of the option just read, as a path.
pub fn path(parser: &mut Parser) -> Result<PathBuf> {
    parser.value().map(PathBuf::from).map_err(usage)
}

/// The error for an argument that no rule takes.
pub fn unexpected(arg: Arg<'_>) -> Error {
    usage(arg.unexpected())
}

/// Reads the global options up to the command.
pub fn parse() -> Result<(Global, Command)> {
    let mut global = Global {
        root: default_root(),
        log: None,
        log_json: false,
        level: Level::Info,
        manager: Manager::Cgroupfs,
    };
    let mut parser = Parser::from_env();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Long("root") => global.root = path(&mut parser)?,
            Arg::Long("log") => global.log = Some(path(&mut parser)?),
            Arg::Long("log-format") => {
                global.log_json = match text(&mut parser)?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => return Err(Error::Usage(format!("unknown log-format {other:?}"))),
                }
            }
            Arg::Long("debug") => global.level = Level::Debug,
            Arg::Long("systemd-cgroup") => global.manager = Manager::Systemd,
            Arg::Value(name) => {
                let name = name.to_string_lossy().into_owned();
                return Ok((global, Command { name, parser }));
            }
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::Usage("no command given; see 'rrun --help'".into()))
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() && !rrun_sys::cred::is_root() => {
            PathBuf::from(dir).join("rrun")
        }
        _ => PathBuf::from("/run/rrun"),
    }
}
