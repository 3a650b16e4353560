//! `Pod`.

use crate::api::resource::Resource;

/// `v1` `Pod`.
pub static POD: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    has_status: true,
    ..Resource::BASE
};
