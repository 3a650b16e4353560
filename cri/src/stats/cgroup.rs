//! What the kernel counts for a cgroup, read as a pod's or for what the shim's answer leaves out.

use std::fs;
use std::path::{Path, PathBuf};

use rrun_cri_api::v1;

use super::value;
use crate::cgroups::Cgroups;

/// The cgroup of a process, by hierarchy.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    cgroups: &'a Cgroups,
    /// `/proc/<pid>/cgroup`: cgroups(7).
    lines: String,
    /// Levels up from there.
    up: usize,
}

impl<'a> Place<'a> {
    /// That of a process; `None` where it has ended.
    pub fn of_process(cgroups: &'a Cgroups, pid: u32) -> Option<Self> {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self {
            cgroups,
            lines,
            up: 0,
        })
    }

    /// The one that it is in.
    pub fn parent(mut self) -> Self {
        self.up += 1;
        self
    }

    /// The path within the hierarchy of a controller.
    pub fn path(&self, controller: &str) -> Option<&str> {
        let line = self.lines.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let here = if self.cgroups.unified {
                names.is_empty()
            } else {
                names.split(',').any(|n| n == controller)
            };
            here.then_some(path)
        })?;
        Path::new(line).ancestors().nth(self.up)?.to_str()
    }

    /// The directory for a controller.
    pub fn dir(&self, controller: &str) -> Option<PathBuf> {
        self.cgroups.dir(controller, self.path(controller)?)
    }

    /// A file with one number; `max` and what is absent are none.
    pub fn number(&self, controller: &str, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.dir(controller)?.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// A number in a file of `key value` lines.
    pub fn keyed(&self, controller: &str, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.dir(controller)?.join(file)).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .and_then(|number| number.trim().parse().ok())
    }

    /// Either version's number.
    fn either(
        &self,
        v1: impl FnOnce(&Self) -> Option<u64>,
        v2: impl FnOnce(&Self) -> Option<u64>,
    ) -> Option<u64> {
        if self.cgroups.unified {
            v2(self)
        } else {
            v1(self)
        }
    }

    /// Processor time.
    pub fn cpu(&self, timestamp: i64) -> v1::CpuUsage {
        let nanos = self.either(
            |c| c.number("cpuacct", "cpuacct.usage"),
            |c| Some(c.keyed("", "cpu.stat", "usage_usec")? * 1000),
        );
        v1::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(nanos),
            usage_nano_cores: None,
            psi: self.pressure("cpu.pressure"),
        }
    }

    /// Memory, with what is charged to no container: tmpfs of the pod, caches of ended containers.
    pub fn memory(&self, timestamp: i64) -> v1::MemoryUsage {
        let stat = |v1: &str, v2: &str| {
            let key = if self.cgroups.unified { v2 } else { v1 };
            self.keyed("memory", "memory.stat", key)
        };
        let usage = self.either(
            |c| c.number("memory", "memory.usage_in_bytes"),
            |c| c.number("", "memory.current"),
        );
        let limit = self.either(
            // A limit that is none shows as the greatest multiple of a page.
            |c| {
                c.number("memory", "memory.limit_in_bytes")
                    .filter(|l| *l < 1 << 62)
            },
            |c| c.number("", "memory.max"),
        );
        let inactive = stat("total_inactive_file", "inactive_file").unwrap_or(0);
        let working_set = usage.map(|usage| usage.saturating_sub(inactive));
        v1::MemoryUsage {
            timestamp,
            working_set_bytes: value(working_set),
            available_bytes: value(limit.zip(working_set).map(|(l, w)| l.saturating_sub(w))),
            usage_bytes: value(usage),
            rss_bytes: value(stat("total_rss", "anon")),
            page_faults: value(stat("total_pgfault", "pgfault")),
            major_page_faults: value(stat("total_pgmajfault", "pgmajfault")),
            psi: self.pressure("memory.pressure"),
        }
    }

    /// Waiting for block devices; only version 2 counts it.
    pub fn io(&self, timestamp: i64) -> Option<v1::IoUsage> {
        let psi = self.pressure("io.pressure")?;
        Some(v1::IoUsage {
            timestamp,
            psi: Some(psi),
        })
    }

    /// Processes in it and below.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let controller = if self.cgroups.unified { "" } else { "pids" };
        let mut todo: Vec<PathBuf> = self.dir(controller).into_iter().collect();
        while let Some(dir) = todo.pop() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(
                entries
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                    .map(|e| e.path()),
            );
        }
        found
    }

    fn pressure(&self, file: &str) -> Option<v1::PsiStats> {
        if !self.cgroups.unified {
            return None;
        }
        parse_pressure(&fs::read_to_string(self.dir("")?.join(file)).ok()?)
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse_pressure(text: &str) -> Option<v1::PsiStats> {
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let field = |name: &str| {
            let mut all = fields.split_whitespace().filter_map(|f| f.split_once('='));
            all.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let average = |name: &str| field(name)?.parse::<f64>().ok();
        Some(v1::PsiData {
            total: field("total")?.parse().ok()?,
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
        })
    };
    Some(v1::PsiStats {
        some: Some(line("some ")?),
        full: line("full "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_has_a_line_for_some_and_one_for_full() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let psi = parse_pressure(text).unwrap();
        let some = psi.some.unwrap();
        assert_eq!((some.avg10, some.total), (1.5, 1234));
        assert_eq!(psi.full.unwrap().total, 7);
        assert!(parse_pressure("").is_none());
    }
}
