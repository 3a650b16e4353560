//! The systemd manager: the container's cgroup is a transient scope, so that
//! systemd knows of it and leaves it alone. On v1 systemd makes it in the hierarchies that it
//! manages; in the others the same path is made here.
//!
//! `linux.cgroupsPath` is `slice:prefix:name` then; the unit is `prefix-name.scope`
//! in that slice. The limits are given to systemd as properties, since it sets its
//! own idea of them again on every reload, and written to the files as well, which
//! know more of them.

mod annotations;
mod dbus;
mod devices;
mod properties;

use super::write::{Write, put};
use super::{Cgroup, Plan, create};
use crate::{Context, Error, Result, debug};
use dbus::{Bus, Value, Writer};
pub use properties::{drop_weight_of_idle, round_quotas};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A scope, as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// As `rrun-c1.scope`.
    pub name: String,
    /// As `system.slice`.
    pub slice: String,
    /// What annotations set beside the limits.
    properties: Vec<(String, Value)>,
}

impl Unit {
    /// From `linux.cgroupsPath`.
    pub fn from_spec(path: Option<&Path>, id: &str, rootless: bool) -> Result<Self> {
        let text = path.and_then(Path::to_str).unwrap_or_default();
        let default = if rootless {
            "user.slice"
        } else {
            "system.slice"
        };
        if text.is_empty() {
            return Ok(Self {
                name: format!("rrun-{id}.scope"),
                slice: default.into(),
                properties: Vec::new(),
            });
        }
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(Error::config(
                "linux.cgroupsPath",
                format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                ),
            ));
        };
        let name = format!("{prefix}-{name}.scope");
        if name.contains('/') {
            return Err(Error::config(
                "linux.cgroupsPath",
                format!("{name:?} is no unit name"),
            ));
        }
        let slice = if slice.is_empty() { default } else { slice };
        Ok(Self {
            name,
            slice: slice.to_owned(),
            properties: Vec::new(),
        })
    }

    /// Its directory below the mount.
    pub fn dir(&self, mount: &Path) -> Result<PathBuf> {
        Ok(mount.join(expand(&self.slice)?).join(&self.name))
    }
}

/// `a-b.slice` is in `a.slice`: as `a.slice/a-b.slice`. `-.slice` is the root.
fn expand(slice: &str) -> Result<PathBuf> {
    let wrong = || {
        Error::config(
            "linux.cgroupsPath",
            format!("invalid slice name: {slice:?}"),
        )
    };
    let name = slice
        .strip_suffix(".slice")
        .filter(|n| !n.contains('/'))
        .ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}.slice", &name[..at]));
    }
    if name.is_empty() || name.split('-').any(str::is_empty) {
        return Err(wrong());
    }
    Ok(path)
}

fn yes() -> Value {
    Value::Bool(true)
}

/// Starts the scope of `plan` around `pid`.
pub fn start(unit: &Unit, plan: &Plan, pid: i32) -> Result<()> {
    let mut bus = Bus::connect(plan.rootless).context("ask systemd for a cgroup")?;
    let mut list = vec![
        (
            "Description",
            Value::Text(format!("container {}", unit.name)),
        ),
        ("Slice", Value::Text(unit.slice.clone())),
        ("Delegate", yes()),
        ("PIDs", Value::U32s(vec![pid.unsigned_abs()])),
        ("MemoryAccounting", yes()),
        ("CPUAccounting", yes()),
        (io_accounting(plan), yes()),
        ("TasksAccounting", yes()),
        ("DefaultDependencies", Value::Bool(false)),
    ];
    list.extend(properties_of(&mut bus, &plan.writes)?);
    if let Some(policy) = plan.devices.as_ref().filter(|_| !plan.legacy.is_empty()) {
        list.extend(devices::of(policy));
    }
    for (name, value) in &unit.properties {
        list.retain(|(known, _)| known != name);
        list.push((name, value.clone()));
    }
    let what = || format!("unable to start unit {:?}", unit.name);
    subscribe(&mut bus).with_context(what)?;
    let started = start_transient(&mut bus, unit, &list);
    let job = match started {
        // A failed unit of that name may be left of an earlier container.
        Err(Error::Remote(text)) if text.contains("UnitExists") => {
            reset(&mut bus, &unit.name);
            start_transient(&mut bus, unit, &list)
        }
        other => other,
    };
    let result = bus
        .job_result(&job.with_context(what)?)
        .with_context(what)?;
    if result == "done" {
        return Ok(());
    }
    reset(&mut bus, &unit.name);
    Err(Error::State(
        format!(
            "error creating systemd unit {:?}: got {result:?}",
            unit.name
        )
        .into(),
    ))
}

/// The block device controllers of v1 and v2 are told apart by systemd too.
fn io_accounting(plan: &Plan) -> &'static str {
    if plan.legacy.is_empty() {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    }
}

fn subscribe(bus: &mut Bus) -> Result<()> {
    let mut rule = Writer::default();
    rule.text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
    bus.call_bus("AddMatch", "s", rule)?;
    bus.call_systemd("Subscribe", "", Writer::default())
        .map(drop)
}

