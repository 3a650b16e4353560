//! Version 2.

use super::read::{Keyed, Stall, hugetlb_sizes, number, pressure, text};
use rrun_task_api::pb::cgroups_v2 as pb;
use std::path::Path;

/// Metrics as containerd reads them.
pub fn metrics(dir: &Path) -> pb::Metrics {
    pb::Metrics {
        pids: Some(pids(dir)),
        cpu: Some(cpu(dir)),
        memory: Some(memory(dir)),
        io: Some(pb::IoStat {
            usage: io(dir),
            psi: psi(dir, "io.pressure"),
        }),
        hugetlb: hugetlb(dir),
        memory_events: Some(memory_events(dir)),
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

fn cpu(dir: &Path) -> pb::CpuStat {
    let stat = Keyed::read(dir, "cpu.stat");
    let get = |key: &str| stat.or_zero(key);
    pb::CpuStat {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        psi: psi(dir, "cpu.pressure"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
    }
}

fn psi(dir: &Path, file: &str) -> Option<pb::PsiStats> {
    let data = |stall: Stall| pb::PsiData {
        avg10: stall.averages[0],
        avg60: stall.averages[1],
        avg300: stall.averages[2],
        total: stall.total,
    };
    let (some, full) = pressure(dir, file)?;
    Some(pb::PsiStats {
        some: Some(data(some)),
        full: Some(data(full)),
    })
}

fn memory(dir: &Path) -> pb::MemoryStat {
    let stat = Keyed::read(dir, "memory.stat");
    let get = |key: &str| stat.or_zero(key);
    let file = |name: &str| number(dir, name).unwrap_or(0);
    pb::MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault"),
        workingset_activate: get("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: file("memory.current"),
        usage_limit: file("memory.max"),
        swap_usage: file("memory.swap.current"),
        swap_limit: file("memory.swap.max"),
        max_usage: file("memory.peak"),
        swap_max_usage: file("memory.swap.peak"),
        psi: psi(dir, "memory.pressure"),
        workingset_refault_anon: get("workingset_refault_anon"),
        workingset_refault_file: get("workingset_refault_file"),
        workingset_activate_anon: get("workingset_activate_anon"),
        workingset_activate_file: get("workingset_activate_file"),
    }
}

fn memory_events(dir: &Path) -> pb::MemoryEvents {
    let events = Keyed::read(dir, "memory.events");
    pb::MemoryEvents {
        low: events.or_zero("low"),
        high: events.or_zero("high"),
        max: events.or_zero("max"),
        oom: events.or_zero("oom"),
        oom_kill: events.or_zero("oom_kill"),
        oom_group_kill: events.or_zero("oom_group_kill"),
    }
}

/// Lines of `major:minor key=number …`.
pub fn io(dir: &Path) -> Vec<pb::IoEntry> {
    text(dir, "io.stat")
        .map(|text| parse_io(&text))
        .unwrap_or_default()
}

fn parse_io(text: &str) -> Vec<pb::IoEntry> {
    let parse = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let value = |key: &str| {
            let pair = rest
                .split(' ')
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            pair.and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        Some(pb::IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: value("rbytes"),
            wbytes: value("wbytes"),
            rios: value("rios"),
            wios: value("wios"),
        })
    };
    text.lines().filter_map(parse).collect()
}

fn hugetlb(dir: &Path) -> Vec<pb::HugeTlbStat> {
    let stat = |pagesize: String| pb::HugeTlbStat {
        current: number(dir, &format!("hugetlb.{pagesize}.current")).unwrap_or(0),
        max: number(dir, &format!("hugetlb.{pagesize}.max")).unwrap_or(0),
        failcnt: Keyed::read(dir, &format!("hugetlb.{pagesize}.events")).or_zero("max"),
        pagesize,
    };
    hugetlb_sizes(dir, "current")
        .into_iter()
        .map(stat)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines() {
        let text = "8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n";
        let entries = parse_io(text);
        assert_eq!(
            (entries[0].minor, entries[0].wbytes, entries[0].wios),
            (16, 20, 2)
        );
        assert_eq!(entries[1].rbytes, 0);
    }
}
