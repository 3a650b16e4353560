//! The CRI's view of a pod's sandbox, made from the pod.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
};
use rrun_cri_api::v1 as cri;

use super::dirs::Dirs;
use super::{names, security};
use crate::resources::{Resources, pod_limits, pod_requests, qos_class};

/// What a sandbox is made of, beside the pod.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Name servers of pods that use the cluster's.
    pub cluster: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
    /// The host's own settings.
    pub host: cri::DnsConfig,
}

/// The request's config. `attempt` counts sandboxes of this pod.
pub fn config(
    pod: &Pod,
    dirs: &Dirs,
    dns: &Dns,
    driver: cri::CgroupDriver,
    attempt: u32,
) -> cri::PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut labels = names::unsorted(pod.metadata.labels.as_ref());
    labels.extend(names::pod_labels(pod));
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: names::uid(pod).to_owned(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            attempt,
        }),
        hostname: hostname(pod, &spec),
        log_directory: dirs.logs(pod).to_string_lossy().into_owned(),
        dns_config: Some(resolver(pod, &spec, dns)),
        port_mappings: port_mappings(&spec),
        labels,
        annotations: names::unsorted(pod.metadata.annotations.as_ref()),
        linux: Some(linux(pod, &spec, driver)),
        windows: None,
    }
}

