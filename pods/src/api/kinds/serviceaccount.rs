//! `ServiceAccount`.

use crate::api::resource::Resource;

/// `v1` `ServiceAccount`.
pub static SERVICE_ACCOUNT: Resource = Resource {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    returns_deleted: true,
    ..Resource::BASE
};
