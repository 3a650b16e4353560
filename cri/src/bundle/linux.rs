//! `linux` of config.json: namespaces, resources, devices, hidden paths, seccomp.

use rrun_cri_api::v1::security_profile::ProfileType;
use rrun_cri_api::v1::{
    LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode, SecurityProfile,
};
use serde_json::{Map, Value, json};

use super::capabilities::Sets;
use super::{Input, Limits, seccomp};
use crate::error::{Error, Result};
use crate::sandbox::pin;

/// What a container that is not privileged cannot see, as with Docker and containerd.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
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

/// What it cannot write.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn linux(input: &Input<'_>, capabilities: &Sets) -> Result<Value> {
    let security = &input.security;
    let config = input.config();
    let asked = config.linux.as_ref().and_then(|l| l.resources.clone());
    let mut resources = resources(&asked.unwrap_or_default(), input.facts.limits);
    resources["devices"] = device_rules(input);
    let mut linux = json!({
        "namespaces": namespaces(input)?,
        "cgroupsPath": input.facts.cgroup,
        "resources": resources,
        "devices": devices(input),
    });
    if let Some(labels) = input.labels() {
        linux["mountLabel"] = json!(labels.file);
    }
    if !security.privileged {
        // A kubelet always says which, but for `procMount: Unmasked`, which only pods with users of
        // their own may have: there, no list is a wish. Elsewhere it is somebody who did not say.
        let unmasked = input.facts.users_of_pod.is_some();
        let or = |given: &[String], default: &[&str]| match given {
            [] if !unmasked => json!(default),
            given => json!(given),
        };
        linux["maskedPaths"] = or(&security.masked_paths, &MASKED);
        linux["readonlyPaths"] = or(&security.readonly_paths, &READONLY);
        if let Some(profile) = seccomp_profile(input, capabilities)? {
            linux["seccomp"] = profile;
        }
    }
    Ok(linux)
}

fn namespaces(input: &Input<'_>) -> Result<Value> {
    let pod = input.sandbox.namespaces();
    let own = input.security.namespace_options.clone().unwrap_or_default();
    let pinned = |kind: &str| pin(&input.facts.sandbox_dir, kind);
    let mut all = vec![json!({"type": "mount"})];
    if input.facts.users_of_pod.is_some() {
        all.push(json!({"type": "user", "path": pinned("user")}));
    }
    if pod.network() != NamespaceMode::Node {
        all.push(json!({"type": "network", "path": pinned("net")}));
        all.push(json!({"type": "uts", "path": pinned("uts")}));
    }
    if pod.ipc() != NamespaceMode::Node {
        all.push(json!({"type": "ipc", "path": pinned("ipc")}));
    }
    match (own.pid(), &input.facts.pid_namespace) {
        (NamespaceMode::Container, _) => all.push(json!({"type": "pid"})),
        (NamespaceMode::Node, _) => {}
        (_, Some(path)) => all.push(json!({"type": "pid", "path": path})),
        (mode, None) => {
            return Err(Error::invalid(format!(
                "linux.security_context.namespace_options.pid: {} has no namespace to join",
                mode.as_str_name()
            )));
        }
    }
    // Version 1 hierarchies are shown by bind mounts of the container's own cgroups instead.
    if input.facts.unified && !input.security.privileged {
        all.push(json!({"type": "cgroup"}));
    }
    Ok(Value::Array(all))
}

