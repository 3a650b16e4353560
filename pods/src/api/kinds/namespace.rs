//! `Namespace`.

use serde_json::{Value, json};

use crate::api::resource::{Resource, Subresource};
use crate::api::table::{Column, age};
use crate::api::validate::names;
use crate::store::Object;

/// `v1` `Namespace`.
pub static NAMESPACE: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    namespaced: false,
    short_names: &["ns"],
    has_status: true,
    extra: &[Subresource::own("finalize", &["update"])],
    fields: &["status.phase"],
    columns: &[
        Column::text("Name"),
        Column::text("Status"),
        Column::text("Age"),
    ],
    row,
    name_rule: names::label,
    prepare,
    defaults,
    ..Resource::BASE
};

fn prepare(ns: &mut Value) {
    ns["status"] = json!({"phase": "Active"});
    let finalizers = ns["spec"]["finalizers"].as_array();
    if finalizers.is_none_or(|f| !f.contains(&json!("kubernetes"))) {
        ns["spec"] = json!({"finalizers": ["kubernetes"]});
    }
}

/// Selectors of NetworkPolicies and the like name a namespace by this label.
fn defaults(ns: &mut Value) {
    let name = ns["metadata"]["name"].clone();
    if name.as_str().is_some_and(|n| !n.is_empty()) {
        ns["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    }
}

fn row(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        json!(o.str_at("/status/phase")),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
