//! `Namespace`.

use crate::api::resource::Resource;

/// `v1` `Namespace`.
pub static NAMESPACE: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    namespaced: false,
    short_names: &["ns"],
    has_status: true,
    fields: &["status.phase"],
    ..Resource::BASE
};
