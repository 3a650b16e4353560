//! `Node`.

use crate::api::resource::Resource;

/// `v1` `Node`.
pub static NODE: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    namespaced: false,
    short_names: &["no"],
    has_status: true,
    fields: &["spec.unschedulable"],
    ..Resource::BASE
};
