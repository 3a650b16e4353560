//! `Role`, and what it shares with `ClusterRole`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::Column;
use crate::api::validate::{Faults, items};
use crate::store::Object;

/// `rbac.authorization.k8s.io/v1` `Role`.
pub static ROLE: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    plural: "roles",
    singular: "role",
    kind: "Role",
    name_rule: path_segment,
    columns: COLUMNS,
    row,
    validate: |role, faults| {
        for (i, rule) in items(&role["rules"]) {
            rule_faults(rule, true, &format!("rules[{i}]"), faults);
        }
    },
    ..Resource::BASE
};

pub(super) const COLUMNS: &[Column] = &[Column::text("Name"), Column::text("Created At")];

pub(super) fn row(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        json!(o.str_at("/metadata/creationTimestamp")),
    ]
}

/// Names of roles and bindings may have colons: anything that is one part of a path.
pub(super) fn path_segment(name: &str) -> crate::api::validate::names::Wrong {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    let bad = ['/', '%'].into_iter().filter(|c| name.contains(*c));
    bad.map(|c| format!("may not contain '{c}'")).collect()
}

pub(super) fn rule_faults(rule: &Value, namespaced: bool, path: &str, faults: &mut Faults) {
    let empty = |field: &str| rule[field].as_array().is_none_or(Vec::is_empty);
    if empty("verbs") {
        faults.required(
            format!("{path}.verbs"),
            "verbs must contain at least one value",
        );
    }
    if !empty("nonResourceURLs") {
        let field = format!("{path}.nonResourceURLs");
        let urls = &rule["nonResourceURLs"];
        if namespaced {
            let why = "namespaced rules cannot apply to non-resource URLs";
            faults.invalid(&field, urls, why);
        }
        if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            faults.invalid(field, urls, why);
        }
        return;
    }
    if empty("apiGroups") {
        let why = "resource rules must supply at least one api group";
        faults.required(format!("{path}.apiGroups"), why);
    }
    if empty("resources") {
        let why = "resource rules must supply at least one resource";
        faults.required(format!("{path}.resources"), why);
    }
}
