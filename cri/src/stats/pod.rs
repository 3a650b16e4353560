//! Usage of a pod: what the kernel counts for its cgroup, and its network.

use std::sync::Arc;

use anyhow::Result;
use futures_util::future::join_all;
use rrun_cri_api::v1;

use super::cgroup::Place;
use super::network;
use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord};

/// Usage of a pod and of its running containers.
pub async fn sandbox(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<v1::PodSandboxStats> {
    let running: Vec<_> = daemon
        .containers_of(&record.id)
        .iter()
        .map(|entry| entry.get())
        .filter(|c| c.phase() == ContainerPhase::Running)
        .collect();
    let containers = join_all(running.iter().map(|c| super::container(daemon, c))).await;
    let containers: Vec<_> = containers.into_iter().filter_map(Result::ok).collect();
    let config = record.config();
    let mut linux = whole(daemon, record, &running, &containers).await?;
    linux.network = network::counters(daemon, record)
        .await?
        .map(|text| network::usage(&text));
    linux.containers = containers;
    if let Some(cpu) = &mut linux.cpu {
        daemon.rates.fill(&record.id, cpu);
    }
    Ok(v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    })
}

/// From the pod's own cgroup where it has one for itself, else the sum of its containers.
async fn whole(
    daemon: &Arc<Daemon>,
    record: &SandboxRecord,
    running: &[Arc<ContainerRecord>],
    containers: &[v1::ContainerStats],
) -> Result<v1::LinuxPodSandboxStats> {
    let mut sharing = daemon.store.sandboxes.all();
    sharing.retain(|entry| entry.get().cgroup_parent == record.cgroup_parent);
    let own = sharing.len() == 1;
    let pids: Vec<u32> = running.iter().map(|c| c.pid).collect();
    let (daemon, containers) = (daemon.clone(), containers.to_vec());
    blocking(move || {
        let places = pids
            .iter()
            .filter_map(|pid| Place::of_process(&daemon.cgroups, *pid));
        let places: Vec<_> = places.collect();
        let count = places.iter().map(|p| p.processes().len() as u64).sum();
        let now = id::now();
        let pod = places.into_iter().next().filter(|_| own).map(Place::parent);
        Ok(v1::LinuxPodSandboxStats {
            cpu: Some(
                pod.as_ref()
                    .map_or_else(|| cpu(&containers), |p| p.cpu(now)),
            ),
            memory: Some(
                pod.as_ref()
                    .map_or_else(|| memory(&containers), |p| p.memory(now)),
            ),
            io: pod.as_ref().and_then(|p| p.io(now)),
            process: Some(v1::ProcessUsage {
                timestamp: now,
                process_count: Some(v1::UInt64Value { value: count }),
            }),
            ..Default::default()
        })
    })
    .await
}

fn cpu(containers: &[v1::ContainerStats]) -> v1::CpuUsage {
    let sum = containers
        .iter()
        .filter_map(|c| c.cpu.as_ref()?.usage_core_nano_seconds)
        .map(|v| v.value)
        .sum();
    v1::CpuUsage {
        timestamp: id::now(),
        usage_core_nano_seconds: Some(v1::UInt64Value { value: sum }),
        ..Default::default()
    }
}

fn memory(containers: &[v1::ContainerStats]) -> v1::MemoryUsage {
    let sum = |field: fn(&v1::MemoryUsage) -> Option<v1::UInt64Value>| {
        let values = containers.iter().filter_map(|c| field(c.memory.as_ref()?));
        Some(v1::UInt64Value {
            value: values.map(|v| v.value).sum(),
        })
    };
    v1::MemoryUsage {
        timestamp: id::now(),
        working_set_bytes: sum(|m| m.working_set_bytes),
        usage_bytes: sum(|m| m.usage_bytes),
        rss_bytes: sum(|m| m.rss_bytes),
        page_faults: sum(|m| m.page_faults),
        major_page_faults: sum(|m| m.major_page_faults),
        ..Default::default()
    }
}
