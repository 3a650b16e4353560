//! `RoleBinding`, and what it shares with `ClusterRoleBinding`.

use serde_json::{Value, json};

use super::podspec::default;
use super::role::path_segment;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, text};
use crate::store::Object;

/// API group of roles, users and groups.
const RBAC: &str = "rbac.authorization.k8s.io";

/// `rbac.authorization.k8s.io/v1` `RoleBinding`.
pub static ROLE_BINDING: Resource = Resource {
    group: RBAC,
    plural: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    name_rule: path_segment,
    columns: COLUMNS,
    row,
    defaults,
    validate: |binding, faults| check(binding, &["ClusterRole", "Role"], faults),
    validate_update,
    ..Resource::BASE
};

pub(super) const COLUMNS: &[Column] = &[
    Column::text("Name"),
    Column::text("Role"),
    Column::text("Age"),
];

pub(super) fn row(o: &Object) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        o.str_at("/roleRef/kind"),
        o.str_at("/roleRef/name")
    );
    let at = age(o.at("/metadata/creationTimestamp"));
    vec![json!(o.name()), json!(role), json!(at)]
}

pub(super) fn defaults(binding: &mut Value) {
    if binding["roleRef"].is_object() {
        default(&mut binding["roleRef"], "apiGroup", RBAC);
    }
    for subject in binding["subjects"].as_array_mut().into_iter().flatten() {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default(subject, "apiGroup", RBAC);
        }
    }
}

pub(super) fn check(binding: &Value, kinds: &[&str], faults: &mut Faults) {
    let role = &binding["roleRef"];
    if text(role, "apiGroup") != RBAC {
        faults.unsupported("roleRef.apiGroup", text(role, "apiGroup"), &[RBAC]);
    }
    if !kinds.contains(&text(role, "kind")) {
        faults.unsupported("roleRef.kind", text(role, "kind"), kinds);
    }
    if text(role, "name").is_empty() {
        faults.required("roleRef.name", "");
    }
    for (i, subject) in items(&binding["subjects"]) {
        let path = format!("subjects[{i}]");
        if text(subject, "name").is_empty() {
            faults.required(format!("{path}.name"), "");
        }
        let known = ["ServiceAccount", "User", "Group"];
        match text(subject, "kind") {
            "ServiceAccount" => {
                let cluster = kinds.len() == 1;
                if cluster && text(subject, "namespace").is_empty() {
                    faults.required(format!("{path}.namespace"), "");
                }
            }
            "User" | "Group" => {}
            other => faults.unsupported(format!("{path}.kind"), other, &known),
        }
    }
}

pub(super) fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    if old["roleRef"] != new["roleRef"] {
        faults.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
    }
}
