//! `RuntimeClass`.

use serde_json::{Value, json};

use super::podspec::toleration;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries, items, meta, names, text};
use crate::store::Object;

/// `node.k8s.io/v1` `RuntimeClass`.
pub static RUNTIME_CLASS: Resource = Resource {
    group: "node.k8s.io",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    kind: "RuntimeClass",
    namespaced: false,
    columns: &[
        Column::text("Name"),
        Column::text("Handler"),
        Column::text("Age"),
    ],
    row: |o: &Object| {
        vec![
            json!(o.name()),
            o.at("/handler").clone(),
            json!(age(o.at("/metadata/creationTimestamp"))),
        ]
    },
    validate,
    validate_update: |old, new, faults| {
        faults.immutable("handler", &old["handler"], &new["handler"]);
    },
    ..Resource::BASE
};

fn validate(class: &Value, faults: &mut Faults) {
    let handler = text(class, "handler");
    for wrong in names::label(handler) {
        faults.invalid_str("handler", handler, wrong);
    }
    for (name, amount) in entries(&class["overhead"]["podFixed"]) {
        let nano = amount.as_str().and_then(crate::quantity::parse_nano);
        if nano.is_some_and(|n| n < 0) {
            let detail = "must be greater than or equal to 0";
            faults.invalid(format!("overhead.podFixed[{name}]"), amount, detail);
        }
    }
    let scheduling = &class["scheduling"];
    meta::labels(
        &scheduling["nodeSelector"],
        "scheduling.nodeSelector",
        faults,
    );
    let mut seen = Vec::new();
    for (i, t) in items(&scheduling["tolerations"]) {
        let path = format!("scheduling.tolerations[{i}]");
        toleration(t, &path, faults);
        if seen.contains(&t) {
            faults.duplicate(path, t);
        }
        seen.push(t);
    }
}
