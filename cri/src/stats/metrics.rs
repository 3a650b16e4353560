//! The metrics of containers and pods under cAdvisor's names, with cAdvisor's labels: a kubelet
//! hands them on from ListPodSandboxMetrics as they are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rrun_cri_api::v1;
use rrun_task_api::pb::shim::{Pressure, Stall, UsageRequest, UsageResponse};

use super::cgroup::Place;
use super::{network, tree};
use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord};

/// Labels of every metric, in this order.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Values with those of the metric's own labels.
type Values = Vec<(Vec<String>, u64)>;

/// One metric: how it is described, and how it is read from a sample of `T`.
struct Kind<T: 'static> {
    name: &'static str,
    help: &'static str,
    of: v1::MetricType,
    labels: &'static [&'static str],
    read: fn(&T) -> Values,
}

/// Everything that the metrics of a container are taken from.
struct Sample {
    usage: UsageResponse,
    resources: v1::LinuxContainerResources,
    started_at: i64,
    layer: tree::Usage,
    disk: Disk,
    kernel_memory: Option<u64>,
    /// Size, now, most.
    huge_pages: Vec<(String, u64, Option<u64>)>,
    processes: u64,
    descriptors: u64,
    sockets: u64,
    open_files_limit: Option<u64>,
}

/// The file system of the writable layer.
#[derive(Clone, Debug, Default)]
struct Disk {
    device: String,
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

fn one(value: impl Into<Option<u64>>) -> Values {
    value.into().map(|v| (vec![], v)).into_iter().collect()
}

fn seconds(nanos: Option<u64>) -> Option<u64> {
    nanos.map(|n| n / 1_000_000_000)
}

fn stalled(pressure: Option<&Pressure>, which: fn(&Pressure) -> Option<&Stall>) -> Values {
    one(pressure
        .and_then(which)
        .map(|stall| stall.total / 1_000_000))
}

/// For each device by its name.
fn devices(sample: &Sample, read: fn(&rrun_task_api::pb::shim::DeviceIo) -> u64) -> Values {
    let all = sample.usage.io.iter();
    all.map(|io| (vec![device(io.major, io.minor)], read(io)))
        .collect()
}

fn on_disk(sample: &Sample, value: u64) -> Values {
    vec![(vec![sample.disk.device.clone()], value)]
}

macro_rules! kinds {
    ($of:ty: $($kind:ident $name:literal $labels:tt $help:literal $read:expr;)*) => {
        &[$(Kind::<$of> {
            name: $name,
            help: $help,
            of: v1::MetricType::$kind,
            labels: &$labels,
            read: $read,
        }),*]
    };
}

const CONTAINER: &[Kind<Sample>] = kinds! { Sample:
    Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Bytes transferred to and from a block device" |s| {
            let entry = |io: &rrun_task_api::pb::shim::DeviceIo, what: &str, bytes| {
                let labels = vec![device(io.major, io.minor), io.major.to_string(),
                    io.minor.to_string(), what.to_owned()];
                (labels, bytes)
            };
            let both = |io| [entry(io, "Read", io.read_bytes), entry(io, "Write", io.write_bytes)];
            s.usage.io.iter().flat_map(both).collect()
        };
    Counter "container_cpu_cfs_periods_total" []
        "Enforcement periods of the CPU quota that have passed" |s| one(s.usage.cpu_periods);
    Counter "container_cpu_cfs_throttled_periods_total" []
        "Periods in which the CPU quota was used up" |s| one(s.usage.cpu_throttled_periods);
    Counter "container_cpu_cfs_throttled_seconds_total" []
        "Seconds spent waiting for CPU quota" |s| one(seconds(s.usage.cpu_throttled));
    Counter "container_cpu_system_seconds_total" []
        "Seconds of CPU time in the kernel" |s| one(seconds(s.usage.cpu_system));
    Counter "container_cpu_usage_seconds_total" ["cpu"]
        "Seconds of CPU time" |s| seconds(s.usage.cpu_usage).map(|v| (vec!["total".to_owned()], v)).into_iter().collect();
    Counter "container_cpu_user_seconds_total" []
        "Seconds of CPU time outside the kernel" |s| one(seconds(s.usage.cpu_user));
    Gauge "container_file_descriptors" []
        "Open file descriptors of all processes" |s| one(s.descriptors);
    Gauge "container_fs_inodes_free" ["device"]
        "Free inodes of the writable layer's file system" |s| on_disk(s, s.disk.inodes_free);
    Gauge "container_fs_inodes_total" ["device"]
        "Inodes of the writable layer's file system" |s| on_disk(s, s.disk.inodes);
    Gauge "container_fs_limit_bytes" ["device"]
        "Size of the writable layer's file system in bytes" |s| on_disk(s, s.disk.bytes);
    Counter "container_fs_reads_bytes_total" ["device"]
        "Bytes read from a block device" |s| devices(s, |io| io.read_bytes);
    Counter "container_fs_reads_total" ["device"]
        "Reads from a block device" |s| devices(s, |io| io.reads);
    Gauge "container_fs_usage_bytes" ["device"]
        "Bytes that the writable layer takes" |s| on_disk(s, s.layer.bytes);
    Counter "container_fs_writes_bytes_total" ["device"]
        "Bytes written to a block device" |s| devices(s, |io| io.write_bytes);
    Counter "container_fs_writes_total" ["device"]
        "Writes to a block device" |s| devices(s, |io| io.writes);
    Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "Most bytes of huge pages at one time" |s| s.huge_pages.iter()
            .filter_map(|(size, _, most)| Some((vec![size.clone()], (*most)?))).collect();
    Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Bytes of huge pages in use" |s| s.huge_pages.iter()
            .map(|(size, now, _)| (vec![size.clone()], *now)).collect();
    Gauge "container_last_seen" []
        "When the container was last looked at, in seconds since the epoch" |_| one(now_seconds());
    Gauge "container_memory_cache" []
        "Bytes of page cache" |s| one(s.usage.memory_cache);
    Counter "container_memory_failcnt" []
        "Times that the memory limit was hit" |s| one(s.usage.memory_failcnt);
    Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Page faults" |s| [("pgfault", s.usage.page_faults), ("pgmajfault", s.usage.major_page_faults)]
            .into_iter()
            .filter_map(|(kind, count)| Some((vec![kind.to_owned(), "container".to_owned()], count?)))
            .collect();
    Gauge "container_memory_kernel_usage" []
        "Bytes of kernel memory" |s| one(s.kernel_memory);
    Gauge "container_memory_mapped_file" []
        "Bytes of mapped files" |s| one(s.usage.memory_mapped_file);
    Gauge "container_memory_max_usage_bytes" []
        "Most bytes of memory at one time" |s| one(s.usage.memory_max_usage);
    Gauge "container_memory_rss" []
        "Bytes of anonymous memory" |s| one(s.usage.memory_rss);
    Gauge "container_memory_swap" []
        "Bytes of swap; 0 where the kernel does not account for it" |s| one(s.usage.swap_usage.unwrap_or(0));
    Gauge "container_memory_usage_bytes" []
        "Bytes of memory" |s| one(s.usage.memory_usage);
    Gauge "container_memory_working_set_bytes" []
        "Bytes of memory less the inactive page cache" |s| one(s.usage.memory_working_set);
    Counter "container_oom_events_total" []
        "Processes killed for want of memory" |s| one(s.usage.oom_kills);
    Counter "container_pressure_cpu_stalled_seconds_total" []
        "Seconds in which all tasks waited for CPU" |s| stalled(s.usage.cpu_pressure.as_ref(), |p| p.full.as_ref());
    Counter "container_pressure_cpu_waiting_seconds_total" []
        "Seconds in which some task waited for CPU" |s| stalled(s.usage.cpu_pressure.as_ref(), |p| p.some.as_ref());
    Counter "container_pressure_io_stalled_seconds_total" []
        "Seconds in which all tasks waited for I/O" |s| stalled(s.usage.io_pressure.as_ref(), |p| p.full.as_ref());
    Counter "container_pressure_io_waiting_seconds_total" []
        "Seconds in which some task waited for I/O" |s| stalled(s.usage.io_pressure.as_ref(), |p| p.some.as_ref());
    Counter "container_pressure_memory_stalled_seconds_total" []
        "Seconds in which all tasks waited for memory" |s| stalled(s.usage.memory_pressure.as_ref(), |p| p.full.as_ref());
    Counter "container_pressure_memory_waiting_seconds_total" []
        "Seconds in which some task waited for memory" |s| stalled(s.usage.memory_pressure.as_ref(), |p| p.some.as_ref());
    Gauge "container_processes" []
        "Processes" |s| one(s.processes);
    Gauge "container_sockets" []
        "Open sockets of all processes" |s| one(s.sockets);
    Gauge "container_spec_cpu_period" []
        "Period of the CPU quota in microseconds" |s| one(positive(s.resources.cpu_period).unwrap_or(100_000));
    Gauge "container_spec_cpu_quota" []
        "CPU quota in microseconds of each period; absent without one" |s| one(positive(s.resources.cpu_quota));
    Gauge "container_spec_cpu_shares" []
        "CPU shares" |s| one(positive(s.resources.cpu_shares).unwrap_or(1024));
    Gauge "container_spec_memory_limit_bytes" []
        "Memory limit in bytes; 0 without one" |s| one(s.usage.memory_limit.unwrap_or(0));
    Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory reservation in bytes; absent without one" |s| one(
            s.resources.unified.get("memory.low").and_then(|v| v.parse().ok()));
    Gauge "container_spec_memory_swap_limit_bytes" []
        "Swap limit in bytes; 0 without one" |s| one(s.usage.swap_limit.unwrap_or(0));
    Gauge "container_start_time_seconds" []
        "When the container was started, in seconds since the epoch" |s| one(
            u64::try_from(s.started_at / 1_000_000_000).ok());
    Gauge "container_threads" []
        "Threads" |s| one(s.usage.threads);
    Gauge "container_threads_max" []
        "Limit of threads; 0 without one" |s| one(s.usage.pids_limit.unwrap_or(0));
    Gauge "container_ulimits_soft" ["ulimit"]
        "Soft limits of the first process" |s| s.open_files_limit
            .map(|limit| (vec!["max_open_files".to_owned()], limit)).into_iter().collect();
};

