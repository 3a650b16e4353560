//! `rrun pause`.

use crate::args;
use crate::globals::Global;
use lexopt::Parser;
use rrun_core::container::{Container, Status};
use rrun_core::{Context, Error, Result};

/// Help text.
pub const HELP: &str = "\
suspend all processes of a container

USAGE:
    rrun pause CONTAINER-ID

EXAMPLES:
    rrun pause first && rrun state first | grep paused && rrun resume first
";

/// Freezes the container's cgroup.
pub fn run(global: &Global, parser: Parser) -> Result<u8> {
    let container = Container::load(&global.root, &args::only_id("pause", parser)?)?;
    match container.status()? {
        Status::Running | Status::Created => {}
        status => {
            let text = format!("container not running or created: {}", status.as_str());
            return Err(Error::State(text.into()));
        }
    }
    container
        .cgroup()?
        .freeze()
        .context("pause the container")?;
    Ok(0)
}
