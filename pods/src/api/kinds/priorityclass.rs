//! `PriorityClass`.

use serde_json::{Value, json};

use super::podspec::default;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, text};
use crate::store::Object;

/// The highest number that a user may give; more is for `system-` classes.
const HIGHEST: i64 = 1_000_000_000;

/// `scheduling.k8s.io/v1` `PriorityClass`.
pub static PRIORITY_CLASS: Resource = Resource {
    group: "scheduling.k8s.io",
    plural: "priorityclasses",
    singular: "priorityclass",
    kind: "PriorityClass",
    namespaced: false,
    short_names: &["pc"],
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::int("Value"),
        Column::text("Global-Default"),
        Column::text("Age"),
        Column::text("PreemptionPolicy"),
    ],
    row,
    defaults: |class| {
        default(class, "value", 0);
        default(class, "preemptionPolicy", "PreemptLowerPriority");
    },
    validate,
    validate_update,
    ..Resource::BASE
};

fn validate(class: &Value, faults: &mut Faults) {
    let (name, value) = (
        text(&class["metadata"], "name"),
        class["value"].as_i64().unwrap_or(0),
    );
    if name.starts_with("system-") {
        let own = [
            ("system-node-critical", 2_000_001_000),
            ("system-cluster-critical", 2_000_000_000),
        ];
        if !own.contains(&(name, value)) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: only the system's own classes may have such a name";
            faults.forbidden("metadata.name", detail);
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        faults.forbidden("value", detail);
    }
    faults.one_of(
        "preemptionPolicy",
        &class["preemptionPolicy"],
        &["Never", "PreemptLowerPriority"],
    );
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    if old["value"] != new["value"] {
        faults.forbidden("value", "may not be changed in an update.");
    }
    faults.immutable(
        "preemptionPolicy",
        &old["preemptionPolicy"],
        &new["preemptionPolicy"],
    );
}

fn row(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        json!(o.int_at("/value").unwrap_or(0)),
        json!((o.at("/globalDefault") == true).to_string()),
        json!(age(o.at("/metadata/creationTimestamp"))),
        o.at("/preemptionPolicy").clone(),
    ]
}
