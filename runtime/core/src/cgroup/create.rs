//! Making the planned cgroup, and its limits.

use super::plan::{Plan, Unified};
use super::write::{self, Write, get, put};
use super::{
    Cgroup, Dir, Manager, cpu, cpuset, devices, freezer, memory, resources, systemd, tree,
};
use crate::{Context, Error, Result};
use std::cell::OnceCell;
use std::path::Path;

impl Plan {
    /// Makes what clone3 needs before the init process exists: the v2 directory, with
    /// its controllers enabled in the parents. What was made is removed on failure.
    pub fn begin(&self) -> Result<Cgroup> {
        let mut cgroup = Cgroup {
            manager: self.manager,
            unified: None,
            legacy: Vec::new(),
            fd: OnceCell::new(),
            made: Vec::new(),
        };
        let Some(unified) = self
            .unified
            .as_ref()
            .filter(|_| self.manager == Manager::Cgroupfs)
        else {
            return Ok(cgroup);
        };
        match cgroup.make(&unified.dir) {
            Ok(()) => cgroup.unified = Some(unified.dir.clone()),
            // Another hierarchy than the controllers': nice to have for cgroup.kill.
            Err(_) if !self.legacy.is_empty() => return Ok(cgroup),
            Err(error) => return self.without_unified(cgroup, error),
        }
        let result = if self.legacy.is_empty() {
            self.enable(unified)
        } else {
            Ok(())
        };
        cgroup.or_undo(result)?;
        Ok(cgroup)
    }

    /// A user who may not make cgroups can have a container without limits in the
    /// caller's own cgroup, unless a path was asked for.
    fn without_unified(&self, mut cgroup: Cgroup, error: Error) -> Result<Cgroup> {
        if !self.may_do_without(&error) {
            return cgroup.or_undo(Err(error)).map(|()| cgroup);
        }
        if resources::limit_anything(&self.writes) {
            return Err(error).context(
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
            );
        }
        Ok(cgroup)
    }

    fn may_do_without(&self, error: &Error) -> bool {
        // EPERM, EACCES, EROFS
        self.rootless && !self.asked && matches!(error.errno(), Some(1 | 13 | 30))
    }

    /// Enables every controller of the machine for the container's cgroup.
    pub(super) fn enable(&self, unified: &Unified) -> Result<()> {
        let read = |dir: &Path| {
            get(dir, "cgroup.controllers")
                .map_err(|e| Error::file("read", dir.join("cgroup.controllers"), e))
        };
        let all = read(&unified.mount)?;
        if read(&unified.dir)? == all {
            return Ok(());
        }
        let wanted = format!("+{}", all.split_whitespace().collect::<Vec<_>>().join(" +"));
        let mut current = unified.mount.clone();
        let below = unified
            .dir
            .strip_prefix(&unified.mount)
            .unwrap_or(Path::new(""));
        for name in below {
            // What cannot be enabled is told by the limit that needs it.
            if put(&current, "cgroup.subtree_control", &wanted).is_err() {
                for one in wanted.split(' ') {
                    let _ = put(&current, "cgroup.subtree_control", one);
                }
            }
            current.push(name);
            self.check_type(&current)?;
        }
        Ok(())
    }

    /// A threaded cgroup, or one below a cgroup with processes ("domain invalid"),
    /// cannot have memory or I/O limits; without them it becomes threaded.
    fn check_type(&self, dir: &Path) -> Result<()> {
        let kind = get(dir, "cgroup.type").unwrap_or_default();
        let kind = kind.trim_end();
        if kind.is_empty() || kind == "domain" {
            return Ok(());
        }
        if resources::needs_domain(&self.writes) {
            let state = if kind == "domain invalid" {
                "an invalid state".into()
            } else {
                format!("{kind} mode")
            };
            return Err(Error::State(
                format!(
                    "cannot enter cgroupv2 {:?} with domain controllers -- it is in {state}",
                    dir.display()
                )
                .into(),
            ));
        }
        if kind == "domain invalid" {
            let _ = put(dir, "cgroup.type", "threaded");
        }
        Ok(())
    }
}

impl Cgroup {
    /// Makes the rest: v1 directories; systemd's unit around `pid`.
    pub fn complete(&mut self, plan: &Plan, pid: Option<i32>) -> Result<()> {
        if self.manager == Manager::Systemd {
            let Some(pid) = pid else { return Ok(()) };
            let result = self.complete_systemd(plan, pid);
            self.or_undo(result)?;
            self.complete_legacy(plan)?;
            let result = self.enter_legacy(pid);
            return self.or_undo(result);
        }
        // Called before the clone already, where there is a user namespace.
        if self.manager == Manager::Disabled || !self.legacy.is_empty() {
            return Ok(());
        }
        self.complete_legacy(plan)
    }

