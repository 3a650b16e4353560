//! What to make for a sandbox, as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rrun_cri_api::v1::{DnsConfig, NamespaceMode, SeLinuxOption};

use super::IdMaps;
use crate::config::AskedSelinux;
use crate::error::{Error, Result};
use crate::selinux::{self, Labels};
use crate::store::SandboxRecord;

/// Everything that making a sandbox needs, without IO.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Directory of the sandbox under the state directory.
    pub dir: PathBuf,
    /// Namespaces to make and pin: name in `/proc/<pid>/ns` and flag.
    pub namespaces: Vec<(&'static str, CloneFlags)>,
    /// The pod's user namespace, which then owns all others; `None` for the machine's.
    pub users: Option<IdMaps>,
    /// True where the containers share a pid namespace, which needs a first process.
    pub shared_pid: bool,
    /// SELinux labels of the first process and its root.
    pub labels: Option<Labels>,
    /// For the new UTS namespace; empty leaves the machine's.
    pub hostname: String,
    /// Key with dots → value, set inside the new namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// For resolv.conf; without one the machine's is copied.
    pub dns: Option<DnsConfig>,
    /// True where the pod is in the machine's network and so sees the machine's names.
    pub host_network: bool,
    /// True where a `/dev/shm` of the pod's own is needed.
    pub own_shm: bool,
}

/// Bytes of a pod's `/dev/shm`, as with the peers.
pub const SHM_SIZE: u64 = 64 << 20;

impl Plan {
    /// Refuses what cannot be done before anything is done. `selinux`: who gets a label, where there
    /// is SELinux.
    pub fn new(
        record: &SandboxRecord,
        dir: PathBuf,
        selinux: Option<AskedSelinux>,
    ) -> Result<Self> {
        let config = record.config();
        let options = record.namespaces();
        let host_network = record.host_network();
        let own_ipc = options.ipc() != NamespaceMode::Node;
        let shared_pid = options.pid() == NamespaceMode::Pod;
        let users = IdMaps::of(&options)?;
        let mut namespaces = Vec::new();
        if !host_network {
            namespaces.push(("net", CloneFlags::CLONE_NEWNET));
            namespaces.push(("uts", CloneFlags::CLONE_NEWUTS));
        }
        if own_ipc {
            namespaces.push(("ipc", CloneFlags::CLONE_NEWIPC));
        }
        let asked = config.linux.iter().flat_map(|l| l.sysctls.clone());
        let sysctls = sysctls(asked.collect(), host_network, own_ipc)?;
        Ok(Self {
            dir,
            namespaces,
            users,
            shared_pid,
            labels: if shared_pid {
                labels(record, selinux)
            } else {
                None
            },
            hostname: if host_network {
                String::new()
            } else {
                hostname(config.hostname.clone())?
            },
            sysctls,
            dns: config.dns_config.clone(),
            host_network,
            own_shm: own_ipc,
        })
    }
}

/// As a container has them that asks for nothing of its own.
fn labels(record: &SandboxRecord, who: Option<AskedSelinux>) -> Option<Labels> {
    let linux = record.config().linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    let none = SeLinuxOption::default();
    let asked = selinux::Asked {
        options: security
            .and_then(|s| s.selinux_options.as_ref())
            .unwrap_or(&none),
        level: selinux::level(&record.id),
        unconfined: security.is_some_and(|s| s.privileged)
            || record.namespaces().ipc() == NamespaceMode::Node,
    };
    selinux::labels(&asked, who)
}

/// The kernel's limit is 64 bytes (`__NEW_UTS_LEN`, sethostname(2)).
fn hostname(name: String) -> Result<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.len() > 64 || !name.bytes().all(good) {
        return Err(Error::invalid(format!(
            "config.hostname {name:?}: at most 64 letters, digits, dots and dashes"
        )));
    }
    Ok(name)
}

