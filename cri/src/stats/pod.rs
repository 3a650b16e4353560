//! Usage of a pod: the sum of its containers, and its network.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use nix::sched::{CloneFlags, setns};
use rrun_cri_api::v1;

use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::sandbox;
use crate::store::{ContainerPhase, SandboxPhase, SandboxRecord};

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
    let pids = running.iter().map(|c| u64::from(c.pid > 0)).sum();
    let config = record.config();
    Ok(v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: Some(cpu(&containers)),
            memory: Some(memory(&containers)),
            network: network(daemon, record).await?,
            process: Some(v1::ProcessUsage {
                timestamp: id::now(),
                process_count: Some(v1::UInt64Value { value: pids }),
            }),
            containers,
            io: None,
        }),
        windows: None,
    })
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

/// Counters of the interfaces in the pod's network namespace; none for the machine's.
async fn network(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<Option<v1::NetworkUsage>> {
    if record.host_network() || record.phase() != SandboxPhase::Ready {
        return Ok(None);
    }
    let pin = sandbox::pin(&daemon.config.sandbox_dir(&record.id), "net");
    let text = blocking(move || {
        let file = fs::File::open(&pin).with_context(|| format!("open {}", pin.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter {}", pin.display()))?;
                let path = "/proc/thread-self/net/dev";
                fs::read_to_string(path).with_context(|| format!("read {path}"))
            });
            thread
                .join()
                .unwrap_or_else(|_| bail!("the thread that reads counters panicked"))
        })
    })
    .await?;
    let mut interfaces = interfaces(&text);
    let default = interfaces.iter().position(|i| i.name == "eth0");
    Ok(Some(v1::NetworkUsage {
        timestamp: id::now(),
        default_interface: default.map(|index| interfaces.remove(index)),
        interfaces,
    }))
}

/// `/proc/net/dev`, without the loopback.
fn interfaces(text: &str) -> Vec<v1::NetworkInterfaceUsage> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_ascii_whitespace()
            .map_while(|c| c.parse().ok())
            .collect();
        let at = |index: usize| counters.get(index).map(|v| v1::UInt64Value { value: *v });
        Some(v1::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
        })
    };
    text.lines()
        .filter_map(line)
        .filter(|i| i.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_proc_net_dev() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:       1       0    0    0    0     0          0         0        1       0    0    0
  eth0:     100       2    3    0    0     0          0         0      200       4    5    0
";
        let all = interfaces(text);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].rx_bytes.unwrap().value, 100);
        assert_eq!(all[0].tx_errors.unwrap().value, 5);
    }
}
