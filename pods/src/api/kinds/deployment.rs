//! `Deployment`.

use serde_json::{Value, json};

use super::podspec::{self, default, object};
use super::workload;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, text};
use crate::store::Object;

/// `apps/v1` `Deployment`.
pub static DEPLOYMENT: Resource = Resource {
    group: "apps",
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    categories: &["all"],
    has_status: true,
    generation: true,
    has_scale: true,
    columns: &[
        Column::text("Name"),
        Column::text("Ready"),
        Column::int("Up-to-date"),
        Column::int("Available"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn defaults(deployment: &mut Value) {
    let spec = object(deployment, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = object(spec, "strategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    podspec::template(&mut spec["template"]);
}

fn validate(deployment: &Value, faults: &mut Faults) {
    let spec = &deployment["spec"];
    workload::check(spec, "ReplicaSet", faults);
    let deadline = &spec["progressDeadlineSeconds"];
    faults.not_negative("spec.progressDeadlineSeconds", deadline);
    if let (Some(d), Some(ready)) = (
        deadline.as_i64(),
        Some(spec["minReadySeconds"].as_i64().unwrap_or(0)),
    ) && d >= 0
        && d <= ready
    {
        faults.invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        );
    }
    let strategy = &spec["strategy"];
    faults.one_of(
        "spec.strategy.type",
        &strategy["type"],
        &["Recreate", "RollingUpdate"],
    );
    if text(strategy, "type") == "Recreate" && !strategy["rollingUpdate"].is_null() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        faults.forbidden("spec.strategy.rollingUpdate", detail);
    }
    rolling(&strategy["rollingUpdate"], faults);
}

fn rolling(rolling: &Value, faults: &mut Faults) {
    let zero = |v: &Value| v.as_i64() == Some(0) || v.as_str() == Some("0%");
    for field in ["maxUnavailable", "maxSurge"] {
        let (value, path) = (
            &rolling[field],
            format!("spec.strategy.rollingUpdate.{field}"),
        );
        faults.not_negative(&path, value);
        let Some(text) = value.as_str() else { continue };
        let percent = text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok());
        match percent {
            None => faults.invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
            Some(n) if n > 100 && field == "maxUnavailable" => {
                faults.invalid(path, value, "must not be greater than 100%");
            }
            Some(_) => {}
        }
    }
    if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let detail = "may not be 0 when `maxSurge` is 0";
        faults.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            &rolling["maxUnavailable"],
            detail,
        );
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    faults.immutable(
        "spec.selector",
        &old["spec"]["selector"],
        &new["spec"]["selector"],
    );
}

fn row(o: &Object) -> Vec<Value> {
    let count = |at: &str| o.int_at(at).unwrap_or(0);
    let [containers, images, selector] = workload::wide(o.at("/spec"));
    vec![
        json!(o.name()),
        json!(format!(
            "{}/{}",
            count("/status/readyReplicas"),
            count("/spec/replicas")
        )),
        json!(count("/status/updatedReplicas")),
        json!(count("/status/availableReplicas")),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        selector,
    ]
}