/// The pod's sysctls, each of a namespace that the pod has for itself, and the defaults of the
/// peers: ping and low ports need no capability inside a network of one's own.
fn sysctls(
    asked: BTreeMap<String, String>,
    host_network: bool,
    own_ipc: bool,
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    if !host_network {
        all.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    }
    for (key, value) in asked {
        let key = key.replace('/', ".");
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if key.is_empty() || !key.bytes().all(good) || key.contains("..") {
            return Err(Error::invalid(format!(
                "linux.sysctls: {key:?} is not a key"
            )));
        }
        let own = match key.as_str() {
            "kernel.hostname" | "kernel.domainname" => !host_network,
            _ if key.starts_with("net.") => !host_network,
            _ if is_ipc(&key) => own_ipc,
            _ => {
                return Err(Error::invalid(format!(
                    "linux.sysctls: {key} belongs to no namespace, so a pod cannot have its own"
                )));
            }
        };
        if !own {
            return Err(Error::invalid(format!(
                "linux.sysctls: {key} would change the machine: the pod shares that namespace"
            )));
        }
        all.insert(key, value);
    }
    Ok(all)
}

/// ipc_namespaces(7).
fn is_ipc(key: &str) -> bool {
    key.starts_with("kernel.shm")
        || key.starts_with("kernel.msg")
        || key == "kernel.sem"
        || key == "kernel.auto_msgmni"
        || key.starts_with("fs.mqueue.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_cri_api::v1;

    fn record(
        network: NamespaceMode,
        ipc: NamespaceMode,
        sysctls: &[(&str, &str)],
    ) -> SandboxRecord {
        let options = v1::NamespaceOption {
            network: network as i32,
            ipc: ipc as i32,
            ..Default::default()
        };
        let linux = v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            sysctls: sysctls
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Default::default()
        };
        SandboxRecord {
            config: Some(v1::PodSandboxConfig {
                hostname: "pod".into(),
                linux: Some(linux),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn plan(record: &SandboxRecord) -> Result<Plan> {
        Plan::new(record, "/x".into(), Some(AskedSelinux::All))
    }

    #[test]
    fn a_pod_has_network_uts_and_ipc_of_its_own() {
        let plan = plan(&record(NamespaceMode::Pod, NamespaceMode::Pod, &[])).unwrap();
        let names: Vec<_> = plan.namespaces.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["net", "uts", "ipc"]);
        assert!(plan.own_shm);
        assert_eq!(plan.hostname, "pod");
    }

    #[test]
    fn a_host_network_pod_keeps_the_machine_name() {
        let plan = plan(&record(NamespaceMode::Node, NamespaceMode::Node, &[])).unwrap();
        assert!(plan.namespaces.is_empty());
        assert!(plan.hostname.is_empty() && plan.sysctls.is_empty() && !plan.own_shm);
    }

    #[test]
    fn a_first_process_has_the_labels_of_its_pod() {
        let mut record = record(NamespaceMode::Pod, NamespaceMode::Pod, &[]);
        record.id = "00000000".into();
        let labels = plan(&record).unwrap().labels.unwrap();
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c0,c1");
        assert_eq!(labels.file, "system_u:object_r:container_file_t:s0:c0,c1");
        let none = Plan::new(&record, "/x".into(), Some(AskedSelinux::Requested)).unwrap();
        assert_eq!(none.labels, None);
        let config = record.config.as_mut().unwrap();
        let security = config.linux.as_mut().unwrap().security_context.as_mut();
        let options = security.unwrap().namespace_options.as_mut().unwrap();
        options.set_pid(NamespaceMode::Container);
        assert_eq!(plan(&record).unwrap().labels, None);
    }

    #[test]
    fn sysctls_that_reach_beyond_the_pod_are_refused() {
        use NamespaceMode::{Node, Pod};
        for (network, ipc, key) in [
            (Node, Pod, "net.ipv4.ip_forward"),
            (Pod, Node, "kernel.shmmax"),
            (Pod, Pod, "vm.swappiness"),
            (Pod, Pod, "net..x"),
            (Pod, Pod, "../vm"),
        ] {
            let error = plan(&record(network, ipc, &[(key, "1")])).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{key}: {error}");
        }
        let fine = plan(&record(Pod, Pod, &[("net/core/somaxconn", "9")])).unwrap();
        assert_eq!(fine.sysctls["net.core.somaxconn"], "9");
    }
}
