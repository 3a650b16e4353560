//! What all kinds that make pods of a template share.

use serde_json::{Value, json};

use super::podspec;
use crate::api::validate::{Faults, items, meta, text};
use crate::store::Selector;

/// Faults of `spec.selector` and `spec.template` of a kind whose pods run for ever.
pub(super) fn check(spec: &Value, kind: &str, faults: &mut Faults) {
    faults.not_negative("spec.replicas", &spec["replicas"]);
    faults.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    let limit = &spec["revisionHistoryLimit"];
    faults.not_negative("spec.revisionHistoryLimit", limit);
    matching(spec, kind, faults);
    always(&spec["template"]["spec"], kind, faults);
}

/// Faults of `spec.selector` and `spec.template` together.
pub(super) fn matching(spec: &Value, kind: &str, faults: &mut Faults) {
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
            format!("empty selector is invalid for {}", noun(kind)),
        );
    }
    let template = &spec["template"];
    // Claims of a StatefulSet are volumes of its pods.
    let claims = items(&spec["volumeClaimTemplates"]);
    let claims: Vec<&str> = claims.map(|(_, c)| text(&c["metadata"], "name")).collect();
    podspec::template_with(template, &claims, "spec.template", faults);
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
}

/// Upstream checks ReplicaSets by the rule of Deployments, and has one text for both.
fn noun(kind: &str) -> String {
    match kind {
        "ReplicaSet" => "deployment".to_owned(),
        other => other.to_lowercase(),
    }
}

/// Pods that a controller replaces restart always, and have no deadline.
pub(super) fn always(spec: &Value, kind: &str, faults: &mut Faults) {
    let restart = text(spec, "restartPolicy");
    if restart != "Always" {
        faults.unsupported("spec.template.spec.restartPolicy", restart, &["Always"]);
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
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
