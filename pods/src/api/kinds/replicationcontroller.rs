//! `ReplicationController`: the ReplicaSet of old, with a selector of plain pairs.

use serde_json::{Value, json};

use super::podspec::{self, default, object};
use super::workload;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries};
use crate::store::{Object, Selector};

/// `v1` `ReplicationController`.
pub static REPLICATION_CONTROLLER: Resource = Resource {
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    kind: "ReplicationController",
    short_names: &["rc"],
    categories: &["all"],
    has_status: true,
    has_scale: true,
    generation: true,
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
    prepare: |o| o["status"] = json!({"replicas": 0}),
    defaults,
    validate,
    ..Resource::BASE
};

fn defaults(rc: &mut Value) {
    let labels = rc["spec"]["template"]["metadata"]["labels"].clone();
    let spec = object(rc, "spec");
    default(spec, "replicas", 1);
    podspec::template(&mut spec["template"]);
    if labels.is_object() {
        default(spec, "selector", labels.clone());
        let meta = object(rc, "metadata");
        default(meta, "labels", labels);
    }
}

fn validate(rc: &Value, faults: &mut Faults) {
    let spec = &rc["spec"];
    faults.not_negative("spec.replicas", &spec["replicas"]);
    faults.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    if entries(&spec["selector"]).next().is_none() {
        faults.required("spec.selector", "");
    }
    if spec["template"].is_null() {
        return faults.required("spec.template", "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if entries(&spec["selector"]).any(|(key, value)| labels[key] != *value) {
        let detail = "`selector` does not match template `labels`";
        faults.invalid("spec.template.metadata.labels", labels, detail);
    }
    podspec::template_faults(&spec["template"], "spec.template", faults);
    workload::always(&spec["template"]["spec"], "ReplicationController", faults);
}

fn row(o: &Object) -> Vec<Value> {
    let count = |at: &str| json!(o.int_at(at).unwrap_or(0));
    let [containers, images, _] = workload::wide(o.at("/spec"));
    let selector = Selector::from_map(o.at("/spec/selector"));
    vec![
        json!(o.name()),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        json!(selector.map_or("<none>".into(), |s| s.label_string())),
    ]
}
