//! Intel RDT by resctrl: a class of service (CLOS) that limits cache and memory bandwidth, and a
//! monitoring group (runtime-spec, config-linux.md#intelrdt; Linux, Documentation/filesystems/resctrl).

use crate::container::Container;
use crate::{Context, Error, Result};
use oci_spec::runtime::{LinuxIntelRdt, Spec};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// A class that may be shared and outlives the container; "/" is the default class. `None` for
    /// one of its own, named by its id.
    clos: Option<String>,
    /// Lines for the class's `schemata`; empty for a class that must exist.
    schemata: String,
    /// Whether it has a monitoring group of its own.
    monitoring: bool,
}

/// What a container has, for its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The class's directory.
    pub dir: PathBuf,
    /// Whether it goes with the container.
    pub owned: bool,
    /// The monitoring group.
    pub monitor: Option<PathBuf>,
}

/// The `schemata` text for the fields of the configuration, in the specification's order.
fn schemata<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    parts
        .filter(|line| !line.is_empty())
        .flat_map(|line| [line.as_str(), "\n"])
        .collect()
}

impl Plan {
    /// From `linux.intelRdt`.
    pub fn from_spec(spec: &Spec) -> Result<Option<Self>> {
        let rdt = spec.linux().as_ref().and_then(|l| l.intel_rdt().as_ref());
        rdt.map(Self::new).transpose()
    }

    fn new(rdt: &LinuxIntelRdt) -> Result<Self> {
        let clos = rdt.clos_id().clone().filter(|c| !c.is_empty());
        if let Some(name) = &clos {
            let inside = name.len() > 1 && name.contains('/');
            if inside || name == "." || name == ".." {
                let why = format!("invalid intelRdt.ClosID {name:?}: it names one directory");
                return Err(Error::config("linux.intelRdt.closID", why));
            }
        }
        #[allow(deprecated, reason = "older configurations have these two instead")]
        let older = rdt.enable_cmt() == &Some(true) || rdt.enable_mbm() == &Some(true);
        let lines = [rdt.l3_cache_schema(), rdt.mem_bw_schema()];
        let lines = lines.into_iter().flatten();
        Ok(Self {
            clos,
            schemata: schemata(lines.chain(rdt.schemata().iter().flatten())),
            monitoring: older || rdt.enable_monitoring() == &Some(true),
        })
    }

    /// Makes the groups of container `id` below `root`, with process `pid` in them.
    pub fn execute(&self, root: &Path, id: &str, pid: i32) -> Result<Group> {
        let dir = match self.clos.as_deref() {
            Some("/") => root.to_owned(),
            Some(name) => root.join(name),
            None => root.join(id),
        };
        let mut group = Group {
            dir,
            owned: false,
            monitor: None,
        };
        self.fill(&mut group, id, pid).inspect_err(|_| {
            let _ = group.remove();
        })?;
        Ok(group)
    }

    fn fill(&self, group: &mut Group, id: &str, pid: i32) -> Result<()> {
        let made = if self.clos.is_some() && self.schemata.is_empty() {
            std::fs::metadata(&group.dir)
                .map(|_| false)
                .map_err(|e| Error::file("stat", &group.dir, e))
                .context("linux.intelRdt: a class without schemata must be there already")?
        } else {
            mkdir(&group.dir)?
        };
        // Others may be in a class that has a name.
        group.owned = made && self.clos.is_none();
        write_schemata(&group.dir, &self.schemata)?;
        write(&group.dir.join("tasks"), &pid.to_string())?;
        if self.monitoring {
            let monitor = group.dir.join("mon_groups").join(id);
            mkdir(&monitor)?;
            group.monitor = Some(monitor.clone());
            write(&monitor.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }
}

impl Group {
    /// Removes what is the container's own; what is gone is no error.
    pub fn remove(&self) -> Result<()> {
        let own = self.monitor.iter().chain(self.owned.then_some(&self.dir));
        own.map(|dir| match std::fs::remove_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("rmdir", dir, e)),
            _ => Ok(()),
        })
        .fold(Ok(()), Result::and)
    }
}

