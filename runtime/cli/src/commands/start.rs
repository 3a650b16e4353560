//! `rrun start`.

use crate::args;
use crate::globals::Global;
use rrun_core::Result;
use rrun_core::container::Container;
use rrun_core::sdnotify::Listener;

/// Starts the user's program of a created container.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let id = args::only_id("start", parser)?;
    let container = Container::load(&global.root, &id)?;
    let listener = Listener::open(&container)?;
    container.start()?;
    if let Some(listener) = listener {
        listener.relay(&container)?;
    }
    Ok(0)
}
