//! Entering a cgroup, by the process itself.

use super::{Cgroup, Dir, Plan, path};
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

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

impl Cgroup {
    /// A joiner for one more process (exec); `sub` is exec's `--cgroup`.
    pub fn exec_joiner(&self, sub: Option<&str>) -> Result<Joiner> {
        let open = |dir: &Dir| {
            let file = sub
                .map_or(dir.path.clone(), |sub| path::below(&dir.path, sub))
                .join("tasks");
            match OpenOptions::new().write(true).open(&file) {
                Ok(open) => Some(Ok((file, open))),
                Err(_) if sub.is_none() && dir.controllers.iter().any(|c| c == "name=systemd") => {
                    None
                }
                Err(e) => Some(Err(Error::file("open", file, e))),
            }
        };
        let files = self.legacy.iter().filter_map(open).collect::<Result<_>>()?;
        Ok(Joiner { files })
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
