//! What a status tells with `verbose`: JSON under `info`, for people and for the scripts that read
//! `crictl inspect`, `inspectp` and `inspecti`. Names that containerd or CRI-O have mean the same here.

use rrun_images::Image;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::sandbox;
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord};

/// Of a container.
pub(super) fn container(daemon: &Daemon, record: &ContainerRecord) -> String {
    let spec = crate::container::read_spec(daemon, &record.id).ok();
    json!({
        "sandboxID": record.sandbox_id, "pid": record.pid, "phase": record.phase().to_string(),
        "bundle": daemon.config.bundle_dir(&record.id),
        "directory": daemon.config.container_dir(&record.id),
        "shim": record.shim_address, "runtimeSpec": spec,
    })
    .to_string()
}

/// Of a sandbox. `pid` is a process in the pod's namespaces (0 without one): there is no pause process.
pub(super) fn sandbox(daemon: &Daemon, record: &SandboxRecord) -> String {
    let dir = daemon.config.sandbox_dir(&record.id);
    let containers = daemon.containers_of(&record.id);
    let running = containers
        .iter()
        .map(|entry| entry.get())
        .find(|c| c.phase() == ContainerPhase::Running);
    let pid = sandbox::init::pid(&dir).or_else(|| Some(running?.pid));
    let net = sandbox::pin(&dir, "net");
    json!({
        "phase": record.phase().to_string(), "directory": dir, "pid": pid.unwrap_or(0),
        "networkNamespace": net, "netNamespaceClosed": !sandbox::namespaces::is_pinned(&dir, "net"),
        "ips": record.ips, "cgroupParent": record.cgroup_parent,
        "runtimeHandler": record.runtime_handler, "runtimeSpec": spec(&dir, record),
    })
    .to_string()
}

/// What the pod's containers share, in the words of a config.json.
fn spec(dir: &std::path::Path, record: &SandboxRecord) -> Value {
    let config = record.config();
    let kinds = [
        ("net", "network"),
        ("uts", "uts"),
        ("ipc", "ipc"),
        ("pid", "pid"),
        ("user", "user"),
    ];
    let namespaces = kinds
        .iter()
        .filter(|(pin, _)| sandbox::namespaces::is_pinned(dir, pin))
        .map(|(pin, kind)| json!({"type": kind, "path": sandbox::pin(dir, pin)}));
    let sysctls = config.linux.as_ref().map(|linux| &linux.sysctls);
    json!({
        "hostname": config.hostname, "annotations": config.annotations,
        "linux": {
            "namespaces": namespaces.collect::<Value>(), "sysctl": sysctls,
            "cgroupsPath": record.cgroup_parent,
        },
    })
}

/// Of an image: what the store knows, and its configuration in the words of the image-spec.
pub(super) fn image(image: &Image) -> serde_json::Result<String> {
    let mut info = serde_json::to_value(image)?;
    let config = &image.config;
    info["chainID"] = json!(image.layers.last().map(|layer| layer.chain_id.to_string()));
    info["imageSpec"] = json!({
        "created": image.created, "architecture": image.platform.architecture,
        "os": image.platform.os,
        "config": {
            "User": config.user, "ExposedPorts": set(&config.exposed_ports), "Env": config.env,
            "Entrypoint": config.entrypoint, "Cmd": config.cmd, "Volumes": set(&config.volumes),
            "WorkingDir": config.working_dir, "Labels": config.labels,
            "StopSignal": config.stop_signal,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": image.layers.iter().map(|l| l.diff_id.to_string()).collect::<Vec<_>>(),
        },
        "history": image.history,
    });
    Ok(info.to_string())
}

/// The image-spec has sets as objects whose values are empty.
fn set(items: &[String]) -> Value {
    items.iter().map(|item| (item.clone(), json!({}))).collect()
}
