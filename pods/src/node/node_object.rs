//! The Node object: what this machine is, has and can take.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use rrun_cri_api::v1 as cri;
use serde_json::{Value, json};

use crate::api::{Client, Patch, kinds};
use crate::quantity;
use crate::resources::Resources;

use super::hugepages;

/// Held back from pods for the system: memory below which the kernel starts to thrash.
const RESERVED_MEMORY: i64 = 100 << 20;

/// What the machine has.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    cpus: usize,
    memory: i64,
    storage: i64,
    /// Bytes of each kind of huge pages.
    pages: BTreeMap<String, i64>,
    max_pods: u32,
    /// Its address.
    pub address: String,
    machine_id: String,
    boot_id: String,
    kernel: String,
    os: String,
    hostname: String,
}

impl NodeFacts {
    /// Reads them.
    pub fn gather(max_pods: u32) -> anyhow::Result<Self> {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let meminfo = read("/proc/meminfo");
        let memory = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse::<i64>().ok())
            .ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no MemTotal"))?;
        let uname = rustix::system::uname();
        Ok(Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory * 1024,
            storage: storage(),
            pages: hugepages::on_machine(),
            max_pods,
            address: address(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: uname.release().to_string_lossy().into_owned(),
            os: os_name(&read("/etc/os-release")),
            hostname: uname.nodename().to_string_lossy().into_owned(),
        })
    }

    /// What pods can have of it.
    pub fn allocatable(&self) -> Resources {
        let pages: i64 = self.pages.values().sum();
        Resources {
            milli_cpu: self.cpus as i64 * 1000,
            memory: (self.memory - pages - RESERVED_MEMORY).max(0),
            storage: self.storage * 9 / 10,
            other: self.pages.clone(),
        }
    }

    fn capacity(&self) -> Value {
        self.listed(self.memory, format!("{}Ki", self.storage / 1024))
    }

    fn allocatable_json(&self) -> Value {
        let all = self.allocatable();
        self.listed(all.memory, all.storage.to_string())
    }

    /// A resource list; of CPUs, pods and huge pages all are for pods to have.
    fn listed(&self, memory: i64, storage: String) -> Value {
        let mut list = json!({
            "cpu": self.cpus.to_string(),
            "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": storage,
            "pods": self.max_pods.to_string(),
        });
        for (name, bytes) in &self.pages {
            list[name] = quantity::format(*bytes, name).into();
        }
        list
    }
}

fn storage() -> i64 {
    let stat = rustix::fs::statvfs("/var").or_else(|_| rustix::fs::statvfs("/"));
    stat.map_or(0, |s| (s.f_blocks * s.f_frsize) as i64)
}

/// The address that packets to the outside leave from; no packet is sent to learn it.
fn address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0");
    let local = socket.and_then(|s| {
        s.connect("192.0.2.1:9")?;
        s.local_addr()
    });
    match local {
        Ok(address) => address.ip().to_string(),
        Err(_) => "127.0.0.1".to_owned(),
    }
}

fn os_name(release: &str) -> String {
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// Name servers and search domains of the host. A stub on loopback is of no use inside a pod.
pub fn host_dns() -> cri::DnsConfig {
    let read = |path: &str| parse_resolv(&std::fs::read_to_string(path).unwrap_or_default());
    let own = read("/etc/resolv.conf");
    let stub = own
        .servers
        .iter()
        .all(|s| s.starts_with("127.") || s == "::1");
    if stub {
        let upstream = read("/run/systemd/resolve/resolv.conf");
        if !upstream.servers.is_empty() {
            return upstream;
        }
    }
    own
}

fn parse_resolv(text: &str) -> cri::DnsConfig {
    let mut config = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search" | "domain") => config.searches = words.collect(),
            Some("options") => config.options.extend(words),
            _ => {}
        }
    }
    config
}

/// Makes the Node object, or brings it up to date. `runtime` is what the runtime last said: its
/// version, or why it does not answer; `None` where it was not asked yet.
pub async fn register(
    client: &Client,
    name: &str,
    facts: &NodeFacts,
    runtime: Option<Result<cri::VersionResponse, String>>,
) {
    let labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch(),
    });
    if client.find(&kinds::NODE, "", name).is_none() {
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
        if let Err(status) = client.create(&kinds::NODE, "", node).await {
            tracing::warn!(node = name, "node not registered: {}", status.message);
            return;
        }
    } else {
        let patch = json!({"metadata": {"labels": labels}});
        let _ = client
            .patch(&kinds::NODE, "", name, Patch::Merge(patch))
            .await;
    }
    let Some(stored) = client.find(&kinds::NODE, "", name) else {
        return;
    };
    let status = status(facts, runtime, stored.at("/status"));
    if let Err(status) = client.set_status(&kinds::NODE, "", name, status).await {
        tracing::warn!(node = name, "node status not written: {}", status.message);
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(
    facts: &NodeFacts,
    runtime: Option<Result<cri::VersionResponse, String>>,
    stored: &Value,
) -> Value {
    let ready = match &runtime {
        Some(Ok(_)) => (
            "True",
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        Some(Err(why)) => (
            "False",
            "KubeletNotReady",
            format!("container runtime is down: {why}"),
        ),
        None => (
            "False",
            "KubeletNotReady",
            "container runtime status check may not have completed yet".to_owned(),
        ),
    };
    let version = match runtime {
        Some(Ok(v)) => format!("{}://{}", v.runtime_name, v.runtime_version),
        _ => stored["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    };
    json!({
        "capacity": facts.capacity(),
        "allocatable": facts.allocatable_json(),
        "addresses": [
            {"type": "InternalIP", "address": facts.address},
            {"type": "Hostname", "address": facts.hostname},
        ],
        "conditions": [
            pressure(stored, "MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            pressure(stored, "DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition(stored, "PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition(stored, "Ready", ready.0, ready.1, &ready.2),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.machine_id,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os,
            "containerRuntimeVersion": version,
            "kubeletVersion": concat!("v1.36.0-rrun.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": arch(),
        },
    })
}

/// A pressure as the evictor told it last; none where it told nothing yet.
fn pressure(stored: &Value, kind: &str, reason: &str, message: &str) -> Value {
    let all = stored["conditions"].as_array();
    let told = all
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind && c["status"] == "True");
    told.cloned()
        .unwrap_or_else(|| condition(stored, kind, "False", reason, message))
}

/// A condition whose times stay while it does not turn: nothing is written while nothing changes.
fn condition(stored: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let all = stored["conditions"].as_array();
    let old = all.into_iter().flatten().find(|c| c["type"] == kind);
    let same = old.filter(|c| c["status"] == status);
    let now = json!(super::now().to_string());
    let since = same.map_or_else(|| now.clone(), |c| c["lastTransitionTime"].clone());
    let beat = same.map_or(now, |c| c["lastHeartbeatTime"].clone());
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "lastHeartbeatTime": beat,
    })
}
