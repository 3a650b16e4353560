//! A container on disk: `<root>/<id>/state.json` (runc's fields and format),
//! its status, and what commands do with it.

use crate::cgroup::{self, Cgroup};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Life cycle of a container (runtime-spec, runtime.md#state), plus runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The user's process runs.
    Running,
    /// Frozen.
    Paused,
    /// The init process is gone.
    Stopped,
}

/// What `state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Container id.
    pub id: String,
    /// Process id of init, in the runtime's pid namespace.
    pub init_process_pid: i32,
    /// Start time of init in clock ticks since boot (field 22 of /proc/PID/stat).
    pub init_process_start: u64,
    /// When it was created, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Controller (or "" for the unified hierarchy) to absolute cgroup directory.
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// Which driver made the cgroups.
    pub cgroup_manager: cgroup::Manager,
    /// Whether the runtime ran without root on the host.
    pub rootless: bool,
    /// Bundle directory, absolute.
    pub bundle: PathBuf,
}

/// A container found below a root directory.
#[derive(Debug)]
pub struct Container {
    /// `<root>/<id>`.
    pub dir: PathBuf,
    /// Its record.
    pub record: Record,
}

impl Container {
    /// Reads `<root>/<id>/state.json`; [`Error::NoContainer`] when there is none.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        let dir = root.join(id);
        let path = dir.join("state.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoContainer { id: id.to_owned() });
            }
            Err(e) => return Err(Error::file("read", path, e)),
        };
        let record =
            serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })?;
        Ok(Self { dir, record })
    }

    /// The container's cgroup, as its record names it.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::open(self.record.cgroup_manager, &self.record.cgroup_paths)
    }
}
