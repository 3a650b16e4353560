//! `PodMetrics` and `NodeMetrics`: measured when asked for, and kept nowhere.

use crate::api::resource::Resource;

const METRICS: Resource = Resource {
    group: "metrics.k8s.io",
    version: "v1beta1",
    measured: true,
    ..Resource::BASE
};

/// `metrics.k8s.io/v1beta1` `PodMetrics`.
pub static POD_METRICS: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "PodMetrics",
    ..METRICS
};

/// `metrics.k8s.io/v1beta1` `NodeMetrics`.
pub static NODE_METRICS: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "NodeMetrics",
    namespaced: false,
    ..METRICS
};
