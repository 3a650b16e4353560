//! What a cgroup has used, in the document that `runc events --stats` prints and
//! its callers parse (containerd's go-runc, podman).

mod blkio;
mod legacy;
mod psi;
mod unified;

pub use psi::{Pressure, Psi};

use super::Cgroup;
use super::write::get;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Processor time in nanoseconds, since the cgroup was made.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    /// All of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, by processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// In user mode, by processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// How often the quota held it back.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Nanoseconds for which it could not run.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Processor.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: CpuUsage,
    /// Quota.
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// cpuset (v1).
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are the kernel's files of the same names"
)]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// One kind of memory, in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    /// Limit; `u64::MAX` is none.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// Highest use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: MemoryEntry,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "is_default")]
    pub swap: MemoryEntry,
    /// Of the kernel (v1).
    #[serde(skip_serializing_if = "is_default")]
    pub kernel: MemoryEntry,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    pub kernel_tcp: MemoryEntry,
    /// memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Tasks.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most; 0 is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// One figure of one block device.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Minor number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// Read, Write, Sync, Async, Discard, Total; empty where there is but one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The figure.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Block devices.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the fields are blkio's files of the same names"
)]
pub struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// Highest use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Everything.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Processor.
    pub cpu: Cpu,
    /// cpuset.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages by size, as `2MB`.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel RDT: nothing yet.
    pub intel_rdt: BTreeMap<String, u64>,
    /// Kept for callers; runc has had nothing here since networks left it.
    pub network_interfaces: Option<()>,
}

impl Cgroup {
    /// Reads all figures. A controller that is not there leaves zeros.
    pub fn stats(&self) -> Result<Stats> {
        if !self.legacy.is_empty() {
            return Ok(legacy::stats(self));
        }
        match &self.unified {
            Some(dir) => unified::stats(dir),
            None => Err(Error::Unsupported(
                "the container has no cgroup to read figures of".into(),
            )),
        }
    }

    /// How many processes the kernel has killed for want of memory, in this cgroup
    /// and below it. `None` when the memory controller is not there.
    pub fn oom_kills(&self) -> Option<u64> {
        let (dir, file) = match self.dir_of("memory") {
            Some(dir) => (dir, "memory.oom_control"),
            None if self.legacy.is_empty() => (self.unified.as_deref()?, "memory.events"),
            None => return None,
        };
        keyed(&get(dir, file).ok()?).get("oom_kill").copied()
    }
}

/// `key value` lines; what is no number is left out.
fn keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The number in a file; `max` is `u64::MAX`, as is v1's -1. `None` when it is not there.
fn number(dir: &Path, file: &str) -> Option<u64> {
    match get(dir, file).ok()?.trim() {
        "max" | "-1" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_has_runcs_shape() {
        let mut stats = Stats::default();
        stats.cpu.usage.total = 7;
        stats.memory.usage.limit = u64::MAX;
        stats.hugetlb.insert("2MB".into(), Hugetlb::default());
        let text = serde_json::to_string(&stats).unwrap();
        assert_eq!(
            text,
            r#"{"cpu":{"usage":{"total":7,"kernel":0,"user":0}},"cpuset":{"cpu_exclusive":0,"#
                .to_owned()
                + r#""mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"#
                + r#""memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"#
                + r#""sched_relax_domain_level":0},"memory":{"usage":{"limit":18446744073709551615,"#
                + r#""failcnt":0}},"pids":{},"blkio":{},"hugetlb":{"2MB":{"failcnt":0}},"#
                + r#""intel_rdt":{},"network_interfaces":null}"#
        );
    }

    #[test]
    fn keyed_lines() {
        let map = keyed("cache 5\nbad\nrss x\ninactive 7\n");
        assert_eq!(
            map.into_iter().collect::<Vec<_>>(),
            [("cache".into(), 5), ("inactive".into(), 7)]
        );
    }
}
