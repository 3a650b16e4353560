//! What Deployments and ReplicaSets share.

use serde_json::{Value, json};

use super::podspec;
use crate::api::validate::{Faults, items, meta, text};
use crate::store::Selector;

/// Faults of `spec.selector` and `spec.template` together.
pub(super) fn check(spec: &Value, faults: &mut Faults) {
    faults.not_negative("spec.replicas", &spec["replicas"]);
    faults.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    let selector = &spec["selector"];
    if selector.is_null() {
        faults.required("spec.selector", "");
    }
    meta::selector(selector, "spec.selector", faults);
    let none = |field: &str| match &selector[field] {
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => true,
    };
    if !selector.is_null() && none("matchLabels") && none("matchExpressions") {
        faults.invalid(
            "spec.selector",
            selector,
            "empty selector is invalid for deployment",
        );
    }
    let template = &spec["template"];
    podspec::template_faults(template, "spec.template", faults);
    if let Ok(Some(s)) = Selector::from_label_selector(selector) {
        let labels = &template["metadata"]["labels"];
        if !s.matches_labels(Some(labels)) {
            let labels = if labels.is_null() { &json!({}) } else { labels };
            faults.invalid(
                "spec.template.metadata.labels",
                labels,
                "`selector` does not match template `labels`",
            );
        }
    }
    let restart = text(&template["spec"], "restartPolicy");
    if restart != "Always" {
        faults.unsupported("spec.template.spec.restartPolicy", restart, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}

/// Names of a template's containers, their images, and the selector: the wide columns.
pub(super) fn wide(spec: &Value) -> [Value; 3] {
    let of = |field: &str| {
        let all = items(&spec["template"]["spec"]["containers"]).map(|(_, c)| text(c, field));
        json!(all.collect::<Vec<_>>().join(","))
    };
    let selector = Selector::from_label_selector(&spec["selector"])
        .ok()
        .flatten();
    [
        of("name"),
        of("image"),
        json!(selector.map_or("<none>".into(), |s| s.label_string())),
    ]
}
