//! `DaemonSet`.

use serde_json::{Value, json};

use super::podspec::{self, default, object};
use super::workload;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries, text};
use crate::store::Object;

/// `apps/v1` `DaemonSet`.
pub static DAEMON_SET: Resource = Resource {
    group: "apps",
    plural: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    short_names: &["ds"],
    categories: &["all"],
    has_status: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::int("Desired"),
        Column::int("Current"),
        Column::int("Ready"),
        Column::int("Up-to-date"),
        Column::int("Available"),
        Column::text("Node Selector"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row,
    prepare: |o| {
        o["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
                             "desiredNumberScheduled": 0, "numberReady": 0});
    },
    defaults,
    validate,
    validate_update: |old, new, faults| {
        faults.immutable(
            "spec.selector",
            &old["spec"]["selector"],
            &new["spec"]["selector"],
        );
    },
    ..Resource::BASE
};

fn defaults(set: &mut Value) {
    let spec = object(set, "spec");
    default(spec, "revisionHistoryLimit", 10);
    let strategy = object(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    podspec::template(&mut spec["template"]);
}

fn validate(set: &Value, faults: &mut Faults) {
    let spec = &set["spec"];
    workload::check(spec, "DaemonSet", faults);
    let strategy = &spec["updateStrategy"];
    faults.one_of(
        "spec.updateStrategy.type",
        &strategy["type"],
        &["OnDelete", "RollingUpdate"],
    );
    if text(strategy, "type") != "RollingUpdate" {
        return;
    }
    let rolling = &strategy["rollingUpdate"];
    let none = |v: &Value| v == 0 || v == "0%";
    let path = "spec.updateStrategy.rollingUpdate";
    for field in ["maxUnavailable", "maxSurge"] {
        faults.not_negative(&format!("{path}.{field}"), &rolling[field]);
    }
    match (none(&rolling["maxUnavailable"]), none(&rolling["maxSurge"])) {
        (true, true) => faults.required(
            format!("{path}.maxUnavailable"),
            "cannot be 0 when maxSurge is 0",
        ),
        (false, false) => faults.invalid(
            format!("{path}.maxSurge"),
            &rolling["maxSurge"],
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
}

fn row(o: &Object) -> Vec<Value> {
    let count = |field: &str| json!(o.int_at(&format!("/status/{field}")).unwrap_or(0));
    let [containers, images, selector] = workload::wide(o.at("/spec"));
    let nodes: Vec<String> = entries(o.at("/spec/template/spec/nodeSelector"))
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    let nodes = if nodes.is_empty() {
        "<none>".into()
    } else {
        nodes.join(",")
    };
    vec![
        json!(o.name()),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        json!(nodes),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        selector,
    ]
}
