//! `rrun kill`.

use crate::args::{self, Global};
use lexopt::Arg;
use rrun_core::container::Container;
use rrun_core::{Error, Result};

/// Sends a signal (SIGTERM unless given) to the init process.
pub fn run(global: &Global, mut parser: lexopt::Parser) -> Result<u8> {
    let (mut all, mut values) = (false, Vec::new());
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('a') | Arg::Long("all") => all = args::switch(&mut parser)?,
            Arg::Value(value) if values.len() < 2 => values.push(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let Some(id) = values.first() else {
        return Err(Error::Usage("container id cannot be empty".into()));
    };
    let name = values.get(1).map_or("SIGTERM", String::as_str);
    let signal = rrun_sys::signal::parse(name)
        .ok_or_else(|| Error::Usage(format!("unknown signal {name:?}")))?;
    let container = Container::load(&global.root, id)?;
    if all {
        // Also the processes that a stopped init left behind (runc's obsolete --all).
        container.cgroup()?.kill(signal)?;
        return Ok(0);
    }
    container.kill(signal)?;
    Ok(0)
}
