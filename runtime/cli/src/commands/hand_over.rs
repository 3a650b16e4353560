//! `rrun image`, `rrun cri`, `rrun pods`: the program of that name takes over.

use rrun_core::{Context, Error, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Executes `rrun-NAME`, found beside this program or on PATH, with the rest of
/// the command line.
pub fn run(name: &str, mut parser: lexopt::Parser) -> Result<u8> {
    let program = format!("rrun-{name}");
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(&program)));
    let path = beside
        .filter(|p| p.is_file())
        .unwrap_or_else(|| program.clone().into());
    let args = parser.raw_args().map_err(crate::args::usage)?;
    let error = Command::new(&path).args(args).exec();
    Err(Error::file("exec", path, error))
        .with_context(|| format!("{program} is needed for `rrun {name}`: is it installed?"))
}
