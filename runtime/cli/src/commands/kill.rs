//! `rrun kill`.

use super::matching;
use crate::args;
use crate::globals::Global;
use lexopt::Arg;
use rrun_core::container::Container;
use rrun_core::{Error, Result};

/// Sends a signal (SIGTERM unless given) to the init process.
pub fn run(global: &Global, mut parser: lexopt::Parser) -> Result<u8> {
    let (mut all, mut regex, mut values) = (false, false, Vec::new());
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('a') | Arg::Long("all") => all = args::switch(&mut parser)?,
            Arg::Short('r') | Arg::Long("regex") => regex = args::switch(&mut parser)?,
            Arg::Value(value) if values.len() < 2 => values.push(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let Some(id) = values.first() else {
        return Err(args::no_id("kill"));
    };
    let name = values.get(1).map_or("SIGTERM", String::as_str);
    let signal = rrun_sys::signal::parse(name)
        .ok_or_else(|| Error::Usage(format!("unknown signal {name:?}")))?;
    if regex {
        let list = matching::containers(&global.root, id)?;
        return Ok(matching::each(&list, |container| {
            one(container, signal, all)
        }));
    }
    one(&Container::load(&global.root, id)?, signal, all)?;
    Ok(0)
}

fn one(container: &Container, signal: i32, all: bool) -> Result<()> {
    if all {
        // Also the processes that a stopped init left behind (runc's obsolete --all).
        return container.cgroup()?.kill(signal);
    }
    container.kill(signal)
}