fn start_transient(bus: &mut Bus, unit: &Unit, list: &[(&str, Value)]) -> Result<String> {
    let mut body = Writer::default();
    body.text(&unit.name);
    body.text("replace");
    body.properties(list);
    body.no_auxiliary_units();
    bus.call_systemd("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
}

fn reset(bus: &mut Bus, name: &str) {
    let mut body = Writer::default();
    body.text(name);
    if let Err(error) = bus.call_systemd("ResetFailedUnit", "s", body) {
        debug!("{}", error.chain());
    }
}

/// The properties for `writes`. Since version 252 a weight of 0 is systemd's word for idle; a cgroup
/// of which it does not know that loses it with the next reload.
fn properties_of(bus: &mut Bus, writes: &[Write]) -> Result<Vec<(&'static str, Value)>> {
    let mut list = properties::of(writes);
    if properties::idle(writes) && bus.systemd_version()? >= 252 {
        list.retain(|(name, _)| *name != "CPUWeight");
        list.push(("CPUWeight", Value::U64(0)));
    }
    Ok(list)
}

/// Changes the scope's limits (update).
pub fn set(name: &str, writes: &[Write], rootless: bool) -> Result<()> {
    if properties::of(writes).is_empty() && !properties::idle(writes) {
        return Ok(());
    }
    let mut bus = Bus::connect(rootless).context("ask systemd for other limits")?;
    let list = properties_of(&mut bus, writes)?;
    let mut body = Writer::default();
    body.text(name);
    // Until the next boot.
    body.bool(true);
    body.properties(&list);
    bus.call_systemd("SetUnitProperties", "sba(sv)", body)
        .with_context(|| format!("unable to set properties of unit {name:?}"))
        .map(drop)
}

/// Stops the scope; one that is gone is no error.
pub fn stop(name: &str, rootless: bool) -> Result<()> {
    let mut bus = Bus::connect(rootless).context("ask systemd to remove a cgroup")?;
    subscribe(&mut bus)?;
    let mut body = Writer::default();
    body.text(name);
    body.text("replace");
    match bus.call_systemd("StopUnit", "ss", body) {
        Ok(job) => {
            let result = bus.job_result(&job)?;
            debug!("unit {name} stopped: {result}");
        }
        Err(Error::Remote(text)) if text.contains("NoSuchUnit") => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("unable to stop unit {name:?}")),
    }
    reset(&mut bus, name);
    Ok(())
}

impl Plan {
    /// Takes the properties of the scope that annotations name (`org.systemd.property.*`).
    pub fn annotate(&mut self, annotations: &HashMap<String, String>) -> Result<()> {
        if let Some(unit) = &mut self.unit {
            unit.properties = annotations::properties(annotations)?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// The scope around `pid`, with its directory.
    pub(super) fn complete_systemd(&mut self, plan: &Plan, pid: i32) -> Result<()> {
        let Some(unit) = &plan.unit else {
            return Ok(());
        };
        // systemd takes a directory that is there as its own, frozen or with others' processes.
        let dirs = plan.unified.iter().map(|u| &u.dir);
        for dir in dirs.chain(plan.legacy.iter().map(|l| &l.dir)) {
            if dir.is_dir() {
                create::refuse_used(dir)?;
            }
        }
        start(unit, plan, pid)?;
        let unified = plan.unified.as_ref();
        self.unified = unified.map(|u| u.dir.clone());
        // It may have been asked for before there was a directory.
        self.fd = std::cell::OnceCell::new();
        match unified {
            Some(unified) if plan.legacy.is_empty() => plan.enable(unified),
            // A hybrid machine's empty hierarchy is one that systemd need not use.
            _ => {
                self.unified = self.unified.take().filter(|dir| dir.is_dir());
                Ok(())
            }
        }
    }

    /// Moves `pid` to the scope's path in the v1 hierarchies that systemd does not manage, and so
    /// to all: which ones it manages depends on its version and on the unit.
    pub(super) fn enter_legacy(&self, pid: i32) -> Result<()> {
        for dir in &self.legacy {
            put(&dir.path, "cgroup.procs", &pid.to_string())
                .map_err(|e| Error::file("write", dir.path.join("cgroup.procs"), e))
                .context("join the scope's cgroup")?;
        }
        Ok(())
    }

    /// The name of its scope, and whether it is the user's systemd that has it.
    pub(super) fn scope(&self) -> Option<(&str, bool)> {
        if self.manager != super::Manager::Systemd {
            return None;
        }
        // Of the same name in every hierarchy.
        let dir = self.unified.as_deref().or_else(|| self.list_dir())?;
        Some((dir.file_name()?.to_str()?, !rrun_sys::cred::is_root()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_and_directory_from_the_path() {
        let unit = Unit::from_spec(Some(Path::new("kube-pods.slice:cri:abc")), "c", false).unwrap();
        assert_eq!(unit.name, "cri-abc.scope");
        let dir = unit.dir(Path::new("/m")).unwrap();
        assert_eq!(
            dir,
            Path::new("/m/kube.slice/kube-pods.slice/cri-abc.scope")
        );
        let unit = Unit::from_spec(None, "c", false).unwrap();
        assert_eq!(
            unit.dir(Path::new("/m")).unwrap(),
            Path::new("/m/system.slice/rrun-c.scope")
        );
    }

    #[test]
    fn hostile_names_are_refused() {
        assert!(Unit::from_spec(Some(Path::new("/a/b")), "c", false).is_err());
        assert!(Unit::from_spec(Some(Path::new("a.slice:../x:y")), "c", false).is_err());
        for slice in ["a", "../x.slice", "a--b.slice", "-a.slice", ".slice"] {
            assert!(expand(slice).is_err(), "{slice}");
        }
        assert_eq!(expand("-.slice").unwrap(), Path::new(""));
    }
}
