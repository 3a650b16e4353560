//! The labels and annotations by which containers are found again (the kubelet's names).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::controllers::objects::short_hash;

/// Label with the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label with the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label with the container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation with the hash of what a container was made of.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation that counts restarts.
pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
/// Annotation with the path of the termination message inside the container.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation with the policy of the termination message.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation with the file on the host that holds the termination message.
pub const MESSAGE_FILE: &str = "rrun.io/termination-message-file";

/// The hash by which a changed container is told. Image and name are all that a running pod can
/// change about a container without a restart of its own.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    short_hash(&format!("{}\n{image}", container.name))
}

/// `namespace/name`.
pub fn pod_key(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

/// The pod's uid.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The labels that every sandbox and container of the pod bears.
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let meta = &pod.metadata;
    let pairs = [
        (POD_NAME, &meta.name),
        (POD_NAMESPACE, &meta.namespace),
        (POD_UID, &meta.uid),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
        .collect()
}

/// A sorted map as the unsorted one of protobuf messages.
pub fn unsorted(map: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    map.into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
