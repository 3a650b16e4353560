//! What will be done for a container's cgroup, as data.

use super::devices::rules::Policy;
use super::hierarchy::{self, Hierarchy, Layout};
use super::systemd::Unit;
use super::write::Write;
use super::{Manager, Request, path, resources};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxMemory};
use std::path::{Path, PathBuf};

/// The container's directory in one v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legacy {
    /// Controllers of the hierarchy.
    pub controllers: Vec<String>,
    /// Mount point.
    pub mount: PathBuf,
    /// The directory to make.
    pub dir: PathBuf,
}

impl Legacy {
    /// Whether the hierarchy has `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The container's directory in the v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    /// Mount point.
    pub mount: PathBuf,
    /// The directory to make.
    pub dir: PathBuf,
}

/// What will be done, as data.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) manager: Manager,
    /// `linux.cgroupsPath` is set: whoever asks for a path needs it.
    pub(super) asked: bool,
    pub(super) rootless: bool,
    pub(super) unified: Option<Unified>,
    /// What systemd is asked for.
    pub(super) unit: Option<Unit>,
    pub(super) legacy: Vec<Legacy>,
    /// Whether the machine has v1 hierarchies besides those.
    others: bool,
    /// Limits, in order.
    pub writes: Vec<Write>,
    /// Device rules; `None` on a machine whose v1 lacks the controller.
    pub devices: Option<Policy>,
    /// The device rules need not be enforced where they cannot be.
    pub(super) lax: bool,
    /// Whose the v2 cgroup becomes: an id of the host's.
    pub owner: Option<u32>,
    /// Limits to hold against what is in use (`checkBeforeUpdate`, v2).
    pub(super) check: Option<LinuxMemory>,
}

impl Plan {
    /// Plans the cgroup of a container: paths, files and values, in order. Reads
    /// which hierarchies the machine has, and nothing else.
    pub fn from_spec(request: &Request<'_>) -> Result<Self> {
        if request.manager == Manager::Disabled {
            return Ok(Self::disabled(request));
        }
        let layout = Layout::detect()?;
        Self::on(request, &layout, &hierarchy::own_unified)
    }

    /// A plan on a given machine; `own` is asked for the caller's own v2 path.
    pub(super) fn on(
        request: &Request<'_>,
        layout: &Layout,
        own: &dyn Fn() -> Result<PathBuf>,
    ) -> Result<Self> {
        let mut plan = Self::disabled(request);
        plan.manager = request.manager;
        let (inner, _) = path::inner(request.path, request.id);
        let rules: &[LinuxDeviceCgroup] = request
            .resources
            .and_then(|r| r.devices().as_deref())
            .unwrap_or_default();
        plan.devices = Some(Policy::from_spec(rules)?);
        plan.lax = Policy::is_lax(rules);
        match layout {
            Layout::Unified => {
                plan.unified = if request.manager == Manager::Systemd {
                    Some(plan.plan_unit(request, own)?)
                } else {
                    Some(unified(Path::new(hierarchy::MOUNT), &inner, own)?)
                };
                if let Some(resources) = request.resources {
                    plan.writes = resources::unified(resources)?;
                    let checked = |m: &&LinuxMemory| m.check_before_update() == Some(true);
                    plan.check = resources.memory().as_ref().filter(checked).copied();
                }
            }
            Layout::Legacy {
                hierarchies,
                hybrid,
                others,
            } => {
                plan.others = *others;
                if request.manager == Manager::Systemd {
                    plan.plan_legacy_unit(request, hierarchies, *hybrid)?;
                } else {
                    plan.legacy = hierarchies.iter().map(|h| legacy(h, &inner)).collect();
                    if *hybrid {
                        let mount = PathBuf::from(hierarchy::HYBRID);
                        let dir = path::legacy(&mount, &mount, &inner);
                        plan.unified = Some(Unified { mount, dir });
                    }
                }
                if let Some(resources) = request.resources {
                    plan.writes = resources::legacy(resources)?;
                }
                plan.check_legacy()?;
            }
        }
        if request.manager == Manager::Systemd {
            super::systemd::round_quotas(&mut plan.writes);
            super::systemd::drop_weight_of_idle(&mut plan.writes);
        }
        Ok(plan)
    }

