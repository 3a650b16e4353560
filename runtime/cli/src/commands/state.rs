//! `rrun state`.

use crate::args;
use crate::globals::Global;
use rrun_core::{Result, listing};

/// Prints the state of a container as JSON.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let id = args::only_id("state", parser)?;
    let view = listing::one(&global.root, &id)?;
    let text = serde_json::to_string_pretty(&view).expect("a view is plain data");
    args::print(&format!("{text}\n"))?;
    Ok(0)
}
