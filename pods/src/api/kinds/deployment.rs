//! `Deployment`.

use crate::api::resource::Resource;

/// `apps/v1` `Deployment`.
pub static DEPLOYMENT: Resource = Resource {
    group: "apps",
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    categories: &["all"],
    has_status: true,
    has_scale: true,
    ..Resource::BASE
};
