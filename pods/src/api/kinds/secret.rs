//! `Secret`.

use crate::api::resource::Resource;

/// `v1` `Secret`.
pub static SECRET: Resource = Resource {
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    fields: &["type"],
    ..Resource::BASE
};
