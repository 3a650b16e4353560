//! The container's cgroup: plan, create, join, limits, freeze, kill,
//! statistics, delete, on v1, hybrid and v2.
//!
//! How `create` uses it (single-threaded; the init process is cloned between
//! `begin` and `complete`, so that the parent makes the v1 directories while the
//! child makes its namespaces):
//!
//! 1. [`Plan::from_spec`], data only.
//! 2. [`Plan::begin`]: what clone3 needs: the v2 directory with its controllers
//!    enabled. [`Cgroup::clone_fd`] goes to CLONE_INTO_CGROUP. With the systemd
//!    manager there is none; the unit is started in `complete` with the pid.
//! 3. [`Cgroup::complete`]: v1 directories (and systemd's unit).
//! 4. [`Cgroup::limit`]: resources, device rules.
//! 5. [`Plan::joiner`], in the child or, where the child loses its privileges in
//!    a user namespace first, in the parent before the clone (then `complete` is
//!    called before the clone as well); [`Joiner::join_self`] in the child.

use crate::Result;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Who makes cgroups (`--cgroup-manager`, `--systemd-cgroup`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// This program, in the file system.
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Container id.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// The manager.
    pub manager: Manager,
    /// Whether the caller lacks root on the host: errors of permission on a
    /// cgroup that was not asked for by path are tolerated (runc's rule).
    pub rootless: bool,
}

/// What will be done, as data.
#[derive(Debug, Clone)]
pub struct Plan {}

/// A cgroup in every hierarchy that it is in.
#[derive(Debug)]
pub struct Cgroup {}

/// Open `tasks` (v1) files, for a single-threaded process to enter by writing `0`.
#[derive(Debug)]
pub struct Joiner {}

impl Plan {
    /// Plans the cgroup of a container: paths, files and values, in order. Reads
    /// which hierarchies the machine has, and nothing else.
    pub fn from_spec(request: &Request<'_>) -> Result<Self> {
        let _ = request;
        Ok(Self {})
    }

    /// Makes what clone3 needs before the init process exists.
    pub fn begin(&self) -> Result<Cgroup> {
        Ok(Cgroup {})
    }

    /// Opens the v1 `tasks` files of the planned cgroup.
    pub fn joiner(&self) -> Result<Joiner> {
        Ok(Joiner {})
    }
}

impl Joiner {
    /// Enters the cgroups: writes `0`. The caller must be single-threaded.
    pub fn join_self(&self) -> Result<()> {
        Ok(())
    }
}

impl Cgroup {
    /// The v2 directory for CLONE_INTO_CGROUP, if the plan has one and the kernel can (5.7).
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Makes the rest: v1 directories; systemd's unit around `pid`.
    pub fn complete(&mut self, plan: &Plan, pid: Option<i32>) -> Result<()> {
        let _ = (plan, pid);
        Ok(())
    }

    /// Writes the limits and the device rules.
    pub fn limit(&mut self, plan: &Plan) -> Result<()> {
        let _ = plan;
        Ok(())
    }

    /// `cgroup_paths` of state.json.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        BTreeMap::new()
    }

    /// The cgroup of an existing container.
    pub fn open(manager: Manager, paths: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let _ = (manager, paths);
        Ok(Self {})
    }

    /// A joiner for one more process (exec); `sub` is exec's `--cgroup`.
    pub fn exec_joiner(&self, sub: Option<&str>) -> Result<Joiner> {
        let _ = sub;
        Ok(Joiner {})
    }

    /// Process ids in the cgroup and below it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(false)
    }

    /// Freezes and waits until all processes are.
    pub fn freeze(&self) -> Result<()> {
        Ok(())
    }

    /// Thaws.
    pub fn thaw(&self) -> Result<()> {
        Ok(())
    }

    /// Signals every process: cgroup.kill for SIGKILL on v2, else freeze, signal, thaw.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let _ = signal;
        Ok(())
    }

    /// Removes the directories, children first; what is not there is no error.
    pub fn delete(&self) -> Result<()> {
        Ok(())
    }
}
