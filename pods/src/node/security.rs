//! Security contexts and resources in the CRI's terms.

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use rrun_cri_api::v1 as cri;

use super::hugepages;
use crate::quantity;
use crate::resources::{Resources, qos_class};

/// The CFS period, in microseconds.
pub const PERIOD: i64 = 100_000;
const LEAST_QUOTA: i64 = 1_000;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;

/// Paths that are hidden unless `procMount: Unmasked` (the kubelet's list).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_TOO: [&str; 1] = ["/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// cpu.shares of thousandths of a CPU.
pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

/// The CFS quota of thousandths of a CPU, in microseconds each [`PERIOD`]; 0 is without a limit.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        0
    } else {
        (milli_cpu * PERIOD / 1000).max(LEAST_QUOTA)
    }
}

/// The namespaces that the pod shares with the host or among its containers.
pub fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let mode = |host: Option<bool>| {
        if host == Some(true) {
            cri::NamespaceMode::Node
        } else {
            cri::NamespaceMode::Pod
        }
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => cri::NamespaceMode::Node,
        (_, Some(true)) => cri::NamespaceMode::Pod,
        _ => cri::NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: mode(spec.host_network).into(),
        pid: pid.into(),
        ipc: mode(spec.host_ipc).into(),
        target_id: String::new(),
        userns_options: None,
    }
}

/// Supplemental groups, fsGroup among them.
pub fn groups(context: &PodSecurityContext) -> Vec<i64> {
    let own = context.supplemental_groups.iter().flatten().copied();
    own.chain(context.fs_group).collect()
}

/// How the image's own groups count.
pub fn groups_policy(context: &PodSecurityContext) -> i32 {
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    let policy = if strict {
        cri::SupplementalGroupsPolicy::Strict
    } else {
        cri::SupplementalGroupsPolicy::Merge
    };
    policy.into()
}

/// A seccomp or AppArmor profile.
pub fn profile(kind: &str, localhost: Option<&str>) -> cri::SecurityProfile {
    let (profile_type, localhost_ref) = match kind {
        "Localhost" => (
            cri::security_profile::ProfileType::Localhost,
            localhost.unwrap_or_default(),
        ),
        "RuntimeDefault" => (cri::security_profile::ProfileType::RuntimeDefault, ""),
        _ => (cri::security_profile::ProfileType::Unconfined, ""),
    };
    cri::SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: localhost_ref.to_owned(),
    }
}

/// Linux settings of a container: the container's own context over the pod's.
pub fn linux(pod: &Pod, container: &Container, node: &Resources) -> cri::LinuxContainerConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    cri::LinuxContainerConfig {
        resources: Some(resources(&spec, container, node)),
        security_context: Some(security_context(&spec, container)),
    }
}

fn resources(
    spec: &PodSpec,
    container: &Container,
    node: &Resources,
) -> cri::LinuxContainerResources {
    let own = container.resources.as_ref();
    let limits = Resources::read(own.and_then(|r| r.limits.as_ref()));
    let requests = own.and_then(|r| r.requests.as_ref());
    let asked_cpu = requests
        .and_then(|r| r.get("cpu"))
        .and_then(quantity::milli)
        .unwrap_or(limits.milli_cpu);
    let asked_memory = requests
        .and_then(|r| r.get("memory"))
        .and_then(quantity::value)
        .unwrap_or(limits.memory);
    let pages = limits.other.iter().filter_map(|(name, bytes)| {
        let size = name.strip_prefix(hugepages::RESOURCE)?;
        Some(cri::HugepageLimit {
            page_size: format!("{size}B").replace("iB", "B"),
            limit: *bytes as u64,
        })
    });
    cri::LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(limits.milli_cpu),
        cpu_shares: shares(asked_cpu),
        memory_limit_in_bytes: limits.memory,
        oom_score_adj: oom_score(qos_class(spec), asked_memory, node.memory),
        hugepage_limits: pages.collect(),
        ..cri::LinuxContainerResources::default()
    }
}

