//! Changing the limits of a container that exists.
//!
//! What is set now is kept in `resources.json` beside the configuration, which
//! stays as it was given: a later update of the quota alone needs the period that
//! is in force.

use crate::cgroup::{Manager, Plan, Request};
use crate::container::{Container, Status};
use crate::{Context, Error, Result, warning};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use std::path::Path;

/// Name of the file with the limits in force.
const RESOURCES: &str = "resources.json";

/// Sets what `change` names; what it does not name stays. When the kernel refuses a
/// value, what was in force is set again.
pub fn update(container: &Container, change: &LinuxResources) -> Result<()> {
    if container.status()? == Status::Stopped {
        return Err(Error::State("container not running".into()));
    }
    let before = current(container)?;
    let after = merge(&before, change);
    let cgroup = container.cgroup()?;
    let apply = |resources: &LinuxResources| cgroup.apply(&plan(container, resources)?);
    if let Err(error) = apply(&after) {
        if let Err(second) = apply(&before) {
            warning!("setting back the limits failed: {}", second.chain());
        }
        return Err(error).context("update the container's limits");
    }
    keep(container, &after)
}

fn plan(container: &Container, resources: &LinuxResources) -> Result<Plan> {
    Plan::from_spec(&Request {
        id: &container.record.id,
        // Its directories are known; the plan's are not used.
        path: (container.record.cgroup_manager == Manager::Cgroupfs).then_some(Path::new("/")),
        resources: Some(resources),
        manager: container.record.cgroup_manager,
        rootless: container.record.rootless,
    })
}

/// The limits in force: the last update's, else the configuration's.
fn current(container: &Container) -> Result<LinuxResources> {
    let path = container.dir.join(RESOURCES);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::Json { path, source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let spec = container.spec()?;
            let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
            Ok(resources.unwrap_or_default())
        }
        Err(e) => Err(Error::file("read", path, e)),
    }
}

/// Written beside and renamed; the state directory is volatile: no fsync.
fn keep(container: &Container, resources: &LinuxResources) -> Result<()> {
    let path = container.dir.join(RESOURCES);
    let temp = container.dir.join(".resources.json.new");
    let text = serde_json::to_vec(resources).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    std::fs::write(&temp, text).map_err(|e| Error::file("write", &temp, e))?;
    std::fs::rename(&temp, &path).map_err(|e| Error::file("rename", &temp, e))
}

/// `old` with what `new` sets. A value that would only be written again and might
/// contradict another (burst, cpuset, idle, pids, unified) is taken from `new` alone.
fn merge(old: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut merged = old.clone();
    let memory = memory(
        old.memory().unwrap_or_default(),
        new.memory().unwrap_or_default(),
    );
    let old_cpu = old.cpu().clone().unwrap_or_default();
    let cpu = cpu(&old_cpu, &new.cpu().clone().unwrap_or_default());
    let old_io = old.block_io().clone().unwrap_or_default();
    let io = block_io(old_io, new.block_io().as_ref());
    merged
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_block_io(Some(io))
        .set_pids(*new.pids())
        .set_unified(new.unified().clone());
    if new.hugepage_limits().is_some() {
        merged.set_hugepage_limits(new.hugepage_limits().clone());
    }
    if new.rdma().is_some() {
        merged.set_rdma(new.rdma().clone());
    }
    merged
}

fn memory(old: LinuxMemory, new: LinuxMemory) -> LinuxMemory {
    let mut memory = old;
    // A limit that is lifted takes the swap limit with it.
    let swap = if new.limit() == Some(-1) {
        new.swap().or(Some(0))
    } else {
        new.swap().or(old.swap())
    };
    memory
        .set_limit(new.limit().or(old.limit()))
        .set_swap(swap)
        .set_reservation(new.reservation().or(old.reservation()))
        .set_kernel(new.kernel())
        .set_kernel_tcp(new.kernel_tcp())
        .set_check_before_update(new.check_before_update());
    memory
}

