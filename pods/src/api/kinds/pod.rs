//! `Pod`.

use crate::api::resource::{Resource, Subresource};

/// `v1` `Pod`.
pub static POD: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    has_status: true,
    returns_deleted: true,
    extra: &[
        Subresource::of("attach", &["create", "get"], "", "v1", "PodAttachOptions"),
        Subresource::of("binding", &["create"], "", "v1", "Binding"),
        Subresource::of("eviction", &["create"], "policy", "v1", "Eviction"),
        Subresource::of("exec", &["create", "get"], "", "v1", "PodExecOptions"),
        Subresource::own("log", &["get"]),
        Subresource::of(
            "portforward",
            &["create", "get"],
            "",
            "v1",
            "PodPortForwardOptions",
        ),
    ],
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    ..Resource::BASE
};
