//! How a pod is run: the runtime's name for it, by the pod's RuntimeClass.

use k8s_openapi::api::core::v1::Pod;

use super::memory::Failure;
use super::run::{Shared, failure};
use crate::api::kinds;

impl Shared {
    /// The runtime's name for how the pod is run: what its RuntimeClass says.
    pub(super) fn handler(&self, pod: &Pod) -> Result<String, Failure> {
        let spec = pod.spec.as_ref();
        let named = spec.and_then(|s| s.runtime_class_name.as_deref());
        let Some(named) = named.filter(|n| !n.is_empty()) else {
            return Ok(self.runtime_handler.clone());
        };
        let found = self.client.find(&kinds::RUNTIME_CLASS, "", named);
        let missing = || {
            failure(
                "FailedCreatePodSandBox",
                format!(
                    "Failed to create pod sandbox: failed to get sandbox runtime: runtimeclass.node.k8s.io {named:?} not found"
                ),
            )
        };
        Ok(found.ok_or_else(missing)?.str_at("/handler").to_owned())
    }
}
