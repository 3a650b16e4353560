//! `linux.resources` as an ordered list of writes.

use super::write::{Rule, Write};
use super::{cpu, cpuset, hugetlb, io, memory, net, pids, rdma, unified};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxNetwork, LinuxResources};

/// Writes for v1 hierarchies.
pub fn legacy(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    if let Some(map) = resources.unified() {
        unified::refuse_on_legacy(map)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpuset::writes(cpu, &mut writes);
        cpu::legacy(cpu, &mut writes)?;
    }
    if let Some(memory) = resources.memory() {
        memory::legacy(memory, &mut writes)?;
    }
    if let Some(pids) = resources.pids() {
        pids::writes(*pids, &mut writes);
    }
    if let Some(io) = resources.block_io() {
        io::legacy(io, &mut writes);
    }
    if let Some(limits) = resources.hugepage_limits() {
        hugetlb::writes(limits, "limit_in_bytes", &mut writes)?;
    }
    if let Some(network) = resources.network() {
        net::legacy(network, &mut writes);
    }
    if let Some(devices) = resources.rdma() {
        rdma::writes(devices, &mut writes);
    }
    Ok(writes)
}

/// Writes for the v2 hierarchy.
pub fn unified(resources: &LinuxResources) -> Result<Vec<Write>> {
    refuse_legacy(resources)?;
    let mut writes = Vec::new();
    if let Some(pids) = resources.pids() {
        pids::writes(*pids, &mut writes);
    }
    if let Some(memory) = resources.memory() {
        memory::unified(memory, &mut writes)?;
    }
    if let Some(io) = resources.block_io() {
        io::unified(io, &mut writes);
    }
    if let Some(cpu) = resources.cpu() {
        cpu::unified(cpu, &mut writes);
        cpuset::writes(cpu, &mut writes);
    }
    if let Some(limits) = resources.hugepage_limits() {
        hugetlb::writes(limits, "max", &mut writes)?;
    }
    if let Some(devices) = resources.rdma() {
        rdma::writes(devices, &mut writes);
    }
    if let Some(map) = resources.unified() {
        unified::writes(map, &mut writes)?;
    }
    Ok(writes)
}

/// What v1 alone has, and v2 nothing to convert it to, is an error (runtime-spec,
/// config-linux.md#unified); kernel memory is none, which no kernel limits any more.
fn refuse_legacy(resources: &LinuxResources) -> Result<()> {
    let memory = resources.memory().unwrap_or_default();
    let cpu = resources.cpu().as_ref();
    let io = resources.block_io().as_ref();
    let network = resources.network().as_ref();
    let leaf = |io: &LinuxBlockIo| {
        let mut devices = io.weight_device().iter().flatten();
        io.leaf_weight().is_some_and(|w| w != 0)
            || devices.any(|d| d.leaf_weight().is_some_and(|w| w != 0))
    };
    let names = |n: &LinuxNetwork| n.priorities().as_ref().is_some_and(|p| !p.is_empty());
    let asked = [
        (
            "memory.swappiness",
            memory.swappiness().is_some_and(|s| s != u64::MAX),
        ),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer() == Some(true),
        ),
        (
            "cpu.realtimeRuntime",
            cpu.is_some_and(|c| c.realtime_runtime().is_some_and(|r| r != 0)),
        ),
        (
            "cpu.realtimePeriod",
            cpu.is_some_and(|c| c.realtime_period().is_some_and(|p| p != 0)),
        ),
        ("blockIO.leafWeight", io.is_some_and(leaf)),
        (
            "network.classID",
            network.is_some_and(|n| n.class_id().is_some_and(|c| c != 0)),
        ),
        ("network.priorities", network.is_some_and(names)),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => {
            let why = "needs cgroup v1: v2 has nothing of the kind; remove it";
            Err(Error::config(format!("linux.resources.{name}"), why))
        }
        None => Ok(()),
    }
}

/// Whether any of the writes needs a controller that a threaded cgroup cannot have.
pub fn needs_domain(writes: &[Write]) -> bool {
    writes
        .iter()
        .any(|w| matches!(&*w.controller, "memory" | "io" | "cpu" | "hugetlb"))
}

/// Whether `writes` limit anything at all: `pids.max` of an unlimited container does not.
pub fn limit_anything(writes: &[Write]) -> bool {
    writes.iter().any(|w| w.rule != Rule::IfThere)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str, v2: bool) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = if v2 {
            unified(&resources)
        } else {
            legacy(&resources)
        }
        .unwrap();
        writes
            .iter()
            .map(|w| format!("{}={}", w.file, w.value))
            .collect()
    }

    const DOCKER: &str = r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":524288},
        "cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0","mems":"0"},
        "pids":{"limit":64},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;

    #[test]
    fn limits_of_a_docker_like_container_on_v1() {
        assert_eq!(
            names(DOCKER, false),
            [
                "cpuset.cpus=0",
                "cpuset.mems=0",
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=2097152",
                "memory.soft_limit_in_bytes=524288",
                "pids.max=64",
                "hugetlb.2MB.limit_in_bytes=0",
                "hugetlb.2MB.rsvd.limit_in_bytes=0",
            ]
        );
    }

    #[test]
    fn limits_of_a_docker_like_container_on_v2() {
        assert_eq!(
            names(DOCKER, true),
            [
                "pids.max=64",
                "memory.swap.max=1048576",
                "memory.max=1048576",
                "memory.low=524288",
                "cpu.weight=59",
                "cpu.max=50000 100000",
                "cpuset.cpus=0",
                "cpuset.mems=0",
                "hugetlb.2MB.max=0",
                "hugetlb.2MB.rsvd.max=0",
            ]
        );
    }

    #[test]
    fn what_v1_alone_has_is_refused_on_v2() {
        let refused = |json: &str| {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            unified(&resources).map_err(|e| e.chain()).unwrap_err()
        };
        for (json, field) in [
            (r#"{"memory":{"swappiness":10}}"#, "memory.swappiness"),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "memory.disableOOMKiller",
            ),
            (r#"{"cpu":{"realtimeRuntime":1}}"#, "cpu.realtimeRuntime"),
            (r#"{"blockIO":{"leafWeight":10}}"#, "blockIO.leafWeight"),
            (r#"{"network":{"classID":7}}"#, "network.classID"),
            (
                r#"{"network":{"priorities":[{"name":"lo","priority":1}]}}"#,
                "network.priorities",
            ),
        ] {
            assert!(refused(json).contains(field), "{json}");
        }
        let none = r#"{"memory":{"disableOOMKiller":false},"network":{"classID":0}}"#;
        assert_eq!(names(none, true), Vec::<String>::new());
    }

    #[test]
    fn unified_comes_last_and_is_refused_on_v1() {
        let json = r#"{"pids":{"limit":9},"unified":{"memory.high":"1","cpu.weight":"5"}}"#;
        assert_eq!(
            names(json, true),
            ["pids.max=9", "cpu.weight=5", "memory.high=1"]
        );
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        assert!(
            legacy(&resources)
                .unwrap_err()
                .chain()
                .contains("cannot use unified on cgroup v1")
        );
    }

    #[test]
    fn unified_names_stay_in_the_cgroup() {
        let json = r#"{"unified":{"../cgroup.procs":"1"}}"#;
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        assert!(
            unified(&resources)
                .unwrap_err()
                .chain()
                .contains("no slashes")
        );
    }
}