/// Each interface, from its line of `/proc/net/dev`: proc_pid_net(5).
type Interfaces = Vec<(String, Vec<u64>)>;

fn counter(interfaces: &[(String, Vec<u64>)], column: usize) -> Values {
    let one =
        |(name, counters): &(String, Vec<u64>)| Some((vec![name.clone()], *counters.get(column)?));
    interfaces.iter().filter_map(one).collect()
}

const NETWORK: &[Kind<Interfaces>] = kinds! { Interfaces:
    Counter "container_network_receive_bytes_total" ["interface"] "Bytes received" |i| counter(i, 0);
    Counter "container_network_receive_packets_total" ["interface"] "Packets received" |i| counter(i, 1);
    Counter "container_network_receive_errors_total" ["interface"] "Errors on receipt" |i| counter(i, 2);
    Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets dropped on receipt" |i| counter(i, 3);
    Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent" |i| counter(i, 8);
    Counter "container_network_transmit_packets_total" ["interface"] "Packets sent" |i| counter(i, 9);
    Counter "container_network_transmit_errors_total" ["interface"] "Errors on sending" |i| counter(i, 10);
    Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped on sending" |i| counter(i, 11);
};

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|v| *v > 0)
}

fn now_seconds() -> u64 {
    u64::try_from(id::now() / 1_000_000_000).unwrap_or_default()
}

