//! Version 1 controllers.

use super::read::{Keyed, hugetlb_sizes, number, text};
use crate::cgroup::Cgroup;
use rrun_task_api::pb::cgroups_v1 as pb;
use std::path::Path;

/// Nanoseconds in a clock tick; Linux shows 100 a second to user space.
pub const TICK: u64 = 10_000_000;

/// Metrics as containerd reads them.
pub fn metrics(cgroup: &Cgroup) -> pb::Metrics {
    let dir = |name: &str| cgroup.controller(name);
    pb::Metrics {
        hugetlb: dir("hugetlb").map(hugetlb).unwrap_or_default(),
        pids: dir("pids").map(pids),
        cpu: cpu(cgroup),
        memory: dir("memory").map(memory),
        blkio: dir("blkio").map(blkio),
        memory_oom_control: dir("memory").map(oom_control),
        ..Default::default()
    }
}

fn pids(dir: &Path) -> pb::PidsStat {
    let limit = number(dir, "pids.max")
        .filter(|limit| *limit != u64::MAX)
        .unwrap_or(0);
    pb::PidsStat {
        current: number(dir, "pids.current").unwrap_or(0),
        limit,
    }
}

fn cpu(cgroup: &Cgroup) -> Option<pb::CpuStat> {
    let usage = cgroup.controller("cpuacct").map(|dir| {
        let stat = Keyed::read(dir, "cpuacct.stat");
        pb::CpuUsage {
            total: number(dir, "cpuacct.usage").unwrap_or(0),
            kernel: stat.or_zero("system") * TICK,
            user: stat.or_zero("user") * TICK,
            per_cpu: text(dir, "cpuacct.usage_percpu")
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect(),
        }
    });
    let throttling = cgroup.controller("cpu").map(|dir| {
        let stat = Keyed::read(dir, "cpu.stat");
        pb::Throttle {
            periods: stat.or_zero("nr_periods"),
            throttled_periods: stat.or_zero("nr_throttled"),
            throttled_time: stat.or_zero("throttled_time"),
        }
    });
    (usage.is_some() || throttling.is_some()).then_some(pb::CpuStat { usage, throttling })
}

fn entry(dir: &Path, prefix: &str) -> Option<pb::MemoryEntry> {
    let read = |what: &str| number(dir, &format!("{prefix}.{what}"));
    Some(pb::MemoryEntry {
        usage: read("usage_in_bytes")?,
        limit: read("limit_in_bytes").unwrap_or(0),
        max: read("max_usage_in_bytes").unwrap_or(0),
        failcnt: read("failcnt").unwrap_or(0),
    })
}

fn memory(dir: &Path) -> pb::MemoryStat {
    let stat = Keyed::read(dir, "memory.stat");
    let get = |key: &str| stat.or_zero(key);
    pb::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(dir, "memory"),
        swap: entry(dir, "memory.memsw"),
        kernel: entry(dir, "memory.kmem"),
        kernel_tcp: entry(dir, "memory.kmem.tcp"),
    }
}

fn oom_control(dir: &Path) -> pb::MemoryOomControl {
    let control = Keyed::read(dir, "memory.oom_control");
    pb::MemoryOomControl {
        oom_kill_disable: control.or_zero("oom_kill_disable"),
        under_oom: control.or_zero("under_oom"),
        oom_kill: control.or_zero("oom_kill"),
    }
}

fn hugetlb(dir: &Path) -> Vec<pb::HugetlbStat> {
    let stat = |pagesize: String| {
        let read = |what: &str| number(dir, &format!("hugetlb.{pagesize}.{what}")).unwrap_or(0);
        pb::HugetlbStat {
            usage: read("usage_in_bytes"),
            max: read("max_usage_in_bytes"),
            failcnt: read("failcnt"),
            pagesize: pagesize.clone(),
        }
    };
    hugetlb_sizes(dir, "usage_in_bytes")
        .into_iter()
        .map(stat)
        .collect()
}

fn blkio(dir: &Path) -> pb::BlkIoStat {
    pb::BlkIoStat {
        io_service_bytes_recursive: operations(dir, "io_service_bytes"),
        io_serviced_recursive: operations(dir, "io_serviced"),
        ..Default::default()
    }
}

/// Lines of `major:minor operation number`, from the scheduler's file or the throttler's.
pub fn operations(dir: &Path, what: &str) -> Vec<pb::BlkIoEntry> {
    let lines = |file: String| {
        text(dir, &file)
            .map(|t| parse_operations(&t))
            .unwrap_or_default()
    };
    let own = lines(format!("blkio.bfq.{what}_recursive"));
    if own.is_empty() {
        lines(format!("blkio.throttle.{what}_recursive"))
    } else {
        own
    }
}

fn parse_operations(text: &str) -> Vec<pb::BlkIoEntry> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(pb::BlkIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
            device: String::new(),
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_operations_without_the_total() {
        let entries = parse_operations("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].value), (8, 4096));
    }
}