/// Other limits for the class of a container (update).
pub fn update(
    container: &Container,
    l3_cache: Option<&str>,
    bandwidth: Option<&str>,
) -> Result<()> {
    let Some(group) = &container.record.rdt else {
        return Err(Error::State(
            "the container has no Intel RDT class: its configuration lacks linux.intelRdt".into(),
        ));
    };
    let parts: Vec<String> = l3_cache
        .into_iter()
        .chain(bandwidth)
        .map(str::to_owned)
        .collect();
    write_schemata(&group.dir, &schemata(parts.iter()))
}

fn write_schemata(dir: &Path, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    write(&dir.join("schemata"), text)
        .with_context(|| format!("intelrdt: unable to write {text:?}"))
}

/// Whether it was made now.
fn mkdir(dir: &Path) -> Result<bool> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::file("mkdir", dir, e)),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| Error::file("write", file, e))
}

/// Where resctrl is mounted.
pub fn root() -> Result<PathBuf> {
    let info = rrun_sys::fd::read_file(Path::new("/proc/self/mountinfo"))?;
    mount_point(&info).ok_or_else(|| {
        Error::Unsupported(
            "intelRdt is specified in config, but Intel RDT is not enabled: the processor and the kernel must have it, and resctrl be mounted (mount -t resctrl resctrl /sys/fs/resctrl)".into(),
        )
    })
}

fn mount_point(info: &str) -> Option<PathBuf> {
    info.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("resctrl ").then_some(())?;
        left.split(' ').nth(4).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<Plan> {
        let text = format!(r#"{{"ociVersion":"1.3.0","linux":{{"intelRdt":{json}}}}}"#);
        Plan::from_spec(&serde_json::from_str(&text).unwrap()).map(Option::unwrap)
    }

    /// A directory that stands for resctrl.
    fn fake(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("rrun-rdt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        root
    }

    fn empty(dir: &Path) {
        for file in ["tasks", "schemata"] {
            let _ = std::fs::remove_file(dir.join(file));
        }
    }

    #[test]
    fn a_class_of_its_own_is_made_and_removed() {
        let root = fake("own");
        let plan = planned(r#"{"l3CacheSchema":"L3:0=f","schemata":["MB:0=20"]}"#).unwrap();
        let group = plan.execute(&root, "c1", 7).unwrap();
        let read = |name: &str| std::fs::read_to_string(root.join("c1").join(name)).unwrap();
        assert_eq!(read("schemata"), "L3:0=f\nMB:0=20\n");
        assert_eq!(read("tasks"), "7");
        assert!(group.owned);
        empty(&group.dir);
        group.remove().unwrap();
        group.remove().unwrap();
        std::fs::remove_dir(&root).unwrap();
    }

    #[test]
    fn a_named_class_stays_and_must_exist_without_schemata() {
        let root = fake("named");
        let plan = planned(r#"{"closID":"gold"}"#).unwrap();
        assert!(plan.execute(&root, "c1", 7).is_err());
        let plan = planned(r#"{"closID":"gold","memBwSchema":"MB:0=50"}"#).unwrap();
        let group = plan.execute(&root, "c1", 7).unwrap();
        assert!(!group.owned);
        group.remove().unwrap();
        assert!(root.join("gold").is_dir());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn hostile_classes_are_refused() {
        for name in ["..", ".", "../x", "a/b"] {
            assert!(
                planned(&format!(r#"{{"closID":"{name}"}}"#)).is_err(),
                "{name}"
            );
        }
        assert!(planned(r#"{"closID":"/"}"#).is_ok());
        let info = "36 1 0:9 / /sys/fs/resctrl rw shared:1 - resctrl resctrl rw\n";
        assert_eq!(mount_point(info), Some("/sys/fs/resctrl".into()));
    }
}
