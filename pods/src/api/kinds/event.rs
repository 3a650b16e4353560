//! `Event`.

use crate::api::resource::Resource;

/// `v1` `Event`.
pub static EVENT: Resource = Resource {
    plural: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    // In memory only: a machine at rest writes nothing.
    durable: false,
    ..Resource::BASE
};
