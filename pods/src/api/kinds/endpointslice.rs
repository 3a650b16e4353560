//! `EndpointSlice`.

use crate::api::resource::Resource;

/// `discovery.k8s.io/v1` `EndpointSlice`.
pub static ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    ..Resource::BASE
};
