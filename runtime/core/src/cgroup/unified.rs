//! `linux.resources.unified`: any file of v2, by name.

use super::write::{Rule, Write, get};
use crate::{Error, Result};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// Writes in the order of their names. They come last, so that they win.
pub fn writes(map: &HashMap<String, String>, writes: &mut Vec<Write>) -> Result<()> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    for (name, value) in entries {
        if name.contains('/') {
            return Err(Error::config(
                "linux.resources.unified",
                format!("unified resource {name:?} must be a file name (no slashes)"),
            ));
        }
        writes.push(Write::new(name.clone(), value).rule(Rule::Unified));
    }
    Ok(())
}

/// v1 has no such files.
pub fn refuse_on_legacy(map: &HashMap<String, String>) -> Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    Err(Error::config(
        "linux.resources.unified",
        "invalid configuration: cannot use unified on cgroup v1",
    ))
}

/// Writes line by line: io.max and others take one device in each write.
pub fn execute(dir: &Path, write: &Write) -> Result<()> {
    let name = &*write.file;
    let path = dir.join(name);
    let result = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| {
            write
                .value
                .split_inclusive('\n')
                .try_for_each(|line| file.write_all(line.as_bytes()))
        });
    let Err(error) = result else { return Ok(()) };
    let mut what = format!("unable to set unified resource {name:?}");
    if matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied
    ) {
        let Some((controller, _)) = name.split_once('.') else {
            return Err(Error::config(
                "linux.resources.unified",
                format!("unified resource {name:?} must be in the form CONTROLLER.PARAMETER"),
            ));
        };
        let enabled = get(dir, "cgroup.controllers").unwrap_or_default();
        if controller != "cgroup" && !enabled.split_whitespace().any(|c| c == controller) {
            what = format!(
                "unified resource {name:?} can't be set: controller {controller:?} not available"
            );
        }
    }
    Err(Error::Step {
        what: what.into(),
        source: Box::new(Error::file("write", path, error)),
    })
}
