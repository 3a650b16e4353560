//! `rrun start`.

use crate::args::{self, Global};
use rrun_core::Result;
use rrun_core::container::Container;

/// Starts the user's program of a created container.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let id = args::only_id(parser)?;
    Container::load(&global.root, &id)?.start()?;
    Ok(0)
}
