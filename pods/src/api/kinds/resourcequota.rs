//! `ResourceQuota`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries, items, text};
use crate::quantity::parse_nano;
use crate::store::Object;

/// `v1` `ResourceQuota`.
pub static RESOURCE_QUOTA: Resource = Resource {
    plural: "resourcequotas",
    singular: "resourcequota",
    kind: "ResourceQuota",
    short_names: &["quota"],
    has_status: true,
    columns: &[
        Column::text("Name"),
        Column::text("Request"),
        Column::text("Limit"),
        Column::text("Age"),
    ],
    row,
    validate,
    ..Resource::BASE
};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
];

fn validate(quota: &Value, faults: &mut Faults) {
    for (name, amount) in entries(&quota["spec"]["hard"]) {
        let path = format!("spec.hard[{name}]");
        match amount.as_str().map(parse_nano) {
            Some(Some(n)) if n < 0 => {
                faults.invalid(path, amount, "must be greater than or equal to 0");
            }
            Some(Some(n)) if counted(name) && n % 1_000_000_000 != 0 => {
                faults.invalid(path, amount, "must be an integer");
            }
            _ => {}
        }
    }
    for (i, scope) in items(&quota["spec"]["scopes"]) {
        faults.one_of(&format!("spec.scopes[{i}]"), scope, SCOPES);
    }
    for (i, e) in items(&quota["spec"]["scopeSelector"]["matchExpressions"]) {
        let path = format!("spec.scopeSelector.matchExpressions[{i}]");
        faults.one_of(&format!("{path}.scopeName"), &e["scopeName"], SCOPES);
        let known = ["In", "NotIn", "Exists", "DoesNotExist"];
        faults.one_of(&format!("{path}.operator"), &e["operator"], &known);
        let listed = items(&e["values"]).next().is_some();
        if matches!(text(e, "operator"), "In" | "NotIn") && !listed {
            let detail =
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            faults.required(format!("{path}.values"), detail);
        }
    }
}

/// Whether the name counts objects.
fn counted(name: &str) -> bool {
    name.starts_with("count/")
        || (!name.contains("cpu") && !name.contains("memory") && !name.contains("storage"))
}

fn row(o: &Object) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in entries(o.at("/status/hard")) {
        let used = text(o.at("/status/used"), name);
        let used = if used.is_empty() { "0" } else { used };
        let cell = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
        if name.starts_with("limits.") {
            limits.push(cell);
        } else {
            requests.push(cell);
        }
    }
    vec![
        json!(o.name()),
        json!(requests.join(", ")),
        json!(limits.join(", ")),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