    /// Makes the v1 directories, with what must be set in them before a process joins.
    fn complete_legacy(&mut self, plan: &Plan) -> Result<()> {
        for legacy in &plan.legacy {
            let result = if plan.unit.is_some() {
                // systemd has made some, with the process in them.
                tree::make(&legacy.dir).map(|made| self.made.extend(made))
            } else {
                self.make(&legacy.dir)
            };
            match result {
                Ok(()) => {}
                Err(e) if plan.may_do_without(&e) || legacy.has("name=systemd") => continue,
                Err(e) => return self.or_undo(Err(e)),
            }
            self.legacy.push(Dir {
                controllers: legacy.controllers.clone(),
                path: legacy.dir.clone(),
            });
            if legacy.has("cpuset") {
                let has = |file: &str| plan.writes.iter().any(|w| w.file == file);
                let mount = &legacy.mount;
                let fresh = self.made.last() == Some(&legacy.dir);
                let (cpus, mems) = (has("cpuset.cpus"), has("cpuset.mems"));
                let result = cpuset::inherit(mount, &legacy.dir, fresh, cpus, mems);
                self.or_undo(result)?;
            }
        }
        let early: Vec<_> = plan.writes.iter().filter(|w| is_early(w)).collect();
        let result = if self.legacy.is_empty() {
            Ok(())
        } else {
            self.write_all(plan, &early)
        };
        self.or_undo(result)
    }

    /// Writes the limits and the device rules.
    pub fn limit(&mut self, plan: &Plan) -> Result<()> {
        let done = |w: &Write| !self.legacy.is_empty() && is_early(w);
        let writes: Vec<_> = plan.writes.iter().filter(|w| !done(w)).collect();
        self.write_all(plan, &writes)?;
        let Some(policy) = &plan.devices else {
            return Ok(());
        };
        let result = if let Some(dir) = self.dir_of("devices") {
            devices::legacy::execute(dir, policy)
        } else if self.legacy.is_empty()
            && let Some(fd) = self.clone_fd()
        {
            devices::unified::execute(fd, policy, plan.lax)
        } else {
            Ok(())
        };
        if plan.rootless { Ok(()) } else { result }
    }

    /// Writes the limits alone (update).
    pub fn apply(&self, plan: &Plan) -> Result<()> {
        if let (Some(memory), Some(dir)) = (&plan.check, &self.unified) {
            memory::check(dir, memory)?;
        }
        if let Some((scope, user)) = self.scope() {
            systemd::set(scope, &plan.writes, user)?;
        }
        self.write_all(plan, &plan.writes.iter().collect::<Vec<_>>())
    }

    fn write_all(&self, plan: &Plan, writes: &[&Write]) -> Result<()> {
        for group in writes.chunk_by(|a, b| a.controller == b.controller) {
            self.write(plan, &group[0].controller, group)?;
        }
        Ok(())
    }

    fn write(&self, plan: &Plan, controller: &str, writes: &[&Write]) -> Result<()> {
        if self.manager == Manager::Disabled {
            return Ok(());
        }
        let dir = if self.legacy.is_empty() {
            self.unified.as_deref()
        } else {
            self.dir_of(controller)
        };
        let Some(dir) = dir else {
            let reason = match plan.dir_of(controller) {
                Some(_) => "container could not join or create cgroup",
                None => "the controller is not mounted on this machine",
            };
            return Err(Error::Unsupported(
                format!("cannot set {controller} limit: {reason}").into(),
            ));
        };
        write::execute(dir, writes)
    }

    /// Makes `dir` and remembers it; refuses one that another container uses.
    fn make(&mut self, dir: &Path) -> Result<()> {
        let made = tree::make(dir)?;
        if made.is_empty() {
            refuse_used(dir)?;
        }
        self.made.extend(made);
        Ok(())
    }

    /// On an error, removes what was made, parents included.
    fn or_undo(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            for dir in self.made.drain(..).rev() {
                let _ = tree::remove(&dir);
            }
        }
        result
    }
}

/// Whether a v1 limit must be set before a process joins: a cpuset may not be
/// empty, and a real-time process needs real-time bandwidth.
fn is_early(write: &Write) -> bool {
    write.controller == "cpuset" || cpu::is_real_time(write)
}

/// A container's processes would be mixed with others' in a cgroup that has some.
pub(super) fn refuse_used(dir: &Path) -> Result<()> {
    let pids = tree::all_pids(dir)?;
    if pids.is_empty() {
        return refuse_frozen(dir);
    }
    Err(Error::State(
        format!(
            "container's cgroup is not empty: {} process(es) found in {}",
            pids.len(),
            dir.display()
        )
        .into(),
    ))
}

/// Init would freeze on entering, and nobody could tell why it does not start.
fn refuse_frozen(dir: &Path) -> Result<()> {
    // Each is false where the directory has no such file.
    if !freezer::is_frozen_unified(dir)? && !freezer::is_frozen_legacy(dir)? {
        return Ok(());
    }
    Err(Error::State(
        format!(
            "container's cgroup unexpectedly frozen: thaw {}",
            dir.display()
        )
        .into(),
    ))
}
