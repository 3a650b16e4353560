//! Warnings and debug lines of the library, to wherever the program's
//! `--log` points, in runc's text or JSON format (logrus).

pub mod daemon;

use daemon::Daemon;
use std::fmt;
use std::io::Write as _;
use std::sync::OnceLock;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The command fails because of it.
    Error,
    /// Something asked for was left out, by a rule.
    Warning,
    /// What happens.
    Info,
    /// What happens in detail (`--debug`).
    Debug,
}

/// Where and how lines are written.
#[derive(Debug)]
pub struct Sink {
    /// `--log`; standard error when none.
    pub output: Option<Output>,
    /// `--log-format json`.
    pub json: bool,
    /// Lines above it are dropped.
    pub level: Level,
}

/// Where `--log` points.
#[derive(Debug)]
pub enum Output {
    /// A file, appended to.
    File(std::fs::File),
    /// journald or syslog.
    Daemon(Daemon),
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets the process's sink; the first call wins.
pub fn init(sink: Sink) {
    let _ = SINK.set(sink);
}

/// Writes one line. Failure to write is not an error: there is nobody to tell.
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    let sink = SINK.get();
    if level > sink.map_or(Level::Info, |s| s.level) {
        return;
    }
    let name = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let output = sink.and_then(|s| s.output.as_ref());
    if let Some(Output::Daemon(daemon)) = output {
        return daemon.send(level, &message.to_string());
    }
    let message = serde_json::Value::from(message.to_string());
    let time = rrun_sys::process::utc_now(0);
    let text = if sink.is_some_and(|s| s.json) {
        format!("{{\"level\":\"{name}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
    } else {
        format!("time=\"{time}\" level={name} msg={message}\n")
    };
    let _ = match output {
        Some(Output::File(file)) => (&mut &*file).write_all(text.as_bytes()),
        _ => std::io::stderr().write_all(text.as_bytes()),
    };
}

/// A line of [`Level::Warning`], formatted.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warning, format_args!($($arg)*)) };
}

/// A line of [`Level::Debug`], formatted.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($arg)*)) };
}

/// The descriptor of the log, if it has one of its own.
pub fn descriptor() -> Option<std::os::fd::BorrowedFd<'static>> {
    SINK.get()?.output.as_ref().map(|output| match output {
        Output::File(file) => std::os::fd::AsFd::as_fd(file),
        Output::Daemon(daemon) => daemon.descriptor(),
    })
}

/// The error that ends the command: to the log and, where that is not standard error, there
/// as well, as callers of runc expect.
pub fn fatal(error: &crate::Error) {
    let chain = error.chain();
    line(Level::Error, format_args!("{chain}"));
    if SINK.get().is_some_and(|s| s.output.is_some()) {
        eprintln!("{chain}");
    }
}
