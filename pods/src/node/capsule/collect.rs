//! What a capsule is made of.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rrun_cri_api::v1::ContainerStatus;
use serde_json::{Value, json};

use super::layer;
use crate::node::history::Point;
use crate::node::memory::{every_container, nanos};
use crate::node::{names, runtime};

/// Bytes and lines of the end of the log.
const LOG: u64 = 32 << 10;
const LINES: usize = 200;

/// A run of a container that failed.
pub struct Failed<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// What the runtime says of it.
    pub status: &'a ContainerStatus,
    /// What it used last, the oldest first.
    pub usage: &'a [Point],
    /// Its writable layer, where the runtime tells.
    pub layer: Option<PathBuf>,
}

/// Makes the capsule. What cannot be had is not in it, and the capsule says why.
pub fn collect(failed: &Failed<'_>) -> Value {
    let (pod, status) = (failed.pod, failed.status);
    let (name, id) = (runtime::name_of(status), &status.id);
    let restarts = runtime::restarts(status);
    let meta = &pod.metadata;
    let pod_name = meta.name.as_deref().unwrap_or_default();
    let own = format!("{pod_name}.{name}.{restarts}.{}", &id[..id.len().min(8)]);
    let container = every_container(pod).into_iter().find(|c| c.name == name);
    let signal = (129..=192)
        .contains(&status.exit_code)
        .then(|| status.exit_code - 128);
    let oom = status.reason == "OOMKilled";
    let mut capsule = json!({
        "apiVersion": "rrun.io/v1", "kind": "Capsule",
        "metadata": {"name": own, "namespace": meta.namespace, "uid": id,
            "creationTimestamp": nanos(status.finished_at), "labels": meta.labels},
        "pod": {"name": pod_name, "uid": names::uid(pod)},
        "container": name, "restarts": restarts, "image": container.as_ref().and_then(|c| c.image.clone()),
        "startedAt": nanos(status.started_at), "finishedAt": nanos(status.finished_at),
        "exitCode": status.exit_code, "signal": signal, "reason": status.reason,
        "message": status.message, "oomKilled": oom,
        "resources": container.and_then(|c| c.resources),
        "usage": failed.usage,
    });
    match log_end(Path::new(&status.log_path)) {
        Ok((lines, more)) => {
            capsule["log"] = json!(lines);
            capsule["logTruncated"] = json!(more);
        }
        Err(why) => capsule["logError"] = json!(format!("{}: {why}", status.log_path)),
    }
    let listed = failed.layer.as_deref().map(layer::changes);
    match listed {
        Some(Ok((files, more))) => {
            capsule["files"] = json!(files);
            capsule["filesTruncated"] = json!(more);
        }
        Some(Err(why)) => capsule["filesError"] = json!(why.to_string()),
        None => capsule["filesError"] = json!("the runtime does not tell the writable layer"),
    }
    capsule
}

/// The last lines of a log in the CRI's format, and whether there are more before them.
fn log_end(path: &Path) -> std::io::Result<(Vec<String>, bool)> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(LOG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if skipped > 0 && !lines.is_empty() {
        // Where it was cut is no beginning.
        lines.remove(0);
    }
    let surplus = lines.len().saturating_sub(LINES);
    lines.drain(..surplus);
    Ok((lines, skipped > 0 || surplus > 0))
}

/// The writable layer out of what the runtime tells of a container beside its status: the mount of
/// `/` in its OCI specification.
pub fn layer_of(info: &str) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info).ok()?;
    let mounts = info["runtimeSpec"]["mounts"].as_array()?;
    let root = mounts.iter().find(|m| m["destination"] == "/")?;
    let mut options = root["options"].as_array()?.iter().filter_map(Value::as_str);
    let upper = options.find_map(|o| o.strip_prefix("upperdir="))?;
    let upper = PathBuf::from(upper);
    upper.is_absolute().then_some(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capsule_says_what_it_has_and_what_it_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let line = |n: usize| format!("2026-01-01T00:00:00Z stdout F line {n}\n");
        std::fs::write(&log, (0..1000).map(line).collect::<String>()).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "8Mi"}}}]}})).unwrap();
        let status = ContainerStatus {
            id: "0123456789abcdef".into(),
            exit_code: 137,
            reason: "OOMKilled".into(),
            log_path: log.display().to_string(),
            labels: [(names::CONTAINER_NAME.to_owned(), "c".to_owned())].into(),
            ..ContainerStatus::default()
        };
        let failed = Failed {
            pod: &pod,
            status: &status,
            usage: &[],
            layer: None,
        };
        let capsule = collect(&failed);
        assert_eq!(capsule["metadata"]["name"], "web.c.0.01234567");
        assert_eq!(
            (&capsule["signal"], &capsule["oomKilled"]),
            (&json!(9), &json!(true))
        );
        assert_eq!(capsule["resources"]["limits"]["memory"], "8Mi");
        let lines = capsule["log"].as_array().unwrap();
        assert_eq!(
            (lines.len(), &capsule["logTruncated"]),
            (LINES, &json!(true))
        );
        assert!(
            lines
                .last()
                .unwrap()
                .as_str()
                .unwrap()
                .ends_with("line 999")
        );
        assert!(capsule["filesError"].is_string() && capsule["files"].is_null());
    }

    #[test]
    fn the_writable_layer_is_the_mount_of_the_root() {
        let info = json!({"runtimeSpec": {"mounts": [{"destination": "/proc"},
            {"destination": "/", "options": ["lowerdir=/l", "upperdir=/u/up", "workdir=/w"]}]}});
        assert_eq!(layer_of(&info.to_string()), Some("/u/up".into()));
        assert_eq!(layer_of("{}"), None);
    }
}
