//! Figures of v2.

use super::legacy::pids;
use super::{Hugetlb, Memory, MemoryEntry, Stats, Throttling, blkio, keyed, number, psi};
use crate::Result;
use crate::cgroup::tree;
use crate::cgroup::write::get;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use std::path::Path;

pub fn stats(dir: &Path) -> Result<Stats> {
    let mut stats = Stats::default();
    let path = || dir.to_owned();
    let times = keyed(&CpuController::new(path(), path(), true).cpu().stat);
    let nanoseconds = |key: &str| times.get(key).copied().unwrap_or(0) * 1000;
    let count = |key: &str| times.get(key).copied().unwrap_or(0);
    stats.cpu.usage.total = nanoseconds("usage_usec");
    stats.cpu.usage.user = nanoseconds("user_usec");
    stats.cpu.usage.kernel = nanoseconds("system_usec");
    stats.cpu.throttling = Throttling {
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_time: nanoseconds("throttled_usec"),
    };
    stats.cpu.psi = psi::read(dir, "cpu.pressure");
    stats.memory = memory(dir);
    stats.pids = pids(dir, true);
    if number(dir, "pids.current").is_none() {
        // Without the controller the list of processes tells.
        stats.pids.current = tree::pids(dir)?.len() as u64;
    }
    stats.blkio = blkio::unified(&get(dir, "io.stat").unwrap_or_default());
    stats.blkio.psi = psi::read(dir, "io.pressure");
    let controller = HugeTlbController::new(path(), path(), true);
    for size in controller.get_sizes() {
        // Reservations count where the kernel keeps them (5.7), as for runc.
        let reserved = number(dir, &format!("hugetlb.{size}.rsvd.current"));
        let Some(usage) = reserved.or_else(|| controller.usage_in_bytes(&size).ok()) else {
            continue;
        };
        let failcnt = controller.failcnt(&size).unwrap_or(0);
        stats.hugetlb.insert(
            size,
            Hugetlb {
                usage,
                max: 0,
                failcnt,
            },
        );
    }
    Ok(stats)
}

fn memory(dir: &Path) -> Memory {
    let raw = keyed(&get(dir, "memory.stat").unwrap_or_default());
    let entry = |name: &str| MemoryEntry {
        limit: number(dir, &format!("{name}.max")).unwrap_or(0),
        usage: number(dir, &format!("{name}.current")).unwrap_or(0),
        max: number(dir, &format!("{name}.peak")).unwrap_or(0),
        failcnt: 0,
    };
    let usage = entry("memory");
    let mut swap = entry("memory.swap");
    // v1 tells memory and swap together; the highest of both is not known.
    swap.usage += usage.usage;
    swap.max = 0;
    if swap.limit != u64::MAX {
        swap.limit = swap.limit.saturating_add(usage.limit);
    }
    let cache = raw.get("file").copied().unwrap_or(0);
    let psi = psi::read(dir, "memory.pressure");
    Memory {
        cache,
        usage,
        swap,
        raw,
        psi,
        ..Memory::default()
    }
}
