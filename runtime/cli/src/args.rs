//! Which command is asked for, and what is common to the options of commands.

use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// A command.
    Command(Global, Command),
    /// A text to print: help or version.
    Print(String),
}

/// A command's name and its arguments, not yet parsed.
#[derive(Debug)]
pub struct Command {
    /// As `create`.
    pub name: String,
    /// The rest of the command line.
    pub parser: Parser,
}

/// A usage error from lexopt's.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn usage(error: lexopt::Error) -> Error {
    Error::Usage(format!("{error}; see 'rrun --help'"))
}

/// The value of the option just read, as text.
pub fn text(parser: &mut Parser) -> Result<String> {
    string(parser.value().map_err(usage)?)
}

/// A value as text.
pub fn string(value: OsString) -> Result<String> {
    value
        .into_string()
        .map_err(|v| Error::Usage(format!("argument {} is not UTF-8", v.display())))
}

/// A switch: present, or with an explicit `=true` or `=false`.
pub fn switch(parser: &mut Parser) -> Result<bool> {
    match parser.optional_value() {
        None => Ok(true),
        Some(value) => match value.to_str() {
            Some("true" | "1" | "t" | "T") => Ok(true),
            Some("false" | "0" | "f" | "F") => Ok(false),
            _ => Err(Error::Usage(format!(
                "invalid boolean value {}",
                value.display()
            ))),
        },
    }
}

/// The value of the option just read, as a number.
pub fn number(parser: &mut Parser) -> Result<u32> {
    let value = text(parser)?;
    value
        .parse()
        .map_err(|_| Error::Usage(format!("invalid number {value:?}")))
}

/// A command without a container id, in runc's words; those with more arguments behind it take
/// "a minimum".
pub fn no_id(command: &str) -> Error {
    let count = match command {
        "exec" | "kill" | "ps" => "a minimum of",
        _ => "exactly",
    };
    Error::Usage(format!(
        "{command:?} requires {count} 1 argument(s): container id cannot be empty"
    ))
}

/// The one argument of `command`, which takes a container id and nothing else.
pub fn only_id(command: &str, mut parser: Parser) -> Result<String> {
    let mut id = None;
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Value(value) if id.is_none() => id = Some(string(value)?),
            other => return Err(unexpected(other)),
        }
    }
    id.filter(|id| !id.is_empty()).ok_or_else(|| no_id(command))
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    // Flushed here: without the standard library's main nothing is at exit.
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::file("write", "standard output", e))
}

/// Descriptors that socket activation passes on (sd_listen_fds(3)).
pub fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Tells `process` of the descriptors that socket activation passes on; it will be process 1.
pub fn announce_listen_fds(process: &mut rrun_core::oci::Process) {
    let count = listen_fds();
    if count > 0 {
        let env = process.env_mut().get_or_insert_default();
        env.push(format!("LISTEN_FDS={count}"));
        env.push("LISTEN_PID=1".to_owned());
    }
}

/// The value of the option just read, as a path.
pub fn path(parser: &mut Parser) -> Result<PathBuf> {
    parser.value().map(PathBuf::from).map_err(usage)
}

/// The error for an argument that no rule takes.
pub fn unexpected(arg: Arg<'_>) -> Error {
    usage(arg.unexpected())
}

/// Reads the global options, and which command they are for.
pub fn parse() -> Result<Request> {
    let mut global = Global::new();
    let mut parser = Parser::from_iter(rrun_sys::process::arguments());
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => break,
            Arg::Short('v') | Arg::Long("version") => return Ok(Request::Print(version())),
            Arg::Value(name) if name == "help" || name == "h" => return help(&mut parser),
            Arg::Value(name) => {
                let name = string(name)?;
                if let Some(text) = wants_help(&name, &mut parser)? {
                    return Ok(Request::Print(text));
                }
                let parser = global.take_from(&name, parser)?;
                return Ok(Request::Command(global, Command { name, parser }));
            }
            Arg::Long(name) => {
                let name = name.to_owned();
                global.set(&name, &mut parser)?;
            }
            other @ Arg::Short(_) => return Err(unexpected(other)),
        }
    }
    // As runc: without a command as well.
    Ok(Request::Print(crate::help::program(full_name())))
}

/// `help [COMMAND]`.
fn help(parser: &mut Parser) -> Result<Request> {
    let text = match parser.next().map_err(usage)? {
        None => crate::help::program(full_name()),
        Some(Arg::Value(name)) => help_of(&string(name)?)?,
        Some(other) => return Err(unexpected(other)),
    };
    Ok(Request::Print(text))
}

/// The help of command `name`, if -h or --help is among its options.
fn wants_help(name: &str, parser: &mut Parser) -> Result<Option<String>> {
    let Some(rest) = parser.try_raw_args() else {
        return Ok(None);
    };
    let help = rest
        .as_slice()
        .iter()
        .take_while(|a| a.to_string_lossy().starts_with('-') && *a != "--")
        .any(|a| a == "-h" || a == "--help");
    if !help || ["image", "cri", "pods"].contains(&name) {
        return Ok(None);
    }
    help_of(name).map(Some)
}

fn help_of(name: &str) -> Result<String> {
    match crate::help::command(name) {
        Some(text) => Ok(format!("NAME:\n   {} {name} - {text}", program_name())),
        None => Err(Error::Usage(format!("No help topic for '{name}'"))),
    }
}

/// The name it was called by, where that is runc: who puts it in runc's place
/// finds the name that is looked for.
pub fn program_name() -> &'static str {
    let arguments = rrun_sys::process::arguments();
    match arguments.first().map(Path::new).and_then(Path::file_name) {
        Some(name) if name == "runc" => "runc",
        _ => "rrun",
    }
}

/// What is said when `create`, `run` or `restore` failed. Callers look for runc's words, by
/// whatever name they call the program.
pub fn failed(command: &str) -> String {
    format!("runc {command} failed")
}

/// As in the headlines of help and version: `runc version` is looked for, under every name.
fn full_name() -> &'static str {
    match program_name() {
        "runc" => "runc",
        _ => "rrun as runc",
    }
}

/// `--version`, in runc's format.
fn version() -> String {
    format!(
        "{} version {}\ncommit: {}\nspec: {}\nlibseccomp: {}\n",
        full_name(),
        env!("CARGO_PKG_VERSION"),
        option_env!("RRUN_COMMIT").unwrap_or("unknown"),
        rrun_core::SPEC_VERSION,
        rrun_core::seccomp::library_version(),
    )
}
