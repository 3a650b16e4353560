//! `ReplicaSet`.

use serde_json::{Value, json};

use super::podspec::{self, default, object};
use super::workload;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::Faults;
use crate::store::Object;

/// `apps/v1` `ReplicaSet`.
pub static REPLICA_SET: Resource = Resource {
    group: "apps",
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    categories: &["all"],
    has_status: true,
    generation: true,
    has_scale: true,
    fields: &["status.replicas"],
    columns: &[
        Column::text("Name"),
        Column::int("Desired"),
        Column::int("Current"),
        Column::int("Ready"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row,
    prepare,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn prepare(set: &mut Value) {
    set["status"] = json!({"replicas": 0});
}

fn defaults(set: &mut Value) {
    let spec = object(set, "spec");
    default(spec, "replicas", 1);
    podspec::template(&mut spec["template"]);
}

fn validate(set: &Value, faults: &mut Faults) {
    workload::check(&set["spec"], "ReplicaSet", faults);
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    faults.immutable(
        "spec.selector",
        &old["spec"]["selector"],
        &new["spec"]["selector"],
    );
}

fn row(o: &Object) -> Vec<Value> {
    let count = |at: &str| json!(o.int_at(at).unwrap_or(0));
    let [containers, images, selector] = workload::wide(o.at("/spec"));
    vec![
        json!(o.name()),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        selector,
    ]
}
