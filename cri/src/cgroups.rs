//! Which cgroup hierarchies the machine has, and the pods' part of them. The runtime makes and
//! removes a container's own cgroup; this is about its ancestors.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The mounted hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Pure version 2 at `/sys/fs/cgroup`.
    pub unified: bool,
    /// Controller → mount point; with version 2 the only key is empty.
    roots: BTreeMap<String, PathBuf>,
}

impl Cgroups {
    /// Reads `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
        Ok(Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut v1 = BTreeMap::new();
        let mut v2 = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    for name in controllers(options) {
                        v1.entry(name).or_insert_with(|| PathBuf::from(point));
                    }
                }
                (Some("cgroup2"), _) => {
                    v2.entry(String::new())
                        .or_insert_with(|| PathBuf::from(point));
                }
                _ => {}
            }
        }
        let unified = v1.is_empty();
        if !unified {
            // The empty version 2 hierarchy of a hybrid machine holds processes all the same.
            v1.extend(v2);
            return Self { unified, roots: v1 };
        }
        Self { unified, roots: v2 }
    }

    /// Directory of a cgroup for a controller; with version 2 the same for every controller.
    pub fn dir(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let key = if self.unified { "" } else { controller };
        let root = self.roots.get(key)?;
        Some(root.join(cgroup.trim_start_matches('/')))
    }

    /// Whether the machine has a controller to write limits to.
    pub fn has(&self, controller: &str) -> bool {
        match self.roots.get("").filter(|_| self.unified) {
            Some(root) => fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|all| all.split_whitespace().any(|name| name == controller)),
            None => self.roots.contains_key(controller),
        }
    }

    /// The ancestors of `cgroup`, itself included, that no hierarchy has yet, deepest first.
    pub fn missing(&self, cgroup: &str) -> Vec<String> {
        ancestors(cgroup)
            .filter(|path| {
                !self
                    .roots
                    .values()
                    .any(|root| root.join(path.trim_start_matches('/')).exists())
            })
            .collect()
    }

    /// Removes empty cgroups from every hierarchy; those in use or gone stay as they are.
    pub fn remove_empty(&self, cgroups: &[String]) -> Result<()> {
        for cgroup in cgroups {
            for root in self.roots.values() {
                let path = root.join(cgroup.trim_start_matches('/'));
                remove_dir(&path)?;
            }
        }
        Ok(())
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(error).with_context(|| format!("remove cgroup {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Controller names among the options of a version 1 hierarchy; `name=systemd` counts as systemd.
fn controllers(options: &str) -> impl Iterator<Item = String> {
    options
        .split(',')
        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"))
        .filter(|o| !o.starts_with("release_agent="))
        .map(|o| o.strip_prefix("name=").unwrap_or(o).to_owned())
}

/// `/a/b/c` → `/a/b/c`, `/a/b`, `/a`.
fn ancestors(cgroup: &str) -> impl Iterator<Item = String> {
    Path::new(cgroup)
        .ancestors()
        .filter(|p| p.parent().is_some())
        .map(|p| p.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
";

    #[test]
    fn a_hybrid_machine_has_a_root_per_controller() {
        let cgroups = Cgroups::parse(HYBRID);
        assert!(!cgroups.unified);
        let dir = cgroups.dir("cpuacct", "/pod/c");
        assert_eq!(dir, Some("/sys/fs/cgroup/cpu,cpuacct/pod/c".into()));
        assert!(cgroups.dir("memory", "/x").is_none());
        assert!(cgroups.roots.contains_key("systemd"));
    }

    #[test]
    fn a_unified_machine_has_one() {
        let line = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let cgroups = Cgroups::parse(line);
        assert!(cgroups.unified);
        assert_eq!(cgroups.dir("memory", "/p"), Some("/sys/fs/cgroup/p".into()));
    }

    #[test]
    fn ancestors_go_from_deep_to_shallow() {
        let all: Vec<_> = ancestors("/a/b").collect();
        assert_eq!(all, ["/a/b", "/a"]);
        assert_eq!(ancestors("/").count(), 0);
    }
}
