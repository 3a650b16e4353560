//! `Service`.

use crate::api::resource::Resource;

/// `v1` `Service`.
pub static SERVICE: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    categories: &["all"],
    has_status: true,
    fields: &["spec.clusterIP", "spec.type"],
    returns_deleted: true,
    ..Resource::BASE
};
