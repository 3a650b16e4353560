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
//!
//! A process is never moved by writing its pid to `cgroup.procs`: after some quiet
//! that waits 10 to 12 ms for an RCU grace period.

mod cpu;
mod cpuset;
mod create;
pub mod devices;
mod freezer;
pub mod hierarchy;
mod hugetlb;
mod io;
mod join;
mod kill;
mod memory;
mod net;
pub mod oom;
mod owner;
mod path;
mod pids;
mod plan;
mod rdma;
mod resources;
pub mod stats;
mod systemd;
mod tree;
mod unified;
mod write;

pub use join::{Joiner, SubCgroups};
pub use plan::Plan;
pub use write::{Rule, Write};

use crate::Result;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
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

/// A cgroup in every hierarchy that it is in.
#[derive(Debug)]
pub struct Cgroup {
    manager: Manager,
    /// In the v2 hierarchy (the controllers' own, or a hybrid machine's empty one).
    unified: Option<PathBuf>,
    legacy: Vec<Dir>,
    /// The v2 directory, opened when it is first needed.
    fd: OnceCell<Option<File>>,
    /// Directories that this process made, the highest first.
    made: Vec<PathBuf>,
}

/// Its directory in a v1 hierarchy.
#[derive(Debug, Clone)]
struct Dir {
    controllers: Vec<String>,
    path: PathBuf,
}

/// Whether the cgroup with these directories is frozen: of the v1 freezer, if it has one, or of v2.
pub(crate) fn is_frozen(legacy: Option<&Path>, unified: Option<&Path>) -> Result<bool> {
    match (legacy, unified) {
        (Some(dir), _) => freezer::is_frozen_legacy(dir),
        (None, Some(dir)) => freezer::is_frozen_unified(dir),
        (None, None) => Ok(false),
    }
}

impl Cgroup {
    /// The cgroup of an existing container, from `cgroup_paths` of state.json.
    pub fn open(manager: Manager, paths: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut legacy: Vec<Dir> = Vec::new();
        for (controller, path) in paths.iter().filter(|(name, _)| !name.is_empty()) {
            match legacy.iter_mut().find(|dir| dir.path == *path) {
                Some(dir) => dir.controllers.push(controller.clone()),
                None => {
                    legacy.push(Dir {
                        controllers: vec![controller.clone()],
                        path: path.clone(),
                    });
                }
            }
        }
        let unified = paths.get("").cloned();
        Ok(Self {
            manager,
            unified,
            legacy,
            fd: OnceCell::new(),
            made: Vec::new(),
        })
    }

    /// The v2 directory for CLONE_INTO_CGROUP (5.7), if the plan has one.
    pub fn clone_fd(&self) -> Option<BorrowedFd<'_>> {
        let open = || self.unified.as_deref().and_then(|dir| File::open(dir).ok());
        self.fd.get_or_init(open).as_ref().map(AsFd::as_fd)
    }

    /// `cgroup_paths` of state.json.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let legacy = self.legacy.iter().flat_map(|dir| {
            dir.controllers
                .iter()
                .map(|controller| (controller.clone(), dir.path.clone()))
        });
        legacy
            .chain(self.unified.clone().map(|path| (String::new(), path)))
            .collect()
    }

    /// Whether it is in any v1 hierarchy.
    pub fn has_legacy(&self) -> bool {
        !self.legacy.is_empty()
    }

    /// Its directory in the v1 hierarchy of `controller`.
    fn dir_of(&self, controller: &str) -> Option<&Path> {
        let dir = self
            .legacy
            .iter()
            .find(|d| d.controllers.iter().any(|c| c == controller))?;
        Some(&dir.path)
    }

    /// The directory whose list of processes counts.
    fn list_dir(&self) -> Option<&Path> {
        self.dir_of("devices")
            .or_else(|| self.legacy.first().map(|dir| &*dir.path))
            .or(self.unified.as_deref())
    }

    fn freezer_dir(&self) -> Option<&Path> {
        self.dir_of("freezer")
    }

    /// Process ids in the cgroup and below it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.list_dir().map_or(Ok(Vec::new()), tree::all_pids)
    }

    /// Whether it is frozen. A cgroup that is gone is not.
    pub fn is_frozen(&self) -> Result<bool> {
        is_frozen(self.freezer_dir(), self.unified.as_deref())
    }

    /// Freezes and waits until all processes are.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Thaws.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match (self.freezer_dir(), &self.unified) {
            (Some(dir), _) => freezer::set_legacy(dir, frozen),
            (None, Some(dir)) => freezer::set_unified(dir, frozen),
            (None, None) => Err(crate::Error::Unsupported(
                "cannot toggle freezer: cgroups not configured for container".into(),
            )),
        }
    }

    /// Removes the directories, children first; what is not there is no error. Every
    /// directory is tried; the first error is returned.
    pub fn delete(&self) -> Result<()> {
        if let Some((scope, user)) = self.scope() {
            systemd::stop(scope, user)?;
        }
        let dirs = self.legacy.iter().map(|dir| &dir.path).chain(&self.unified);
        dirs.map(|dir| tree::remove(dir)).fold(Ok(()), Result::and)
    }
}
