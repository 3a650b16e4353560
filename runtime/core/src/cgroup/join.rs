//! Entering a cgroup, by the process itself.

use super::{Cgroup, Dir, Plan, hierarchy, path};
use crate::{Error, Result};
use rrun_sys::fd::Used;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Open `tasks` (v1) files, for a single-threaded process to enter by writing `0`.
#[derive(Debug)]
pub struct Joiner {
    files: Vec<(PathBuf, File)>,
}

impl Plan {
    /// Opens the v1 `tasks` files of the planned cgroup.
    pub fn joiner(&self) -> Result<Joiner> {
        if self.manager != super::Manager::Cgroupfs {
            return Ok(Joiner { files: Vec::new() });
        }
        let mut files = Vec::with_capacity(self.legacy.len());
        for legacy in &self.legacy {
            let file = legacy.dir.join("tasks");
            match OpenOptions::new().write(true).open(&file) {
                Ok(open) => files.push((file, open)),
                // Not made, by the rules of `complete`.
                Err(_) if self.rootless || legacy.has("name=systemd") => {}
                Err(e) => return Err(Error::file("open", file, e)),
            }
        }
        Ok(Joiner { files })
    }
}

/// exec's `--cgroup`: a controller, or "" for all, to a path below the container's cgroup.
pub type SubCgroups = BTreeMap<String, String>;

impl Cgroup {
    /// A joiner for one more process (exec), into the v1 cgroups or what is below them.
    pub fn exec_joiner(&self, sub: &SubCgroups) -> Result<Joiner> {
        let known = self.paths();
        if let Some(unknown) = sub
            .keys()
            .find(|c| !c.is_empty() && !known.contains_key(*c))
        {
            return Err(Error::Usage(format!(
                "unknown controller {unknown} in --cgroup"
            )));
        }
        let open = |dir: &Dir| {
            let below = dir.controllers.iter().find_map(|c| sub.get(c));
            let below = below.or(sub.get("")).map_or("", String::as_str);
            let file = match path::below(&dir.path, below) {
                Ok(dir) => dir.join("tasks"),
                Err(e) => return Some(Err(e)),
            };
            match OpenOptions::new().write(true).open(&file) {
                Ok(open) => Some(Ok((file, open))),
                Err(_)
                    if below.is_empty() && dir.controllers.iter().any(|c| c == "name=systemd") =>
                {
                    None
                }
                Err(e) => Some(Err(Error::file("open", file, e))),
            }
        };
        let files = self.legacy.iter().filter_map(open).collect::<Result<_>>()?;
        Ok(Joiner { files })
    }

    /// The v2 directory to clone one more process into.
    pub fn exec_dir(&self, sub: &SubCgroups) -> Result<Option<PathBuf>> {
        let below = sub.get("").map_or("", String::as_str);
        let own = self.unified.as_deref();
        own.map(|own| path::below(own, below)).transpose()
    }

    /// Where init (process `init`) is now, on pure v2: the second choice, since a container that gave
    /// its controllers to children has no place for processes in its own cgroup (EBUSY), or left it.
    pub fn dir_of_init(&self, init: i32) -> Option<PathBuf> {
        if self.unified.is_none() || self.has_legacy() {
            return None;
        }
        let text = std::fs::read_to_string(format!("/proc/{init}/cgroup")).ok()?;
        let path = hierarchy::unified_path(&text)?;
        Some(path::unified(Path::new(hierarchy::MOUNT), &path, &path))
    }
}

impl Drop for Joiner {
    fn drop(&mut self) {
        let mut used = Used::default();
        for (_, file) in self.files.drain(..) {
            used.put(file.into());
        }
    }
}

impl Joiner {
    /// Enters the cgroups: writes `0`. The caller must be single-threaded.
    pub fn join_self(&self) -> Result<()> {
        for (path, file) in &self.files {
            let mut file = file;
            file.write_all(b"0")
                .map_err(|e| Error::file("write", path, e))?;
        }
        Ok(())
    }
}
