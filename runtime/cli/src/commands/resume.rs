//! `rrun resume`.

use crate::args;
use crate::globals::Global;
use lexopt::Parser;
use rrun_core::container::{Container, Status};
use rrun_core::{Context, Error, Result};

/// Help text.
pub const HELP: &str = "\
resume a paused container

USAGE:
    rrun resume CONTAINER-ID
";

/// Thaws the container's cgroup.
pub fn run(global: &Global, parser: Parser) -> Result<u8> {
    let container = Container::load(&global.root, &args::only_id("resume", parser)?)?;
    if container.status()? != Status::Paused {
        return Err(Error::State("container not paused".into()));
    }
    container.cgroup()?.thaw().context("resume the container")?;
    Ok(0)
}
