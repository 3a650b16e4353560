//! `rrun mounts`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::container::Container;
use rrun_core::oci::Mount;
use rrun_core::{Error, Result, hotplug};
use std::path::{Path, PathBuf};

/// Help text.
pub const HELP: &str = "\
add mounts to a running container, or remove them

USAGE:
    rrun mounts add CONTAINER-ID FILE
    rrun mounts remove CONTAINER-ID FILE

FILE is JSON: a list of mounts as in config.json, or an object with a list named
mounts. Of one that is removed only the destination counts.

EXAMPLES:
    echo '[{\"destination\": \"/data\", \"source\": \"/srv/data\", \"options\": [\"rbind\", \"ro\"]}]' > m.json
    rrun mounts add web m.json && rrun exec web ls /data
    rrun mounts remove web m.json
";

/// The list in a file.
fn read(path: &Path) -> Result<Vec<Mount>> {
    let text = std::fs::read(path).map_err(|e| Error::file("read", path, e))?;
    let list = serde_json::from_slice(&text).and_then(|mut value: serde_json::Value| {
        if let Some(mounts) = value.get_mut("mounts") {
            value = mounts.take();
        }
        serde_json::from_value(value)
    });
    list.map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

/// Changes the mounts of a container that runs.
pub fn run(global: &Global, mut parser: Parser) -> Result<u8> {
    let mut values = Vec::new();
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Value(value) if values.len() < 3 => values.push(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let [action, id, file] = &values[..] else {
        return Err(Error::Usage(
            "an action, a container and a file are needed; see 'rrun mounts --help'".into(),
        ));
    };
    let change = match action.as_str() {
        "add" => hotplug::add,
        "remove" => hotplug::remove,
        other => {
            return Err(Error::Usage(format!(
                "no such action {other:?}: add or remove"
            )));
        }
    };
    let list = read(&PathBuf::from(file))?;
    change(&Container::load(&global.root, id)?, &list)?;
    Ok(0)
}
