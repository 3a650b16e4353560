//! The same answer for both versions.

use super::read::{Keyed, Stall, number, pressure};
use super::{v1, v2};
use crate::cgroup::Cgroup;
use rrun_task_api::pb::shim::{DeviceIo, Pressure, Stall as PbStall, UsageResponse};
use rrun_task_api::time::{from_nanos, now_nanos};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A version 1 limit at or above this is none: the kernel shows the greatest multiple of a page.
const NO_LIMIT: u64 = 1 << 62;

/// Resource use of a cgroup.
pub fn usage(cgroup: &Cgroup) -> UsageResponse {
    let mut usage = UsageResponse {
        at: Some(from_nanos(now_nanos())),
        ..Default::default()
    };
    if let Some(dir) = &cgroup.unified {
        of_v2(dir, &mut usage);
    } else {
        of_v1(cgroup, &mut usage);
    }
    let pids = cgroup.pids();
    usage.pids = usage.pids.or(Some(pids.len() as u64));
    usage.threads = Some(pids.into_iter().map(threads).sum());
    usage
}

fn limit(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value < NO_LIMIT)
}

fn threads(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count() as u64)
}

fn of_v2(dir: &Path, usage: &mut UsageResponse) {
    let cpu = Keyed::read(dir, "cpu.stat");
    let nanos = |key: &str| cpu.get(key).map(|micros| micros * 1000);
    usage.cpu_usage = nanos("usage_usec");
    usage.cpu_user = nanos("user_usec");
    usage.cpu_system = nanos("system_usec");
    usage.cpu_periods = cpu.get("nr_periods");
    usage.cpu_throttled_periods = cpu.get("nr_throttled");
    usage.cpu_throttled = nanos("throttled_usec");
    let memory = Keyed::read(dir, "memory.stat");
    usage.memory_usage = number(dir, "memory.current");
    usage.memory_working_set = usage
        .memory_usage
        .map(|current| current.saturating_sub(memory.or_zero("inactive_file")));
    usage.memory_limit = limit(number(dir, "memory.max"));
    usage.memory_rss = memory.get("anon");
    usage.memory_cache = memory.get("file");
    usage.memory_mapped_file = memory.get("file_mapped");
    usage.memory_max_usage = number(dir, "memory.peak");
    let events = Keyed::read(dir, "memory.events");
    usage.memory_failcnt = events.get("max");
    usage.oom_kills = events.get("oom_kill");
    usage.page_faults = memory.get("pgfault");
    usage.major_page_faults = memory.get("pgmajfault");
    usage.swap_usage = number(dir, "memory.swap.current");
    usage.swap_limit = limit(number(dir, "memory.swap.max"));
    usage.pids = number(dir, "pids.current");
    usage.pids_limit = limit(number(dir, "pids.max"));
    usage.cpu_pressure = pressure(dir, "cpu.pressure").map(to_pressure);
    usage.memory_pressure = pressure(dir, "memory.pressure").map(to_pressure);
    usage.io_pressure = pressure(dir, "io.pressure").map(to_pressure);
    let device = |entry: rrun_task_api::pb::cgroups_v2::IoEntry| DeviceIo {
        major: entry.major,
        minor: entry.minor,
        read_bytes: entry.rbytes,
        write_bytes: entry.wbytes,
        reads: entry.rios,
        writes: entry.wios,
    };
    usage.io = v2::io(dir).into_iter().map(device).collect();
}

fn to_pressure((some, full): (Stall, Stall)) -> Pressure {
    let stall = |stall: Stall| PbStall {
        avg10: stall.averages[0],
        avg60: stall.averages[1],
        avg300: stall.averages[2],
        total: stall.total,
    };
    Pressure {
        some: Some(stall(some)),
        full: Some(stall(full)),
    }
}

fn of_v1(cgroup: &Cgroup, usage: &mut UsageResponse) {
    if let Some(dir) = cgroup.controller("cpuacct") {
        let stat = Keyed::read(dir, "cpuacct.stat");
        usage.cpu_usage = number(dir, "cpuacct.usage");
        usage.cpu_user = stat.get("user").map(|ticks| ticks * v1::TICK);
        usage.cpu_system = stat.get("system").map(|ticks| ticks * v1::TICK);
    }
    if let Some(dir) = cgroup.controller("cpu") {
        let stat = Keyed::read(dir, "cpu.stat");
        usage.cpu_periods = stat.get("nr_periods");
        usage.cpu_throttled_periods = stat.get("nr_throttled");
        usage.cpu_throttled = stat.get("throttled_time");
    }
    if let Some(dir) = cgroup.controller("memory") {
        memory_v1(dir, usage);
    }
    if let Some(dir) = cgroup.controller("pids") {
        usage.pids = number(dir, "pids.current");
        usage.pids_limit = limit(number(dir, "pids.max"));
    }
    if let Some(dir) = cgroup.controller("blkio") {
        usage.io = io_v1(dir);
    }
}

fn memory_v1(dir: &Path, usage: &mut UsageResponse) {
    let stat = Keyed::read(dir, "memory.stat");
    usage.memory_usage = number(dir, "memory.usage_in_bytes");
    usage.memory_working_set = usage
        .memory_usage
        .map(|current| current.saturating_sub(stat.or_zero("total_inactive_file")));
    usage.memory_limit = limit(number(dir, "memory.limit_in_bytes"));
    usage.memory_rss = stat.get("total_rss");
    usage.memory_cache = stat.get("total_cache");
    usage.memory_mapped_file = stat.get("total_mapped_file");
    usage.memory_max_usage = number(dir, "memory.max_usage_in_bytes");
    usage.memory_failcnt = number(dir, "memory.failcnt");
    usage.page_faults = stat.get("total_pgfault");
    usage.major_page_faults = stat.get("total_pgmajfault");
    let both = number(dir, "memory.memsw.usage_in_bytes");
    usage.swap_usage = both
        .zip(usage.memory_usage)
        .map(|(both, memory)| both.saturating_sub(memory));
    let both = limit(number(dir, "memory.memsw.limit_in_bytes"));
    usage.swap_limit = both
        .zip(usage.memory_limit)
        .map(|(both, memory)| both.saturating_sub(memory));
    usage.oom_kills = Keyed::read(dir, "memory.oom_control").get("oom_kill");
}

fn io_v1(dir: &Path) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u64, u64), DeviceIo> = BTreeMap::new();
    let mut add = |what: &str, set: fn(&mut DeviceIo, &str, u64)| {
        for entry in v1::operations(dir, what) {
            let (major, minor) = (entry.major, entry.minor);
            let device = devices.entry((major, minor));
            let new = || DeviceIo {
                major,
                minor,
                ..Default::default()
            };
            set(device.or_insert_with(new), &entry.op, entry.value);
        }
    };
    add("io_service_bytes", |device, op, value| match op {
        "Read" => device.read_bytes = value,
        "Write" => device.write_bytes = value,
        _ => {}
    });
    add("io_serviced", |device, op, value| match op {
        "Read" => device.reads = value,
        "Write" => device.writes = value,
        _ => {}
    });
    devices.into_values().collect()
}