/// The pod's hostname: its own, or its name cut to what a hostname can hold.
pub fn hostname(pod: &Pod, spec: &PodSpec) -> String {
    if spec.host_network == Some(true) {
        return String::new();
    }
    let own = spec.hostname.as_deref().filter(|name| !name.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// resolv.conf by the pod's DNS policy.
fn resolver(pod: &Pod, spec: &PodSpec, dns: &Dns) -> cri::DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = !dns.cluster.is_empty()
        && match policy {
            "ClusterFirst" => spec.host_network != Some(true),
            "ClusterFirstWithHostNet" => true,
            _ => false,
        };
    let mut config = if policy == "None" {
        cri::DnsConfig::default()
    } else if cluster {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &dns.domain;
        let mut searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(dns.host.searches.iter().cloned());
        cri::DnsConfig {
            servers: dns.cluster.clone(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        dns.host.clone()
    };
    if let Some(own) = &spec.dns_config {
        config
            .servers
            .extend(own.nameservers.iter().flatten().cloned());
        config
            .searches
            .extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let same = |o: &String| o == name || o.starts_with(&format!("{name}:"));
            config.options.retain(|o| !same(o));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    config
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn every(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    sidecars
        .filter(|c| crate::resources::is_sidecar(c))
        .chain(&spec.containers)
}

fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    if spec.host_network == Some(true) {
        return vec![];
    }
    let ports = every(spec).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            Some(cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.filter(|p| *p > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn linux(pod: &Pod, spec: &PodSpec, driver: cri::CgroupDriver) -> cri::LinuxPodSandboxConfig {
    let context = spec.security_context.clone().unwrap_or_default();
    let sysctls: HashMap<String, String> = context
        .sysctls
        .iter()
        .flatten()
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    cri::LinuxPodSandboxConfig {
        cgroup_parent: cgroup_parent(pod, spec, driver),
        security_context: Some(security_context(spec, &context)),
        sysctls,
        overhead: None,
        resources: Some(resources(spec)),
    }
}

/// What all containers of the pod may use together.
pub fn resources(spec: &PodSpec) -> cri::LinuxContainerResources {
    let requests = pod_requests(spec);
    let mut limits = pod_limits(spec);
    // The kubelet's rule: one container without a limit leaves the pod without.
    if !limited(spec, |r| r.milli_cpu) {
        limits.milli_cpu = 0;
    }
    if !limited(spec, |r| r.memory) {
        limits.memory = 0;
    }
    cri::LinuxContainerResources {
        cpu_shares: security::shares(requests.milli_cpu),
        cpu_quota: security::quota(limits.milli_cpu),
        cpu_period: security::PERIOD,
        memory_limit_in_bytes: limits.memory,
        ..cri::LinuxContainerResources::default()
    }
}

/// Whether the pod, or each of its containers, has a limit of a resource.
fn limited(spec: &PodSpec, of: impl Fn(&Resources) -> i64) -> bool {
    let has = |resources: Option<&ResourceRequirements>| {
        resources.is_some_and(|r| of(&Resources::read(r.limits.as_ref())) > 0)
    };
    let init = spec.init_containers.iter().flatten();
    let mut all = init.chain(&spec.containers);
    has(spec.resources.as_ref()) || all.all(|c| has(c.resources.as_ref()))
}

/// Named as the kubelet does: `/kubepods/burstable/pod<uid>`, or for systemd
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`.
fn cgroup_parent(pod: &Pod, spec: &PodSpec, driver: cri::CgroupDriver) -> String {
    let pod = format!("pod{}", names::uid(pod));
    let class = match qos_class(spec) {
        "BestEffort" => Some("besteffort"),
        "Burstable" => Some("burstable"),
        _ => None,
    };
    let parts = ["kubepods"].into_iter().chain(class).chain([pod.as_str()]);
    let mut path = String::new();
    match driver {
        cri::CgroupDriver::Cgroupfs => {
            for part in parts {
                path.extend(["/", part]);
            }
        }
        cri::CgroupDriver::Systemd => {
            // To systemd a dash is a step down.
            let mut slice = String::new();
            for part in parts {
                let dash = if slice.is_empty() { "" } else { "-" };
                slice.extend([dash, &part.replace('-', "_")]);
                path.extend(["/", &slice, ".slice"]);
            }
        }
    }
    path
}

fn security_context(
    spec: &PodSpec,
    context: &PodSecurityContext,
) -> cri::LinuxSandboxSecurityContext {
    // Of any kind: the sandbox refuses a privileged container that it was not told of.
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let privileged = containers
        .map(|c| &c.security_context)
        .chain(ephemeral.map(|c| &c.security_context))
        .any(|context| context.as_ref().and_then(|s| s.privileged) == Some(true));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(security::namespaces(spec)),
        selinux_options: None,
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| cri::Int64Value { value }),
        supplemental_groups: security::groups(context),
        supplemental_groups_policy: security::groups_policy(context),
        privileged,
        seccomp: Some(security::profile("RuntimeDefault", None)),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_container_without_a_limit_leaves_the_pod_without() {
        let of = |second: serde_json::Value| {
            let limits = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
            let spec = json!({"containers": [{"name": "a", "resources": limits},
                                             {"name": "b", "resources": second}]});
            let whole = resources(&serde_json::from_value(spec).unwrap());
            (whole.cpu_quota, whole.memory_limit_in_bytes)
        };
        assert_eq!(of(json!({})), (0, 0));
        assert_eq!(of(json!({"limits": {"memory": "64Mi"}})), (0, 128 << 20));
        let both = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        assert_eq!(of(both), (150_000, 128 << 20));
    }

    #[test]
    fn a_pod_becomes_a_sandbox() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u-1", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}],
                                     "resources": {"requests": {"cpu": "500m"}}}],
                     "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}}))
        .unwrap();
        let dns = Dns {
            cluster: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            ..Dns::default()
        };
        let dirs = Dirs::new(Path::new("/r"), None);
        let config = |driver| config(&pod, &dirs, &dns, driver, 0);
        let systemd = config(cri::CgroupDriver::Systemd).linux.unwrap();
        assert_eq!(
            systemd.cgroup_parent,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice"
        );
        let config = config(cri::CgroupDriver::Cgroupfs);
        assert_eq!(config.log_directory, "/r/logs/ns_web_u-1");
        assert_eq!(config.hostname, "web");
        assert_eq!(config.port_mappings[0].host_port, 8080);
        let linux = config.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/burstable/podu-1");
        assert_eq!(linux.resources.unwrap().cpu_shares, 512);
        let dns = config.dns_config.unwrap();
        assert_eq!(dns.searches[0], "ns.svc.cluster.local");
        assert_eq!(dns.options, ["ndots:2"]);
    }

    #[test]
    fn a_privileged_container_of_any_kind_makes_the_sandbox_privileged() {
        let context = json!([{"name": "x", "securityContext": {"privileged": true}}]);
        for kind in [
            "containers",
            "initContainers",
            "ephemeralContainers",
            "none",
        ] {
            let mut spec = json!({"containers": [{"name": "a"}]});
            spec[kind] = context.clone();
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let made = security_context(&spec, &PodSecurityContext::default());
            assert_eq!(made.privileged, kind != "none", "{kind}");
        }
    }
}
