//! ConfigMaps and Secrets as the node agent reads them, and fields of the pod itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use crate::quantity;
use crate::resources::Resources;

/// What a pod's environment and volumes are made of, beside the pod.
pub trait Sources {
    /// A ConfigMap of the pod's namespace.
    fn config_map(&self, name: &str) -> Option<ConfigMap>;
    /// A Secret of the pod's namespace.
    fn secret(&self, name: &str) -> Option<Secret>;
    /// A token of the pod's ServiceAccount for an audience (empty: the API) that lasts so many
    /// seconds.
    fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String>;
}

/// The data of a ConfigMap, text and binary.
pub fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten();
    let text = text.map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten();
    text.chain(binary.map(|(k, v)| (k.clone(), v.0.clone())))
        .collect()
}

/// The data of a Secret.
pub fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let data = secret.data.iter().flatten();
    data.map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// Facts of the running pod that fields can refer to.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's address.
    pub host_ip: String,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node can give, for limits that are not set.
    pub allocatable: Resources,
}

/// The value of a `fieldRef` path; `None` where the path is not one.
pub fn field(pod: &Pod, facts: &Facts, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Some(value.cloned().unwrap_or_default());
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Some(pairs(meta.labels.as_ref())),
        "metadata.annotations" => Some(pairs(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => {
            let name = spec.and_then(|s| s.service_account_name.clone());
            Some(name.unwrap_or_else(|| "default".to_owned()))
        }
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        _ => {
            let (kind, key) = path.strip_suffix("']")?.split_once("['")?;
            match kind {
                "metadata.labels" => text(meta.labels.as_ref().and_then(|l| l.get(key))),
                "metadata.annotations" => text(meta.annotations.as_ref().and_then(|a| a.get(key))),
                _ => None,
            }
        }
    }
}

/// `key="value"` lines, the value quoted as Go quotes it.
fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| {
        let quoted = serde_json::to_string(v).unwrap_or_default();
        format!("{k}={quoted}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
pub fn resource(
    container: &Container,
    facts: &Facts,
    name: &str,
    divisor: Option<&str>,
) -> Option<String> {
    let (kind, resource) = name.split_once('.')?;
    let own = container.resources.as_ref();
    let list = match kind {
        "limits" => own.and_then(|r| r.limits.as_ref()),
        "requests" => own.and_then(|r| r.requests.as_ref()),
        _ => return None,
    };
    let amount = match list.and_then(|l| l.get(resource)) {
        Some(amount) => quantity::parse_nano(&amount.0)?,
        // A limit that is not set is what the node has.
        None if kind == "limits" => match resource {
            "cpu" => i128::from(facts.allocatable.milli_cpu) * 1_000_000,
            "memory" => i128::from(facts.allocatable.memory) * 1_000_000_000,
            "ephemeral-storage" => i128::from(facts.allocatable.storage) * 1_000_000_000,
            _ => 0,
        },
        None => 0,
    };
    let divisor = match divisor {
        None | Some("" | "0") => 1_000_000_000,
        Some(text) => quantity::parse_nano(text).filter(|n| *n > 0)?,
    };
    let whole = amount / divisor + i128::from(amount % divisor != 0);
    Some(whole.to_string())
}
