//! Containers by a regular expression (crun's `--regex`).

use rrun_core::container::Container;
use rrun_core::{Error, Result};
use std::path::Path;

/// The containers below `root` whose whole id or a part of it `pattern` matches.
pub fn containers(root: &Path, pattern: &str) -> Result<Vec<Container>> {
    let pattern = regex_lite::Regex::new(pattern).map_err(|e| {
        let text = e.to_string();
        let why = text.lines().last().unwrap_or_default();
        Error::Usage(format!("--regex {pattern:?}: {why}"))
    })?;
    let mut list = Container::list(root)?;
    list.retain(|container| pattern.is_match(&container.record.id));
    Ok(list)
}

/// Does `work` with each; goes on after an error, which is then told with the container's id.
/// Exit status 1 when there was one.
pub fn each<C: std::borrow::Borrow<Container>>(
    list: impl IntoIterator<Item = C>,
    work: impl Fn(C) -> Result<()>,
) -> u8 {
    let mut code = 0;
    for container in list {
        let id = container.borrow().record.id.clone();
        if let Err(error) = work(container) {
            rrun_core::log::fatal(&Error::Remote(format!("{id}: {}", error.chain())));
            code = 1;
        }
    }
    code
}
