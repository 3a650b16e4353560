//! OCI runtime with runc's command line.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

mod args;
mod bundle;
mod commands;
mod explain;
mod foreground;
mod globals;
mod help;

use args::Request;
use rrun_core::log;
use rrun_core::{Context, Result};

#[cfg(not(test))]
rrun_sys::c_main!(start);

#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[cfg_attr(test, allow(dead_code))]
fn start() -> u8 {
    execute().unwrap_or_else(|error| {
        log::fatal(&error);
        1
    })
}

fn execute() -> Result<u8> {
    match args::parse()? {
        Request::Print(text) => args::print(&text).map(|()| 0),
        Request::Command(global, command) => {
            if commands::enters_container(&command.name) {
                rrun_sys::seal::protect_own_binary().context("protect the program's own file")?;
            }
            log::init(global.sink()?);
            if commands::enters_container(&command.name) {
                // Wording that callers of runc know, though it is a mount, not an overlay.
                rrun_core::debug!("runc exeseal: using /proc/self/exe clone");
            }
            commands::run(&global, command)
        }
    }
}
