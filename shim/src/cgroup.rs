//! The container's cgroup, found by what the kernel says of its first process: right for every
//! runtime, driver and version.

use crate::mountinfo;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Rounds of killing before giving up on a cgroup (version 1) that keeps forking.
const ROUNDS: u32 = 200;

/// Directories of one cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// The directory of version 2, where there is one with controllers.
    pub unified: Option<PathBuf>,
    /// Directory by controller of version 1.
    pub controllers: BTreeMap<String, PathBuf>,
    /// The directory of version 2 beside those of version 1, where no controller is.
    pub hybrid: Option<PathBuf>,
}

impl Cgroup {
    /// The cgroup that a process is in.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::resolve(&text, &own, &mountinfo::read()?))
    }

    /// Puts a process into the cgroup of a path, of every controller; made where it is not there.
    pub fn join(path: &str, pid: u32) -> io::Result<()> {
        let below = Path::new(path.trim_start_matches('/'));
        if below.components().any(|part| part.as_os_str() == "..") {
            return Err(io::Error::other(format!("cgroup path {path:?} climbs")));
        }
        let mounts = mountinfo::read()?;
        for mount in mounts
            .iter()
            .filter(|m| matches!(m.kind.as_str(), "cgroup" | "cgroup2"))
        {
            let dir = mount.point.join(below);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Whether there is none of its own: the runtime was told to make none.
    pub fn is_empty(&self) -> bool {
        self.unified.is_none() && self.controllers.is_empty()
    }

    fn resolve(text: &str, own: &str, mounts: &[mountinfo::Mount]) -> Self {
        let mut found = Self::default();
        for line in text
            .lines()
            .filter(|line| !own.lines().any(|mine| is_within(mine, line)))
        {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if names.is_empty() {
                let mount = mounts.iter().find(|m| m.kind == "cgroup2");
                found.unified = mount.and_then(|m| below(m, path));
                continue;
            }
            for name in names.split(',') {
                let has = |m: &&mountinfo::Mount| {
                    m.kind == "cgroup" && m.options.split(',').any(|option| option == name)
                };
                if let Some(dir) = mounts.iter().find(has).and_then(|m| below(m, path)) {
                    found.controllers.insert(name.to_owned(), dir);
                }
            }
        }
        if !found.controllers.is_empty() {
            // Hybrid: version 2 is there without controllers.
            found.hybrid = found.unified.take();
        }
        found
    }

    /// The directory of a version 1 controller.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        self.controllers.get(name).map(PathBuf::as_path)
    }

    /// A directory that lists every process.
    fn any(&self) -> Option<&Path> {
        let v1 = || {
            ["pids", "memory", "cpu", "devices"]
                .iter()
                .find_map(|n| self.controller(n))
        };
        self.unified
            .as_deref()
            .or_else(v1)
            .or(self.controllers.values().next().map(|d| &**d))
    }

    /// Every process in it and in cgroups below it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        if let Some(dir) = self.any() {
            collect(dir, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends a signal to every process in it, once.
    pub fn signal(&self, signal: i32) {
        if signal == Signal::KILL.as_raw() {
            return self.kill();
        }
        for pid in self.pids() {
            // One that has just ended needs none.
            let _ = rrun_sys::process::kill(pid as i32, signal);
        }
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        if let Some(dir) = &self.unified
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        if let Some(dir) = self.controller("freezer") {
            // Signals reach a frozen process only once it is thawed.
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
        }
        for _ in 0..ROUNDS {
            let pids = self.pids();
            if pids.is_empty() {
                return;
            }
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// How many processes of it the out-of-memory killer took so far.
    pub fn oom_kills(&self) -> u64 {
        let read = |dir: Option<&Path>, file: &str| {
            let text = fs::read_to_string(dir?.join(file)).ok()?;
            keyed(&text, "oom_kill")
        };
        read(self.unified.as_deref(), "memory.events")
            .or_else(|| read(self.controller("memory"), "memory.oom_control"))
            .unwrap_or(0)
    }

    /// Removes the directories, where they are empty and still there.
    pub fn remove(&self) {
        for dir in self.unified.iter().chain(self.controllers.values()) {
            remove_tree(dir);
        }
    }
}

/// The number after a key at the beginning of a line.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Whether our own line (`mine`) is in the cgroup of `line`: killing that would kill us.
fn is_within(mine: &str, line: &str) -> bool {
    mine == line
        || mine
            .strip_prefix(line)
            .is_some_and(|rest| line.ends_with('/') || rest.starts_with('/'))
}

fn below(mount: &mountinfo::Mount, path: &str) -> Option<PathBuf> {
    let path = Path::new(path).strip_prefix(&mount.root).ok()?;
    Some(mount.point.join(path))
}

fn collect(dir: &Path, pids: &mut Vec<u32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<u32>().ok())
                .filter(|p| *p > 0),
        );
    }
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries
        .flatten()
        .filter(is_dir)
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) {
    for child in children(dir) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mountinfo::Mount;

    fn mount(kind: &str, root: &str, point: &str, options: &str) -> Mount {
        let [root, kind, options] = [root, kind, options].map(str::to_owned);
        Mount {
            root,
            point: point.into(),
            kind,
            options,
        }
    }

    #[test]
    fn version_two() {
        let mounts = [mount("cgroup2", "/", "/sys/fs/cgroup", "rw")];
        let found = Cgroup::resolve("0::/pods/a\n", "0::/system/shim\n", &mounts);
        assert_eq!(found.unified, Some("/sys/fs/cgroup/pods/a".into()));
        assert!(found.controllers.is_empty());
    }

    #[test]
    fn hybrid_and_a_mount_of_a_part() {
        let mounts = [
            mount("cgroup", "/", "/c/cpu,cpuacct", "rw,cpu,cpuacct"),
            mount("cgroup", "/outer", "/c/memory", "rw,memory"),
            mount("cgroup2", "/", "/c/unified", "rw"),
        ];
        let text = "4:memory:/outer/a\n3:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n";
        let found = Cgroup::resolve(text, "0::/\n", &mounts);
        assert_eq!(found.unified, None);
        assert_eq!(
            found.controller("cpuacct"),
            Some(Path::new("/c/cpu,cpuacct/a"))
        );
        assert_eq!(found.controller("memory"), Some(Path::new("/c/memory/a")));
    }

    #[test]
    fn our_own_cgroup_is_never_the_containers() {
        let mounts = [mount("cgroup2", "/", "/sys/fs/cgroup", "rw")];
        for (theirs, ours) in [("0::/", "0::/a"), ("0::/a", "0::/a"), ("0::/a", "0::/a/b")] {
            assert!(
                Cgroup::resolve(theirs, ours, &mounts).is_empty(),
                "{theirs} {ours}"
            );
        }
        assert!(!Cgroup::resolve("0::/a", "0::/ab", &mounts).is_empty());
    }
}
