//! `rrun delete`.

use super::matching;
use crate::args;
use crate::globals::Global;
use lexopt::Arg;
use rrun_core::container::Container;
use rrun_core::{Error, Result};

/// Removes a container.
pub fn run(global: &Global, mut parser: lexopt::Parser) -> Result<u8> {
    let (mut force, mut regex, mut id) = (false, false, None);
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('f') | Arg::Long("force") => force = args::switch(&mut parser)?,
            Arg::Short('r') | Arg::Long("regex") => regex = args::switch(&mut parser)?,
            Arg::Value(value) if id.is_none() => id = Some(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let id = id.ok_or_else(|| args::no_id("delete"))?;
    if regex {
        let list = matching::containers(&global.root, &id)?;
        return Ok(matching::each(list, |container| container.delete(force)));
    }
    match Container::load(&global.root, &id) {
        Ok(container) => container.delete(force)?,
        Err(Error::NoContainer { .. }) => {
            // A create that was killed before its record existed leaves a directory.
            let dir = global.root.join(&id);
            if dir.is_dir() {
                std::fs::remove_dir_all(&dir).map_err(|e| Error::file("remove", dir, e))?;
            } else if !force {
                return Err(Error::NoContainer { id });
            }
        }
        Err(error) => return Err(error),
    }
    Ok(0)
}
