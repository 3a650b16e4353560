//! OCI runtime with runc's command line.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod commands;
mod foreground;

use rrun_core::log::{self, Level};
use std::process::ExitCode;

fn main() -> ExitCode {
    match args::parse().and_then(|(global, command)| {
        log::init(global.sink()?);
        commands::run(&global, command)
    }) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::line(Level::Error, format_args!("{}", error.chain()));
            ExitCode::FAILURE
        }
    }
}