fn cpu(old: &LinuxCpu, new: &LinuxCpu) -> LinuxCpu {
    let mut cpu = old.clone();
    let (period, quota) = (
        new.period().filter(|p| *p != 0),
        new.quota().filter(|q| *q != 0),
    );
    // Both or neither: as given; one of them: the other stays.
    let one = period.is_some() != quota.is_some();
    cpu.set_period(period.or(old.period().filter(|_| one)))
        .set_quota(quota.or(old.quota().filter(|_| one)))
        .set_burst(new.burst())
        .set_idle(new.idle())
        .set_cpus(new.cpus().clone())
        .set_mems(new.mems().clone())
        .set_realtime_period(new.realtime_period().or(old.realtime_period()))
        .set_realtime_runtime(new.realtime_runtime().or(old.realtime_runtime()));
    // An idle cgroup takes no weight.
    let shares = if new.idle().is_some() {
        new.shares()
    } else {
        new.shares().or(old.shares())
    };
    cpu.set_shares(shares);
    cpu
}

fn extend<T: Clone>(old: Option<&Vec<T>>, new: Option<&Vec<T>>) -> Option<Vec<T>> {
    let all: Vec<T> = old.into_iter().chain(new).flatten().cloned().collect();
    (!all.is_empty()).then_some(all)
}

/// Of a device, the last entry counts when it is written: new ones go behind.
fn block_io(mut io: LinuxBlockIo, new: Option<&LinuxBlockIo>) -> LinuxBlockIo {
    let Some(new) = new else { return io };
    if new.weight().is_some() {
        io.set_weight(new.weight());
    }
    if new.leaf_weight().is_some() {
        io.set_leaf_weight(new.leaf_weight());
    }
    let weights = extend(io.weight_device().as_ref(), new.weight_device().as_ref());
    let read_bps = extend(
        io.throttle_read_bps_device().as_ref(),
        new.throttle_read_bps_device().as_ref(),
    );
    let write_bps = extend(
        io.throttle_write_bps_device().as_ref(),
        new.throttle_write_bps_device().as_ref(),
    );
    let read_iops = extend(
        io.throttle_read_iops_device().as_ref(),
        new.throttle_read_iops_device().as_ref(),
    );
    let write_iops = extend(
        io.throttle_write_iops_device().as_ref(),
        new.throttle_write_iops_device().as_ref(),
    );
    io.set_weight_device(weights)
        .set_throttle_read_bps_device(read_bps)
        .set_throttle_write_bps_device(write_bps)
        .set_throttle_read_iops_device(read_iops)
        .set_throttle_write_iops_device(write_iops);
    io
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(old: &str, new: &str) -> LinuxResources {
        merge(
            &serde_json::from_str(old).unwrap(),
            &serde_json::from_str(new).unwrap(),
        )
    }

    #[test]
    fn one_of_quota_and_period_keeps_the_other() {
        let old = r#"{"cpu":{"quota":1000,"period":2000,"shares":7}}"#;
        let cpu = merged(old, r#"{"cpu":{"quota":5000}}"#)
            .cpu()
            .clone()
            .unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (Some(5000), Some(2000), Some(7))
        );
        let cpu = merged(old, r#"{"cpu":{"shares":9}}"#)
            .cpu()
            .clone()
            .unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (None, None, Some(9))
        );
    }

    #[test]
    fn lifting_the_memory_limit_lifts_the_swap_limit() {
        let old = r#"{"memory":{"limit":100,"swap":200,"reservation":50}}"#;
        let memory = merged(old, r#"{"memory":{"limit":-1}}"#).memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(-1), Some(0)));
        let memory = merged(old, r#"{"memory":{"swap":300}}"#).memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(100), Some(300)));
    }

    #[test]
    fn idle_takes_the_old_weight_away() {
        let cpu = merged(r#"{"cpu":{"shares":7}}"#, r#"{"cpu":{"idle":1}}"#)
            .cpu()
            .clone()
            .unwrap();
        assert_eq!((cpu.idle(), cpu.shares()), (Some(1), None));
    }
}
