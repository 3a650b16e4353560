//! Figures of v1, read by cgroups-rs where it has them.

use super::{CpuSet, CpuUsage, Hugetlb, Memory, MemoryEntry, Pids, Stats, Throttling};
use super::{blkio, keyed, number};
use crate::cgroup::Cgroup;
use crate::cgroup::write::get;
use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use std::path::Path;

/// Nanoseconds in a tick of cpuacct.stat: USER_HZ is 100 on every Linux.
const TICK: u64 = 10_000_000;

pub fn stats(cgroup: &Cgroup) -> Stats {
    let mut stats = Stats::default();
    if let Some(dir) = cgroup.dir_of("cpuacct") {
        stats.cpu.usage = usage(dir);
    }
    if let Some(dir) = cgroup.dir_of("cpu") {
        stats.cpu.throttling = throttling(dir);
    }
    if let Some(dir) = cgroup.dir_of("cpuset") {
        stats.cpuset = cpuset(dir);
    }
    if let Some(dir) = cgroup.dir_of("memory") {
        stats.memory = memory(dir);
    }
    if let Some(dir) = cgroup.dir_of("pids") {
        stats.pids = pids(dir, false);
    }
    if let Some(dir) = cgroup.dir_of("blkio") {
        stats.blkio = blkio::legacy(dir);
    }
    if let Some(dir) = cgroup.dir_of("hugetlb") {
        let controller = HugeTlbController::new(dir.to_owned(), dir.to_owned(), false);
        for size in controller.get_sizes() {
            let entry = Hugetlb {
                usage: controller.usage_in_bytes(&size).unwrap_or(0),
                max: controller.max_usage_in_bytes(&size).unwrap_or(0),
                failcnt: controller.failcnt(&size).unwrap_or(0),
            };
            stats.hugetlb.insert(size, entry);
        }
    }
    stats
}

fn usage(dir: &Path) -> CpuUsage {
    let acct = CpuAcctController::new(dir.to_owned(), dir.to_owned()).cpuacct();
    let times = keyed(&acct.stat);
    let ticks = |key: &str| times.get(key).copied().unwrap_or(0) * TICK;
    let (mut percpu_user, mut percpu_kernel) = (Vec::new(), Vec::new());
    // A header, then: cpu user system.
    for line in acct.usage_all.lines().skip(1) {
        let mut fields = line
            .split_whitespace()
            .skip(1)
            .map(|f| f.parse().unwrap_or(0));
        if let (Some(user), Some(kernel)) = (fields.next(), fields.next()) {
            percpu_user.push(user);
            percpu_kernel.push(kernel);
        }
    }
    CpuUsage {
        total: acct.usage,
        percpu: acct
            .usage_percpu
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect(),
        percpu_kernel,
        percpu_user,
        kernel: ticks("system"),
        user: ticks("user"),
    }
}

fn throttling(dir: &Path) -> Throttling {
    let map = keyed(&get(dir, "cpu.stat").unwrap_or_default());
    let value = |key: &str| map.get(key).copied().unwrap_or(0);
    Throttling {
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_time: value("throttled_time"),
    }
}

fn cpuset(dir: &Path) -> CpuSet {
    let list = |file| {
        get(dir, file)
            .map(|text| range_list(&text))
            .unwrap_or_default()
    };
    let value = |file| number(dir, file).unwrap_or(0);
    let level = get(dir, "cpuset.sched_relax_domain_level").unwrap_or_default();
    CpuSet {
        cpus: list("cpuset.cpus"),
        cpu_exclusive: value("cpuset.cpu_exclusive"),
        mems: list("cpuset.mems"),
        mem_hardwall: value("cpuset.mem_hardwall"),
        mem_exclusive: value("cpuset.mem_exclusive"),
        memory_migrate: value("cpuset.memory_migrate"),
        memory_spread_page: value("cpuset.memory_spread_page"),
        memory_spread_slab: value("cpuset.memory_spread_slab"),
        memory_pressure: value("cpuset.memory_pressure"),
        sched_load_balance: value("cpuset.sched_load_balance"),
        sched_relax_domain_level: level.trim().parse().unwrap_or(0),
    }
}

/// `0-2,5` as numbers.
fn range_list(text: &str) -> Vec<u16> {
    let mut list = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            list.extend(first..=last);
        }
    }
    list
}

fn memory(dir: &Path) -> Memory {
    let controller = MemController::new(dir.to_owned(), dir.to_owned(), false);
    let raw = keyed(&get(dir, "memory.stat").unwrap_or_default());
    let swap = controller.memswap();
    let kernel = controller.kmem_stat();
    let tcp = controller.kmem_tcp_stat();
    // Limits are unsigned there; without one it is -1 or a page below 2^63.
    let limit = |value: i64| value as u64;
    Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: MemoryEntry {
            limit: number(dir, "memory.limit_in_bytes").unwrap_or(0),
            usage: number(dir, "memory.usage_in_bytes").unwrap_or(0),
            max: number(dir, "memory.max_usage_in_bytes").unwrap_or(0),
            failcnt: number(dir, "memory.failcnt").unwrap_or(0),
        },
        swap: MemoryEntry {
            limit: limit(swap.limit_in_bytes),
            usage: swap.usage_in_bytes,
            max: swap.max_usage_in_bytes,
            failcnt: swap.fail_cnt,
        },
        kernel: MemoryEntry {
            // Kernel limits are gone since 5.16: what cgroups-rs says of them then is -1.
            limit: if kernel.limit_in_bytes < 0 {
                0
            } else {
                limit(kernel.limit_in_bytes)
            },
            usage: kernel.usage_in_bytes,
            max: kernel.max_usage_in_bytes,
            failcnt: kernel.fail_cnt,
        },
        kernel_tcp: MemoryEntry {
            limit: limit(tcp.limit_in_bytes),
            usage: tcp.usage_in_bytes,
            max: tcp.max_usage_in_bytes,
            failcnt: tcp.fail_cnt,
        },
        raw,
        psi: None,
    }
}

/// Tasks; the files are the same on v2.
pub fn pids(dir: &Path, v2: bool) -> Pids {
    let controller = PidController::new(dir.to_owned(), dir.to_owned(), v2);
    Pids {
        current: controller.get_pid_current().unwrap_or(0),
        limit: match controller.get_pid_max() {
            Ok(MaxValue::Value(limit)) => limit.unsigned_abs(),
            _ => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::range_list;

    #[test]
    fn ranges() {
        assert_eq!(range_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(range_list("\n"), Vec::<u16>::new());
    }
}
