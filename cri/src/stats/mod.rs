//! Resource usage: of containers by their shims, of pods by their cgroups and namespaces.

mod cgroup;
pub mod metrics;
mod network;
mod pod;
mod rates;
mod tree;

use std::sync::Arc;

use anyhow::Result;
use rrun_cri_api::v1;
use rrun_task_api::pb::shim::{Pressure, Stall, UsageRequest, UsageResponse};

use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::store::{ContainerPhase, ContainerRecord};

pub use pod::sandbox;
pub use rates::Rates;
pub use tree::Usage;

/// Usage of a container. One that does not run has only its writable layer.
pub async fn container(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
) -> Result<v1::ContainerStats> {
    let layer = daemon.config.container_dir(&record.id).join("upper");
    let path = layer.to_string_lossy().into_owned();
    let usage = blocking(move || tree::usage(&layer)).await?;
    let config = record.config();
    let mut stats = v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: id::now(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: path }),
            used_bytes: value(Some(usage.bytes)),
            inodes_used: value(Some(usage.inodes)),
        }),
        ..Default::default()
    };
    if record.phase() == ContainerPhase::Running {
        let client = daemon.shims.get(&record.id, &record.shim_address).await?;
        let request = UsageRequest {
            id: record.id.clone(),
        };
        match client.usage(&request).await {
            Ok(usage) => fill(&mut stats, &usage),
            // It ends in this moment.
            Err(error) if error.is_not_found() || error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(cpu) = &mut stats.cpu {
            daemon.rates.fill(&record.id, cpu);
        }
    }
    Ok(stats)
}

fn fill(stats: &mut v1::ContainerStats, usage: &UsageResponse) {
    let timestamp = usage
        .at
        .as_ref()
        .map_or_else(id::now, |t| t.seconds * 1_000_000_000 + i64::from(t.nanos));
    let available = |used: Option<u64>, limit: Option<u64>| Some(limit?.saturating_sub(used?));
    stats.cpu = Some(v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(usage.cpu_usage),
        usage_nano_cores: None,
        psi: psi(usage.cpu_pressure.as_ref()),
    });
    stats.memory = Some(v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.memory_working_set),
        available_bytes: value(available(usage.memory_working_set, usage.memory_limit)),
        usage_bytes: value(usage.memory_usage),
        rss_bytes: value(usage.memory_rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        psi: psi(usage.memory_pressure.as_ref()),
    });
    stats.swap = Some(v1::SwapUsage {
        timestamp,
        swap_available_bytes: value(available(usage.swap_usage, usage.swap_limit)),
        swap_usage_bytes: value(usage.swap_usage),
    });
    stats.io = Some(v1::IoUsage {
        timestamp,
        psi: psi(usage.io_pressure.as_ref()),
    });
}

fn value(value: Option<u64>) -> Option<v1::UInt64Value> {
    value.map(|value| v1::UInt64Value { value })
}

fn psi(pressure: Option<&Pressure>) -> Option<v1::PsiStats> {
    let data = |stall: &Stall| v1::PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    pressure.map(|p| v1::PsiStats {
        full: p.full.as_ref().map(data),
        some: p.some.as_ref().map(data),
    })
}

/// What the writable layers of all containers take.
pub async fn layers(daemon: &Arc<Daemon>) -> Result<Usage> {
    let dir = daemon.config.root.join("containers");
    blocking(move || tree::usage(&dir)).await
}