/// What a container that runs with `now` is to be given, where its spec wants other CPU or memory.
pub fn resized(
    container: &Container,
    now: &cri::LinuxContainerResources,
) -> Option<cri::LinuxContainerResources> {
    let wanted = resources(&PodSpec::default(), container, &Resources::default());
    let same = wanted.cpu_quota == now.cpu_quota
        && wanted.cpu_shares == now.cpu_shares
        && wanted.memory_limit_in_bytes == now.memory_limit_in_bytes;
    (!same).then(|| cri::LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: wanted.cpu_quota,
        cpu_shares: wanted.cpu_shares,
        memory_limit_in_bytes: wanted.memory_limit_in_bytes,
        ..cri::LinuxContainerResources::default()
    })
}

/// The kubelet's rule: the less of its share a burstable container asks for, the sooner it goes.
fn oom_score(class: &str, memory: i64, capacity: i64) -> i64 {
    match class {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ if capacity <= 0 => 999,
        _ => (1000 - 1000 * memory / capacity).clamp(3, 999),
    }
}

fn security_context(spec: &PodSpec, container: &Container) -> cri::LinuxContainerSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let list = |paths: &[&str]| -> Vec<String> {
        let paths = if unmasked { &[] } else { paths };
        paths.iter().map(|p| (*p).to_owned()).collect()
    };
    let masked = [&MASKED[..], &MASKED_TOO[..]].concat();
    let capabilities = own.capabilities.as_ref().map(|c| cri::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: vec![],
    });
    let number = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let mut namespace_options = namespaces(spec);
    namespace_options.target_id = String::new();
    cri::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespace_options),
        selinux_options: selinux(&pod, &own),
        run_as_user: number(own.run_as_user.or(pod.run_as_user)),
        run_as_group: number(own.run_as_group.or(pod.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&masked),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(seccomp(&pod, &own, privileged)),
        apparmor: apparmor(&pod, &own),
        ..cri::LinuxContainerSecurityContext::default()
    }
}

fn seccomp(
    pod: &PodSecurityContext,
    own: &SecurityContext,
    privileged: bool,
) -> cri::SecurityProfile {
    let chosen: Option<&SeccompProfile> = own
        .seccomp_profile
        .as_ref()
        .or(pod.seccomp_profile.as_ref());
    match chosen {
        _ if privileged => profile("Unconfined", None),
        Some(p) => profile(&p.type_, p.localhost_profile.as_deref()),
        None => profile("Unconfined", None),
    }
}

fn apparmor(pod: &PodSecurityContext, own: &SecurityContext) -> Option<cri::SecurityProfile> {
    let chosen = own
        .app_armor_profile
        .as_ref()
        .or(pod.app_armor_profile.as_ref())?;
    Some(profile(&chosen.type_, chosen.localhost_profile.as_deref()))
}

fn selinux(pod: &PodSecurityContext, own: &SecurityContext) -> Option<cri::SeLinuxOption> {
    let chosen = own
        .se_linux_options
        .as_ref()
        .or(pod.se_linux_options.as_ref())?;
    Some(cri::SeLinuxOption {
        user: chosen.user.clone().unwrap_or_default(),
        role: chosen.role.clone().unwrap_or_default(),
        r#type: chosen.type_.clone().unwrap_or_default(),
        level: chosen.level.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_and_memory_are_as_the_kubelet_sets_them() {
        assert_eq!((shares(0), shares(1), shares(1000)), (2, 2, 1024));
        assert_eq!((quota(0), quota(1), quota(250)), (0, 1000, 25_000));
        assert_eq!(oom_score("Burstable", 1 << 30, 4 << 30), 750);
        assert_eq!(oom_score("Burstable", 0, 4 << 30), 999);
        assert_eq!(oom_score("Guaranteed", 0, 1), -997);
    }
}
