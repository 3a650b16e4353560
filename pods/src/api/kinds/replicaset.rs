//! `ReplicaSet`.

use crate::api::resource::Resource;

/// `apps/v1` `ReplicaSet`.
pub static REPLICA_SET: Resource = Resource {
    group: "apps",
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    categories: &["all"],
    has_status: true,
    has_scale: true,
    fields: &["status.replicas"],
    ..Resource::BASE
};
