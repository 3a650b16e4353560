//! What a pod takes of the node's disk, and whether that is more than it may.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rrun_cri_api::v1 as cri;
use serde_json::Value;

use super::Holds;
use crate::node::dirs::Dirs;
use crate::node::du;
use crate::node::names::{CONTAINER_NAME, POD_UID, uid};
use crate::quantity;
use crate::resources::pod_limits;
use crate::store::Object;

/// Bytes that a pod has on the disk, or in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// By `emptyDir` on the disk.
    pub volumes: HashMap<String, u64>,
    /// By container: its writable layer and its logs.
    pub containers: HashMap<String, u64>,
}

impl Taken {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.volumes.values().chain(self.containers.values()).sum()
    }
}

/// The writable layers of containers, by uid of the pod and name.
pub type Layers = HashMap<(String, String), u64>;

/// Reads the writable layers out of what the runtime measured.
pub fn layers(stats: Vec<cri::ContainerStats>) -> Layers {
    let mut all = Layers::new();
    for stats in stats {
        let Some(about) = stats.attributes else {
            continue;
        };
        let used = stats.writable_layer.and_then(|l| l.used_bytes);
        let label = |key: &str| about.labels.get(key).cloned().unwrap_or_default();
        let key = (label(POD_UID), label(CONTAINER_NAME));
        *all.entry(key).or_default() += used.map_or(0, |u| u.value);
    }
    all
}

/// Reads the memory of containers out of what the runtime measured, by uid of the pod.
pub fn memory(stats: Vec<cri::ContainerStats>) -> HashMap<String, Taken> {
    let mut all: HashMap<String, Taken> = HashMap::new();
    for stats in stats {
        let amount = stats.memory.and_then(|m| m.working_set_bytes);
        let (Some(about), Some(amount)) = (stats.attributes, amount) else {
            continue;
        };
        let label = |key: &str| about.labels.get(key).cloned().unwrap_or_default();
        let taken = all.entry(label(POD_UID)).or_default();
        *taken.containers.entry(label(CONTAINER_NAME)).or_default() += amount.value;
    }
    all
}

/// An `emptyDir` on the disk, with its volume's name.
fn on_disk(spec: &PodSpec) -> impl Iterator<Item = (&str, &EmptyDirVolumeSource)> {
    let all = spec.volumes.iter().flatten();
    all.filter_map(|v| Some((v.name.as_str(), v.empty_dir.as_ref()?)))
        .filter(|(_, dir)| dir.medium.as_deref() != Some("Memory"))
}

/// Measures what a pod has of what a file system holds.
pub fn measure(pod: &Pod, dirs: &Dirs, layers: &Layers, holds: Holds) -> Taken {
    let mut taken = Taken::default();
    let Some(spec) = &pod.spec else { return taken };
    let usage = |dir: &Path| if holds.volumes { du::usage(dir) } else { 0 };
    for (name, _) in on_disk(spec) {
        let used = usage(&dirs.volume(uid(pod), "empty-dir", name));
        taken.volumes.insert(name.to_owned(), used);
    }
    let logs = dirs.logs(pod);
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        let name = &container.name;
        let layer = layers.get(&(uid(pod).to_owned(), name.clone()));
        let layer = layer.filter(|_| holds.layers);
        let used = usage(&logs.join(name)) + layer.copied().unwrap_or(0);
        taken.containers.insert(name.clone(), used);
    }
    taken
}

/// Whether a stored pod has a limit of its own that has to be looked after.
pub fn is_limited(pod: &Object) -> bool {
    let any = |path: &str, has: fn(&Value) -> bool| {
        let all = pod.at(path).as_array();
        all.into_iter().flatten().any(has)
    };
    any("/spec/volumes", |v| v["emptyDir"]["sizeLimit"].is_string())
        || any("/spec/containers", |c| {
            c["resources"]["limits"]["ephemeral-storage"].is_string()
        })
}

/// Why the pod has to go for what it took, in the kubelet's words.
pub fn excess(pod: &Pod, taken: &Taken) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for (name, dir) in on_disk(spec) {
        let limit = dir.size_limit.as_ref();
        let used = taken.volumes.get(name).copied().unwrap_or(0);
        if limit.and_then(bytes).is_some_and(|limit| used > limit) {
            let limit = limit.map_or("", |q| q.0.as_str());
            return Some(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
            ));
        }
    }
    let whole = u64::try_from(pod_limits(spec).storage).unwrap_or(0);
    if whole > 0 && taken.total() > whole {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            quantity::format_nano(i128::from(whole) * 1_000_000_000, "storage")
        ));
    }
    spec.containers.iter().find_map(|container| {
        let limit = storage_limit(container)?;
        let used = taken.containers.get(&container.name).copied().unwrap_or(0);
        (used > bytes(limit)?).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit \"{}\". ",
                container.name, limit.0
            )
        })
    })
}

fn storage_limit(container: &k8s_openapi::api::core::v1::Container) -> Option<&Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage")
}

/// Bytes of a limit; none where it is no limit.
fn bytes(limit: &Quantity) -> Option<u64> {
    let bytes = quantity::value(limit)?;
    u64::try_from(bytes).ok().filter(|b| *b > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "100"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "2Ki"}}}],
            "volumes": [{"name": "small", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "free", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}}]}}))
        .unwrap()
    }

    fn told(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Option<String> {
        let map = |all: &[(&str, u64)]| all.iter().map(|(n, u)| ((*n).to_owned(), *u)).collect();
        let taken = Taken {
            volumes: map(volumes),
            containers: map(containers),
        };
        excess(&pod(), &taken)
    }

    #[test]
    fn each_limit_is_told_in_the_kubelets_words() {
        assert_eq!(told(&[("small", 1024), ("free", 900)], &[("a", 100)]), None);
        assert_eq!(
            told(&[("small", 1025)], &[]).unwrap(),
            "Usage of EmptyDir volume \"small\" exceeds the limit \"1Ki\". "
        );
        assert_eq!(
            told(&[("free", 2149)], &[]).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 2148. "
        );
        assert_eq!(
            told(&[], &[("a", 101)]).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"100\". "
        );
    }

    #[test]
    fn layers_logs_and_volumes_are_measured() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(root.path(), None);
        let pod = pod();
        let write = |dir: std::path::PathBuf| {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("x"), vec![1; 8192]).unwrap();
        };
        write(dirs.volume("u", "empty-dir", "free"));
        write(dirs.volume("u", "empty-dir", "memory"));
        write(dirs.logs(&pod).join("a"));
        let layers = Layers::from([(("u".to_owned(), "b".to_owned()), 5)]);
        let taken = measure(&pod, &dirs, &layers, Holds::ALL);
        assert!(taken.volumes["free"] >= 8192 && taken.containers["a"] >= 8192);
        assert_eq!((taken.volumes["small"], taken.containers["b"]), (0, 5));
        assert!(!taken.volumes.contains_key("memory"));
        // Of a file system with layers alone.
        let holds = Holds {
            layers: true,
            ..Holds::default()
        };
        assert_eq!(measure(&pod, &dirs, &layers, holds).total(), 5);
    }
}
