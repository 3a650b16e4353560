//! `ClusterRoleBinding`.

use super::role::path_segment;
use super::rolebinding::{COLUMNS, check, defaults, row, validate_update};
use crate::api::resource::Resource;

/// `rbac.authorization.k8s.io/v1` `ClusterRoleBinding`.
pub static CLUSTER_ROLE_BINDING: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    kind: "ClusterRoleBinding",
    namespaced: false,
    name_rule: path_segment,
    columns: COLUMNS,
    row,
    defaults,
    validate: |binding, faults| check(binding, &["ClusterRole"], faults),
    validate_update,
    ..Resource::BASE
};
