//! OCI runtime with runc's command line.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod commands;
mod foreground;
mod help;

use args::Request;
use rrun_core::Result;
use rrun_core::log;
use std::process::ExitCode;

fn main() -> ExitCode {
    match execute() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::fatal(&error);
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<u8> {
    match args::parse()? {
        Request::Print(text) => args::print(&text).map(|()| 0),
        Request::Command(global, command) => {
            log::init(global.sink()?);
            commands::run(&global, command)
        }
    }
}