/// What there is.
pub fn descriptors() -> Vec<v1::MetricDescriptor> {
    let one = |name: &str, help: &str, labels: &[&str]| v1::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: LABELS
            .iter()
            .chain(labels)
            .map(|l| (*l).to_owned())
            .collect(),
    };
    let containers = CONTAINER.iter().map(|k| one(k.name, k.help, k.labels));
    let network = NETWORK.iter().map(|k| one(k.name, k.help, k.labels));
    containers.chain(network).collect()
}

fn measure<T>(kinds: &[Kind<T>], sample: &T, labels: &[String]) -> Vec<v1::Metric> {
    let timestamp = id::now();
    let mut metrics = Vec::new();
    for kind in kinds {
        for (own, value) in (kind.read)(sample) {
            metrics.push(v1::Metric {
                name: kind.name.to_owned(),
                timestamp,
                metric_type: kind.of as i32,
                label_values: labels.iter().cloned().chain(own).collect(),
                value: Some(v1::UInt64Value { value }),
            });
        }
    }
    metrics
}

/// The metrics of a pod and of its running containers.
pub async fn pod(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<v1::PodSandboxMetrics> {
    let metadata = record.metadata();
    let labels = |container: &str, cgroup: &str, image: &str, name: &str| {
        [
            container,
            cgroup,
            image,
            name,
            &metadata.namespace,
            &metadata.name,
        ]
        .map(str::to_owned)
    };
    let mut container_metrics = Vec::new();
    for entry in daemon.containers_of(&record.id) {
        let container = entry.get();
        if container.phase() != ContainerPhase::Running {
            continue;
        }
        // One that ends meanwhile is no reason to tell nothing of the others.
        let Ok((cgroup, sample)) = sample(daemon, &container).await else {
            continue;
        };
        let name = container.metadata().name;
        let labels = labels(&name, &cgroup, &container.image_ref, &container.id);
        container_metrics.push(v1::ContainerMetrics {
            container_id: container.id.clone(),
            metrics: measure(CONTAINER, &sample, &labels),
        });
    }
    let mut metrics = Vec::new();
    if let Some(text) = network::counters(daemon, record).await? {
        let labels = labels("", &record.cgroup_parent, "", &record.id);
        metrics = measure(NETWORK, &network::lines(&text), &labels);
    }
    Ok(v1::PodSandboxMetrics {
        pod_sandbox_id: record.id.clone(),
        metrics,
        container_metrics,
    })
}

async fn sample(daemon: &Arc<Daemon>, record: &Arc<ContainerRecord>) -> Result<(String, Sample)> {
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let request = UsageRequest {
        id: record.id.clone(),
    };
    let usage = client.usage(&request).await?;
    let (daemon, record) = (daemon.clone(), record.clone());
    blocking(move || {
        let dir = daemon.config.container_dir(&record.id);
        let place = Place::of_process(&daemon.cgroups, record.pid).context("it has ended")?;
        let processes = place.processes();
        let (descriptors, sockets) = descriptors_of(&processes);
        let linux = record.config().linux.as_ref();
        let sample = Sample {
            usage,
            resources: linux.and_then(|l| l.resources.clone()).unwrap_or_default(),
            started_at: record.started_at,
            layer: tree::usage(&dir.join("upper"))?,
            disk: disk(&dir)?,
            kernel_memory: place
                .number("memory", "memory.kmem.usage_in_bytes")
                .or_else(|| place.keyed("memory", "memory.stat", "kernel"))
                .or_else(|| place.keyed("memory", "memory.stat", "slab")),
            huge_pages: huge_pages(&place),
            processes: processes.len() as u64,
            descriptors,
            sockets,
            open_files_limit: open_files_limit(record.pid),
        };
        let cgroup = place
            .path("memory")
            .or(place.path("pids"))
            .unwrap_or_default();
        Ok((cgroup.to_owned(), sample))
    })
    .await
}

fn disk(dir: &Path) -> Result<Disk> {
    use std::os::unix::fs::MetadataExt;
    let what = || format!("statvfs {}", dir.display());
    let stat = rustix::fs::statvfs(dir).with_context(what)?;
    let dev = fs::metadata(dir).with_context(what)?.dev();
    Ok(Disk {
        device: device(nix::sys::stat::major(dev), nix::sys::stat::minor(dev)),
        bytes: stat.f_blocks * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// `/dev/NAME` of a block device, else its numbers.
fn device(major: u64, minor: u64) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    match link.as_deref().ok().and_then(Path::file_name) {
        Some(name) => format!("/dev/{}", name.to_string_lossy()),
        None => format!("{major}:{minor}"),
    }
}

/// Open descriptors, and those that are sockets. A process that ends meanwhile has none.
fn descriptors_of(processes: &[u32]) -> (u64, u64) {
    let (mut all, mut sockets) = (0, 0);
    for pid in processes {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in entries.into_iter().flatten().flatten() {
            all += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(target.to_string_lossy().starts_with("socket:"));
        }
    }
    (all, sockets)
}

/// proc_pid_limits(5); unlimited is absent.
fn open_files_limit(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn huge_pages(place: &Place<'_>) -> Vec<(String, u64, Option<u64>)> {
    let Some(dir) = place.dir("hugetlb") else {
        return vec![];
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("hugetlb.") else {
            continue;
        };
        let size = rest
            .strip_suffix(".current")
            .or_else(|| rest.strip_suffix(".usage_in_bytes"))
            .filter(|size| !size.contains('.'));
        if let Some(size) = size
            && let Some(now) = place.number("hugetlb", &name)
        {
            let most = format!("hugetlb.{size}.max_usage_in_bytes");
            all.push((size.to_owned(), now, place.number("hugetlb", &most)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_as_many_label_values_as_keys() {
        let interfaces = vec![("eth0".to_owned(), (0..16).collect())];
        let labels = LABELS.map(str::to_owned);
        let metrics = measure(NETWORK, &interfaces, &labels);
        assert_eq!(metrics.len(), NETWORK.len());
        for metric in metrics {
            let all = descriptors();
            let described = all.iter().find(|d| d.name == metric.name).unwrap();
            assert_eq!(metric.label_values.len(), described.label_keys.len());
        }
    }

    #[test]
    fn names_are_described_once() {
        let all = descriptors();
        let names: std::collections::BTreeSet<_> = all.iter().map(|d| &d.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|d| !d.help.is_empty()));
    }
}
