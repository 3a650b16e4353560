//! The registry: one file per kind.

mod configmap;
mod deployment;
mod endpoints;
mod endpointslice;
mod event;
mod namespace;
mod node;
pub mod pod;
pub mod podspec;
mod replicaset;
mod reviews;
mod secret;
mod service;
mod serviceaccount;
mod workload;

pub use configmap::CONFIG_MAP;
pub use deployment::DEPLOYMENT;
pub use endpoints::ENDPOINTS;
pub use endpointslice::ENDPOINT_SLICE;
pub use event::EVENT;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use replicaset::REPLICA_SET;
pub use reviews::{SELF_SUBJECT_ACCESS_REVIEW, SELF_SUBJECT_REVIEW, SELF_SUBJECT_RULES_REVIEW};
pub use secret::SECRET;
pub use service::SERVICE;
pub use serviceaccount::SERVICE_ACCOUNT;

use k8s_openapi::api;

use super::resource::Res;

/// Every kind served, in the order of discovery.
pub static ALL: &[Res] = &[
    &POD,
    &REPLICA_SET,
    &DEPLOYMENT,
    &SERVICE,
    &NAMESPACE,
    &CONFIG_MAP,
    &SECRET,
    &EVENT,
    &NODE,
    &ENDPOINT_SLICE,
    &ENDPOINTS,
    &SERVICE_ACCOUNT,
];

/// Kinds that are asked and not kept.
pub static REVIEWS: &[Res] = &[
    &SELF_SUBJECT_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
];

/// Everything that has a path.
pub fn served() -> impl Iterator<Item = Res> {
    ALL.iter().chain(REVIEWS).copied()
}

/// The kind that a path names.
pub fn find(group: &str, version: &str, plural: &str) -> Option<Res> {
    served().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The kind that an object's `apiVersion` and `kind` name.
pub fn find_kind(api_version: &str, kind: &str) -> Option<Res> {
    ALL.iter()
        .copied()
        .find(|r| r.kind == kind && r.api_version() == api_version)
}

/// A type of k8s-openapi and the kind that it is.
pub trait Typed: serde::Serialize + serde::de::DeserializeOwned {
    /// The kind.
    const RESOURCE: Res;
}

macro_rules! typed {
    ($($ty:ty => $res:ident),* $(,)?) => { $(impl Typed for $ty { const RESOURCE: Res = &$res; })* };
}

typed! {
    api::core::v1::Pod => POD,
    api::apps::v1::ReplicaSet => REPLICA_SET,
    api::apps::v1::Deployment => DEPLOYMENT,
    api::core::v1::Service => SERVICE,
    api::core::v1::Namespace => NAMESPACE,
    api::core::v1::ConfigMap => CONFIG_MAP,
    api::core::v1::Secret => SECRET,
    api::core::v1::Event => EVENT,
    api::core::v1::Node => NODE,
    api::discovery::v1::EndpointSlice => ENDPOINT_SLICE,
    api::core::v1::Endpoints => ENDPOINTS,
    api::core::v1::ServiceAccount => SERVICE_ACCOUNT,
}
