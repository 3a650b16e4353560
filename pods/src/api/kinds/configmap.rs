//! `ConfigMap`.

use crate::api::resource::Resource;

/// `v1` `ConfigMap`.
pub static CONFIG_MAP: Resource = Resource {
    plural: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    ..Resource::BASE
};
