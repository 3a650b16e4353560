//! One file per command. Each has
//! `pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8>`, which
//! returns the exit status.

use crate::args::{Command, Global};
use rrun_core::{Error, Result};

/// Runs `command`.
pub fn run(global: &Global, command: Command) -> Result<u8> {
    let _ = global;
    match command.name.as_str() {
        other => Err(Error::Usage(format!("no such command {other:?}; see 'rrun --help'"))),
    }
}
