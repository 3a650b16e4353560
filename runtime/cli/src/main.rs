//! OCI runtime with runc's command line.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod commands;
mod foreground;
mod help;

use args::Request;
use rrun_core::log;
use rrun_core::{Context, Result};
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
            if commands::enters_container(&command.name) {
                rrun_sys::seal::protect_own_binary().context("protect the program's own file")?;
            }
            log::init(global.sink()?);
            commands::run(&global, command)
        }
    }
}
