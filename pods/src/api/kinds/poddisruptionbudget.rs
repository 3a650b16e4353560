//! `PodDisruptionBudget`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, meta};
use crate::store::Object;

/// `policy/v1` `PodDisruptionBudget`.
pub static POD_DISRUPTION_BUDGET: Resource = Resource {
    group: "policy",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    kind: "PodDisruptionBudget",
    short_names: &["pdb"],
    has_status: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Min Available"),
        Column::text("Max Unavailable"),
        Column::int("Allowed Disruptions"),
        Column::text("Age"),
    ],
    row,
    // Nothing may be disrupted before it was counted.
    prepare: |o| {
        o["status"] = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    },
    validate,
    ..Resource::BASE
};

fn validate(budget: &Value, faults: &mut Faults) {
    let spec = &budget["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        faults.invalid(
            "spec",
            spec,
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let path = format!("spec.{field}");
        faults.not_negative(&path, &spec[field]);
        let Some(text) = spec[field].as_str() else {
            continue;
        };
        match text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()) {
            None => faults.invalid(path, &spec[field], "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
            Some(n) if n > 100 => faults.invalid(path, &spec[field], "must not be greater than 100%"),
            Some(_) => {}
        }
    }
    faults.one_of(
        "spec.unhealthyPodEvictionPolicy",
        &spec["unhealthyPodEvictionPolicy"],
        &["AlwaysAllow", "IfHealthyBudget"],
    );
    meta::selector(&spec["selector"], "spec.selector", faults);
}

fn row(o: &Object) -> Vec<Value> {
    let or_none = |at: &str| match o.at(at) {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    vec![
        json!(o.name()),
        json!(or_none("/spec/minAvailable")),
        json!(or_none("/spec/maxUnavailable")),
        json!(o.int_at("/status/disruptionsAllowed").unwrap_or(0)),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