    fn disabled(request: &Request<'_>) -> Self {
        Self {
            manager: Manager::Disabled,
            asked: request.path.is_some_and(|p| !p.as_os_str().is_empty()),
            rootless: request.rootless,
            unified: None,
            unit: None,
            legacy: Vec::new(),
            others: false,
            writes: Vec::new(),
            devices: None,
            lax: true,
            owner: None,
            check: None,
        }
    }

    /// The scope, and its directory; a user's systemd has its scopes below its own cgroup.
    fn plan_unit(
        &mut self,
        request: &Request<'_>,
        own: &dyn Fn() -> Result<PathBuf>,
    ) -> Result<Unified> {
        let unit = Unit::from_spec(request.path, request.id, request.rootless)?;
        let mount = PathBuf::from(hierarchy::MOUNT);
        let mut top = mount.clone();
        if request.rootless && !rrun_sys::cred::is_root() {
            let service = format!("user@{}.service", rrun_sys::cred::euid());
            let own = own()?;
            let manager = own
                .ancestors()
                .find(|a| a.ends_with(&service))
                .ok_or_else(|| {
                    Error::Unsupported(
                        format!("this process is not below {service}: there is no systemd to ask")
                            .into(),
                    )
                })?;
            top.push(manager.strip_prefix("/").unwrap_or(manager));
        }
        let dir = unit.dir(&top)?;
        self.unit = Some(unit);
        Ok(Unified { mount, dir })
    }

    /// The scope, and its directory in each v1 hierarchy; for the system's systemd alone, as v1
    /// cannot be delegated to users.
    fn plan_legacy_unit(
        &mut self,
        request: &Request<'_>,
        hierarchies: &[Hierarchy],
        hybrid: bool,
    ) -> Result<()> {
        if request.rootless && !rrun_sys::cred::is_root() {
            return Err(Error::Unsupported(
                "a user's systemd can be asked for cgroups on pure cgroup v2 only; use --cgroup-manager cgroupfs"
                    .into(),
            ));
        }
        let unit = Unit::from_spec(request.path, request.id, request.rootless)?;
        for hierarchy in hierarchies {
            self.legacy.push(Legacy {
                controllers: hierarchy.controllers.clone(),
                mount: hierarchy.mount.clone(),
                dir: unit.dir(&hierarchy.mount)?,
            });
        }
        if hybrid {
            let mount = PathBuf::from(hierarchy::HYBRID);
            let dir = unit.dir(&mount)?;
            self.unified = Some(Unified { mount, dir });
        }
        self.unit = Some(unit);
        Ok(())
    }

    /// A machine without the devices controller cannot hold a container back from
    /// the host's disks: refuse, as runc does.
    fn check_legacy(&self) -> Result<()> {
        if self.rootless || self.legacy.iter().any(|l| l.has("devices")) {
            return Ok(());
        }
        Err(Error::Unsupported(
            "the cgroup v1 controller devices is not mounted; mount it at /sys/fs/cgroup/devices"
                .into(),
        ))
    }

    /// Its directory in the v2 hierarchy.
    pub fn unified_dir(&self) -> Option<&Path> {
        self.unified.as_ref().map(|u| &*u.dir)
    }

    /// Its directories in the v1 hierarchies.
    pub fn legacy_dirs(&self) -> impl Iterator<Item = &Path> {
        self.legacy.iter().map(|l| &*l.dir)
    }

    /// The v1 directories that init joins, each and every one; empty where it is not
    /// known beforehand which those are, or where init sees other hierarchies as well.
    pub fn joined(&self) -> &[Legacy] {
        let surely = self.manager == Manager::Cgroupfs && !self.rootless && !self.others;
        if surely { &self.legacy } else { &[] }
    }

    /// Who makes the cgroups.
    pub fn manager(&self) -> Manager {
        self.manager
    }

    /// The directory in which a limit of `controller` is written.
    pub(super) fn dir_of(&self, controller: &str) -> Option<&Path> {
        if self.legacy.is_empty() {
            return self.unified.as_ref().map(|u| &*u.dir);
        }
        self.legacy
            .iter()
            .find(|l| l.has(controller))
            .map(|l| &*l.dir)
    }
}