/// `linux.resources` without devices. Zero is unset, as CRI has it; what the kernel cannot limit is
/// left out.
pub fn resources(asked: &LinuxContainerResources, limits: Limits) -> Value {
    let set = |map: &mut Map<String, Value>, key: &str, value: i64| {
        if value != 0 {
            map.insert(key.to_owned(), json!(value));
        }
    };
    let mut memory = Map::new();
    set(&mut memory, "limit", asked.memory_limit_in_bytes);
    if asked.memory_swap_limit_in_bytes != 0 {
        set(&mut memory, "swap", asked.memory_swap_limit_in_bytes);
    } else if limits.swap {
        // Without a word about swap a container gets none, as with the peers.
        set(&mut memory, "swap", asked.memory_limit_in_bytes);
    }
    let mut cpu = Map::new();
    set(&mut cpu, "shares", asked.cpu_shares);
    set(&mut cpu, "quota", asked.cpu_quota);
    set(&mut cpu, "period", asked.cpu_period);
    for (key, value) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.to_owned(), json!(value));
        }
    }
    let mut all = Map::new();
    for (key, map) in [("memory", memory), ("cpu", cpu)] {
        if !map.is_empty() {
            all.insert(key.to_owned(), Value::Object(map));
        }
    }
    if limits.hugetlb && !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter();
        let limits: Vec<_> = limits
            .map(|l| json!({"pageSize": l.page_size, "limit": l.limit}))
            .collect();
        all.insert("hugepageLimits".to_owned(), json!(limits));
    }
    if !asked.unified.is_empty() {
        all.insert("unified".to_owned(), json!(asked.unified));
    }
    Value::Object(all)
}

/// Everything is denied but what is listed; the runtime adds the nodes that every container has.
fn device_rules(input: &Input<'_>) -> Value {
    if input.security.privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    for device in &input.facts.devices {
        rules.push(json!({
            "allow": true, "type": device.kind, "major": device.major, "minor": device.minor,
            "access": device.access,
        }));
    }
    Value::Array(rules)
}

fn devices(input: &Input<'_>) -> Value {
    let devices = input.facts.devices.iter().map(|device| {
        json!({
            "path": device.path, "type": device.kind, "major": device.major,
            "minor": device.minor, "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
        })
    });
    devices.collect()
}

/// What is asked for, by the new field or the deprecated one.
#[allow(deprecated)]
pub fn asked_seccomp(security: &LinuxContainerSecurityContext) -> Result<SecurityProfile> {
    match &security.seccomp {
        Some(profile) => Ok(profile.clone()),
        None => from_path(&security.seccomp_profile_path),
    }
}

/// An absent profile is unconfined, as the CRI's default has always been.
fn seccomp_profile(input: &Input<'_>, capabilities: &Sets) -> Result<Option<Value>> {
    let asked = asked_seccomp(&input.security)?;
    if asked.profile_type() == ProfileType::Unconfined {
        return Ok(None);
    }
    if !input.facts.seccomp {
        return Err(Error::invalid(
            "linux.security_context.seccomp: this kernel has no seccomp filters",
        ));
    }
    match (asked.profile_type(), &input.facts.seccomp_profile) {
        (ProfileType::RuntimeDefault, _) => Ok(Some(seccomp::runtime_default(
            &input.facts.arch,
            &capabilities.bounding,
        ))),
        (_, Some((path, text))) => {
            let profile = seccomp::from_file(path, text);
            Ok(Some(profile.map_err(|e| Error::invalid(format!("{e:#}")))?))
        }
        (_, None) => Err(Error::invalid(
            "linux.security_context.seccomp: localhost_ref is empty",
        )),
    }
}

/// The deprecated field: `runtime/default`, `docker/default`, `localhost/<path>`, `unconfined`.
fn from_path(path: &str) -> Result<SecurityProfile> {
    let (kind, reference) = match path {
        "runtime/default" | "docker/default" => (ProfileType::RuntimeDefault, ""),
        "" | "unconfined" => (ProfileType::Unconfined, ""),
        other => match other.strip_prefix("localhost/") {
            Some(reference) => (ProfileType::Localhost, reference),
            None => {
                return Err(Error::invalid(format!(
                    "linux.security_context.seccomp_profile_path: {other:?} is none of \
                     runtime/default, unconfined and localhost/<path>"
                )));
            }
        },
    };
    Ok(SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: reference.to_owned(),
    })
}
