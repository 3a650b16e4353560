//! `ClusterRole`.

use super::role::{COLUMNS, path_segment, row, rule_faults};
use crate::api::resource::Resource;
use crate::api::validate::items;

/// `rbac.authorization.k8s.io/v1` `ClusterRole`.
pub static CLUSTER_ROLE: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    plural: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    namespaced: false,
    name_rule: path_segment,
    columns: COLUMNS,
    row,
    validate: |role, faults| {
        for (i, rule) in items(&role["rules"]) {
            rule_faults(rule, false, &format!("rules[{i}]"), faults);
        }
        let aggregation = &role["aggregationRule"];
        let none = items(&aggregation["clusterRoleSelectors"]).next().is_none();
        if !aggregation.is_null() && none {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            faults.required("aggregationRule.clusterRoleSelectors", why);
        }
    },
    ..Resource::BASE
};