fn legacy(hierarchy: &Hierarchy, inner: &Path) -> Legacy {
    Legacy {
        controllers: hierarchy.controllers.clone(),
        mount: hierarchy.mount.clone(),
        dir: path::legacy(&hierarchy.mount, &hierarchy.own, inner),
    }
}

fn unified(mount: &Path, inner: &Path, own: &dyn Fn() -> Result<PathBuf>) -> Result<Unified> {
    let own = if inner.is_absolute() {
        PathBuf::from("/")
    } else {
        own()?
    };
    Ok(Unified {
        mount: mount.to_owned(),
        dir: path::unified(mount, &own, inner),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hybrid() -> Layout {
        let hierarchy = |name: &str, own: &str| Hierarchy {
            controllers: name.split(',').map(str::to_owned).collect(),
            mount: Path::new("/sys/fs/cgroup").join(name),
            own: Path::new("/sys/fs/cgroup").join(name).join(own),
        };
        Layout::Legacy {
            hierarchies: vec![
                hierarchy("cpu,cpuacct", ""),
                hierarchy("memory", "process_api/x"),
                hierarchy("devices", ""),
            ],
            hybrid: true,
            others: false,
        }
    }

    fn request(path: Option<&str>) -> Request<'_> {
        Request {
            id: "c1",
            path: path.map(Path::new),
            resources: None,
            manager: Manager::Cgroupfs,
            rootless: false,
        }
    }

    #[allow(clippy::unnecessary_wraps)] // the shape that the plan asks for
    fn own() -> Result<PathBuf> {
        Ok("/a/own.scope".into())
    }

    #[test]
    fn hybrid_joins_every_hierarchy() {
        let plan = Plan::on(&request(None), &hybrid(), &own).unwrap();
        let dirs: Vec<_> = plan
            .legacy
            .iter()
            .map(|l| l.dir.to_str().unwrap())
            .collect();
        assert_eq!(
            dirs,
            [
                "/sys/fs/cgroup/cpu,cpuacct/c1",
                "/sys/fs/cgroup/memory/process_api/x/c1",
                "/sys/fs/cgroup/devices/c1"
            ]
        );
        assert_eq!(
            plan.unified.as_ref().unwrap().dir,
            Path::new("/sys/fs/cgroup/unified/c1")
        );
        assert_eq!(
            plan.dir_of("cpuacct").unwrap(),
            Path::new("/sys/fs/cgroup/cpu,cpuacct/c1")
        );
        assert_eq!(plan.dir_of("pids"), None);
    }

    #[test]
    fn systemd_has_the_same_scope_in_every_hierarchy() {
        let request = Request {
            manager: Manager::Systemd,
            ..request(Some("a-b.slice:p:n"))
        };
        let plan = Plan::on(&request, &hybrid(), &own).unwrap();
        let tail = "a.slice/a-b.slice/p-n.scope";
        assert!(plan.legacy.iter().all(|l| l.dir == l.mount.join(tail)));
        assert_eq!(
            plan.unified_dir(),
            Some(&*Path::new("/sys/fs/cgroup/unified").join(tail))
        );
        assert!(plan.joined().is_empty());
    }

    #[test]
    fn unified_is_beside_the_caller_or_where_asked() {
        let plan = Plan::on(&request(None), &Layout::Unified, &own).unwrap();
        assert_eq!(plan.unified.unwrap().dir, Path::new("/sys/fs/cgroup/a/c1"));
        let plan = Plan::on(&request(Some("/k/c")), &Layout::Unified, &own).unwrap();
        assert_eq!(plan.unified.unwrap().dir, Path::new("/sys/fs/cgroup/k/c"));
    }

    #[test]
    fn no_devices_controller_is_refused() {
        let Layout::Legacy {
            mut hierarchies,
            hybrid,
            others,
        } = hybrid()
        else {
            unreachable!()
        };
        hierarchies.pop();
        let layout = Layout::Legacy {
            hierarchies,
            hybrid,
            others,
        };
        assert!(Plan::on(&request(None), &layout, &own).is_err());
        let rootless = Request {
            rootless: true,
            ..request(None)
        };
        assert!(Plan::on(&rootless, &layout, &own).is_ok());
    }
}
