//! The registry: one file per kind, and one row of [`ALL`].
//!
//! Everything else (paths, discovery, OpenAPI, tables, selectors, garbage collection, the commands)
//! follows from the row. The shape of a kind is in `pods/schema/types.txt`.

mod capsule;
mod certificatesigningrequest;
mod clusterrole;
mod clusterrolebinding;
mod configmap;
mod controllerrevision;
mod cronjob;
mod customresourcedefinition;
mod daemonset;
mod deployment;
mod endpoints;
mod endpointslice;
mod event;
mod event_v1;
mod horizontalpodautoscaler;
mod horizontalpodautoscaler_v1;
mod ingress;
mod ingressclass;
mod job;
mod lease;
mod limitrange;
mod metrics;
mod namespace;
mod networkpolicy;
mod node;
mod persistentvolume;
mod persistentvolumeclaim;
pub mod pod;
mod poddisruptionbudget;
pub mod podspec;
mod priorityclass;
mod replicaset;
mod replicationcontroller;
mod resourcequota;
mod reviews;
mod role;
mod rolebinding;
mod runtimeclass;
mod secret;
mod service;
mod serviceaccount;
mod statefulset;
mod storageclass;
mod workload;

pub use capsule::CAPSULE;
pub use certificatesigningrequest::is as request_is;
pub use customresourcedefinition::CLEANUP;
pub use event_v1::EVENT_V1;
pub use horizontalpodautoscaler_v1::HORIZONTAL_POD_AUTOSCALER_V1;
pub use job::duration as job_duration;
pub use metrics::{NODE_METRICS, POD_METRICS};
pub use reviews::{
    LOCAL_SUBJECT_ACCESS_REVIEW, SELF_SUBJECT_ACCESS_REVIEW, SELF_SUBJECT_REVIEW,
    SELF_SUBJECT_RULES_REVIEW, SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW,
};

use k8s_openapi::api;

use super::resource::Res;

/// A type of k8s-openapi and the kind that it is.
pub trait Typed: serde::Serialize + serde::de::DeserializeOwned {
    /// The kind.
    const RESOURCE: Res;
}

macro_rules! kinds {
    ($($module:ident::$name:ident: $ty:ty,)*) => {
        $(pub use $module::$name;)*

        /// Every kind served, in the order of discovery.
        pub static ALL: &[Res] = &[$(&$name),*];

        $(impl Typed for $ty { const RESOURCE: Res = &$name; })*
    };
}

kinds! {
    pod::POD: api::core::v1::Pod,
    replicaset::REPLICA_SET: api::apps::v1::ReplicaSet,
    deployment::DEPLOYMENT: api::apps::v1::Deployment,
    service::SERVICE: api::core::v1::Service,
    namespace::NAMESPACE: api::core::v1::Namespace,
    configmap::CONFIG_MAP: api::core::v1::ConfigMap,
    secret::SECRET: api::core::v1::Secret,
    event::EVENT: api::core::v1::Event,
    node::NODE: api::core::v1::Node,
    endpointslice::ENDPOINT_SLICE: api::discovery::v1::EndpointSlice,
    endpoints::ENDPOINTS: api::core::v1::Endpoints,
    serviceaccount::SERVICE_ACCOUNT: api::core::v1::ServiceAccount,
    replicationcontroller::REPLICATION_CONTROLLER: api::core::v1::ReplicationController,
    resourcequota::RESOURCE_QUOTA: api::core::v1::ResourceQuota,
    limitrange::LIMIT_RANGE: api::core::v1::LimitRange,
    lease::LEASE: api::coordination::v1::Lease,
    statefulset::STATEFUL_SET: api::apps::v1::StatefulSet,
    daemonset::DAEMON_SET: api::apps::v1::DaemonSet,
    controllerrevision::CONTROLLER_REVISION: api::apps::v1::ControllerRevision,
    persistentvolumeclaim::PERSISTENT_VOLUME_CLAIM: api::core::v1::PersistentVolumeClaim,
    persistentvolume::PERSISTENT_VOLUME: api::core::v1::PersistentVolume,
    storageclass::STORAGE_CLASS: api::storage::v1::StorageClass,
    poddisruptionbudget::POD_DISRUPTION_BUDGET: api::policy::v1::PodDisruptionBudget,
    job::JOB: api::batch::v1::Job,
    cronjob::CRON_JOB: api::batch::v1::CronJob,
    priorityclass::PRIORITY_CLASS: api::scheduling::v1::PriorityClass,
    runtimeclass::RUNTIME_CLASS: api::node::v1::RuntimeClass,
    role::ROLE: api::rbac::v1::Role,
    rolebinding::ROLE_BINDING: api::rbac::v1::RoleBinding,
    clusterrole::CLUSTER_ROLE: api::rbac::v1::ClusterRole,
    clusterrolebinding::CLUSTER_ROLE_BINDING: api::rbac::v1::ClusterRoleBinding,
    customresourcedefinition::CUSTOM_RESOURCE_DEFINITION: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    certificatesigningrequest::CERTIFICATE_SIGNING_REQUEST: api::certificates::v1::CertificateSigningRequest,
    networkpolicy::NETWORK_POLICY: api::networking::v1::NetworkPolicy,
    ingress::INGRESS: api::networking::v1::Ingress,
    ingressclass::INGRESS_CLASS: api::networking::v1::IngressClass,
    horizontalpodautoscaler::HORIZONTAL_POD_AUTOSCALER: api::autoscaling::v2::HorizontalPodAutoscaler,
}

/// Kinds that are asked and not kept.
pub static REVIEWS: &[Res] = &[
    &SELF_SUBJECT_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
    &SUBJECT_ACCESS_REVIEW,
    &LOCAL_SUBJECT_ACCESS_REVIEW,
    &TOKEN_REVIEW,
];

/// Kinds that are measured and not kept.
pub static MEASURED: &[Res] = &[&NODE_METRICS, &POD_METRICS, &CAPSULE];

/// Kinds that show the objects of one of [`ALL`] in another version.
pub static VERSIONS: &[Res] = &[&HORIZONTAL_POD_AUTOSCALER_V1, &EVENT_V1];

/// Everything that has a path.
pub fn served() -> impl Iterator<Item = Res> {
    let asked = REVIEWS.iter().chain(MEASURED).copied();
    written().chain(asked)
}

/// Everything that objects are written to.
pub fn written() -> impl Iterator<Item = Res> {
    ALL.iter().chain(VERSIONS).copied()
}

/// The kind that a path names.
pub fn find(group: &str, version: &str, plural: &str) -> Option<Res> {
    served().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The kind that an object's `apiVersion` and `kind` name.
pub fn find_kind(api_version: &str, kind: &str) -> Option<Res> {
    written().find(|r| r.kind == kind && r.api_version() == api_version)
}
