//! `autoscaling/v1` `HorizontalPodAutoscaler`: CPU by name, and the rest of `autoscaling/v2` in
//! annotations, as Kubernetes has it.

use serde_json::{Map, Value, json};

use super::HORIZONTAL_POD_AUTOSCALER as V2;
use super::podspec::{default, object};
use crate::api::resource::Resource;
use crate::api::validate::{Faults, items};
use crate::api::versions::{Version, annotate, take_annotation};

/// `autoscaling/v1` `HorizontalPodAutoscaler`.
pub static HORIZONTAL_POD_AUTOSCALER_V1: Resource = Resource {
    group: V2.group,
    version: "v1",
    plural: V2.plural,
    singular: V2.singular,
    kind: V2.kind,
    short_names: V2.short_names,
    categories: V2.categories,
    has_status: true,
    columns: V2.columns,
    version_of: Some(&Version {
        of: &V2,
        show,
        keep,
        fields: &[],
        own_annotations: &[CURRENT, CONDITIONS],
    }),
    prepare: |o| {
        take_annotation(o, CURRENT);
        take_annotation(o, CONDITIONS);
        o["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0});
    },
    defaults: |o| default(object(o, "spec"), "minReplicas", 1),
    validate,
    ..Resource::BASE
};

/// Metrics other than the utilization of CPU.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// What the controller found.
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Kubernetes' goal for an autoscaler that has none, in percent.
const USUAL: i64 = 80;

/// Where a field of a metric is in v2, and what it is called in the annotations.
type Names = &'static [(&'static [&'static str], &'static str)];

/// The field of each type of metric, and its parts' names: in the spec, and in the status.
const SOURCES: &[(&str, Names, Names)] = &[
    ("resource", RESOURCE, RESOURCE_NOW),
    ("containerResource", RESOURCE, RESOURCE_NOW),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "averageValue"),
        ],
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "averageValue"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
];

const RESOURCE: Names = &[
    (&["name"], "name"),
    (&["container"], "container"),
    (
        &["target", "averageUtilization"],
        "targetAverageUtilization",
    ),
    (&["target", "averageValue"], "targetAverageValue"),
];
const RESOURCE_NOW: Names = &[
    (&["name"], "name"),
    (&["container"], "container"),
    (
        &["current", "averageUtilization"],
        "currentAverageUtilization",
    ),
    (&["current", "averageValue"], "currentAverageValue"),
];

#[derive(Clone, Copy)]
enum Part {
    Spec,
    Status,
}

/// The source of a metric, with its names.
fn source(metric: &Value, part: Part) -> Option<(&'static str, Names)> {
    let found = SOURCES.iter().find(|(field, ..)| !metric[*field].is_null());
    found.map(|(field, spec, status)| match part {
        Part::Spec => (*field, *spec),
        Part::Status => (*field, *status),
    })
}

/// A metric of v2 as the annotations have it.
fn flat(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric["type"]});
    if let Some((field, names)) = source(metric, part) {
        let mut flat = Map::new();
        for (path, name) in names {
            let value = path.iter().fold(&metric[field], |at, key| &at[*key]);
            if !value.is_null() {
                flat.insert((*name).to_owned(), value.clone());
            }
        }
        out[field] = Value::Object(flat);
    }
    out
}

/// A metric of the annotations as v2 has it.
fn deep(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric["type"]});
    let Some((field, names)) = source(metric, part) else {
        return out;
    };
    for (path, name) in names {
        let value = &metric[field][*name];
        // An absent quantity is written as none of it.
        if value.is_null() || (*name == "targetValue" && value == "0") {
            continue;
        }
        let at = path.iter().fold(&mut out[field], |at, key| &mut at[*key]);
        *at = value.clone();
    }
    if matches!(part, Part::Spec) {
        let target = &mut out[field]["target"];
        let kinds = [
            ("averageUtilization", "Utilization"),
            ("averageValue", "AverageValue"),
            ("value", "Value"),
        ];
        if let Some((_, kind)) = kinds.iter().find(|(f, _)| !target[*f].is_null()) {
            target["type"] = json!(kind);
        }
    }
    out
}

/// The utilization of CPU that a metric asks for, or has found.
fn cpu(metric: &Value, field: &str) -> Option<Value> {
    let resource = &metric["resource"];
    let share = &resource[field]["averageUtilization"];
    (resource["name"] == "cpu" && !share.is_null()).then(|| share.clone())
}

fn take(object: &mut Value, part: &str, field: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(field)
}

fn show(autoscaler: &mut Value) {
    let metrics = take(autoscaler, "spec", "metrics").unwrap_or_default();
    let mut others = Vec::new();
    for (_, metric) in items(&metrics) {
        let spec = &mut autoscaler["spec"];
        match cpu(metric, "target") {
            Some(share) if spec["targetCPUUtilizationPercentage"].is_null() => {
                spec["targetCPUUtilizationPercentage"] = share;
            }
            _ => others.push(flat(metric, Part::Spec)),
        }
    }
    let behavior = take(autoscaler, "spec", "behavior").unwrap_or_default();
    let current = take(autoscaler, "status", "currentMetrics").unwrap_or_default();
    let conditions = take(autoscaler, "status", "conditions").unwrap_or_default();
    if let Some(share) = items(&current).find_map(|(_, m)| cpu(m, "current")) {
        autoscaler["status"]["currentCPUUtilizationPercentage"] = share;
    }
    let current = items(&current)
        .map(|(_, m)| flat(m, Part::Status))
        .collect();
    let notes = [
        (METRICS, Value::Array(others)),
        (BEHAVIOR, behavior),
        (CURRENT, Value::Array(current)),
        (CONDITIONS, conditions),
    ];
    for (key, value) in notes {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !empty {
            annotate(autoscaler, key, json!(value.to_string()));
        }
    }
}

fn keep(autoscaler: &mut Value) {
    let mut noted = |key: &str| -> Value {
        let text = take_annotation(autoscaler, key);
        text.and_then(|t| serde_json::from_str(&t).ok())
            .unwrap_or_default()
    };
    let (others, behavior) = (noted(METRICS), noted(BEHAVIOR));
    let (current, conditions) = (noted(CURRENT), noted(CONDITIONS));
    let share = take(autoscaler, "spec", "targetCPUUtilizationPercentage");
    let others: Vec<Value> = items(&others).map(|(_, m)| deep(m, Part::Spec)).collect();
    let share = share.or_else(|| others.is_empty().then(|| json!(USUAL)));
    let metrics = share.map(|share| {
        of_cpu(
            "target",
            &json!({"type": "Utilization",
        "averageUtilization": share}),
        )
    });
    let metrics: Vec<Value> = metrics.into_iter().chain(others).collect();
    let spec = object(autoscaler, "spec");
    spec["metrics"] = json!(metrics);
    if !behavior.is_null() {
        spec["behavior"] = behavior;
    }
    let share = take(autoscaler, "status", "currentCPUUtilizationPercentage");
    let Some(status) = autoscaler.get_mut("status").filter(|s| s.is_object()) else {
        return;
    };
    status["currentMetrics"] = match (current, share) {
        (Value::Array(all), _) => all.iter().map(|m| deep(m, Part::Status)).collect(),
        (_, Some(share)) => json!([of_cpu("current", &json!({"averageUtilization": share}))]),
        _ => Value::Null,
    };
    if !conditions.is_null() {
        status["conditions"] = conditions;
    }
}

fn of_cpu(field: &str, what: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", field: what}})
}

/// What is in annotations must be readable; everything else is checked in its v2 shape.
fn validate(autoscaler: &Value, faults: &mut Faults) {
    let annotations = &autoscaler["metadata"]["annotations"];
    for key in [METRICS, BEHAVIOR] {
        if let Some(text) = annotations[key].as_str()
            && let Err(error) = serde_json::from_str::<Value>(text)
        {
            let at = format!("metadata.annotations[{key}]");
            faults.invalid_str(at, text, format!("must be JSON: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mut v2: Value) -> Value {
        show(&mut v2);
        v2
    }

    fn kept(mut v1: Value) -> Value {
        keep(&mut v1);
        v1
    }

    #[test]
    fn cpu_has_a_field_of_its_own() {
        let v1 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50}});
        let v2 = kept(v1.clone());
        let metric = &v2["spec"]["metrics"][0]["resource"];
        assert_eq!(
            metric["target"],
            json!({"type": "Utilization", "averageUtilization": 50})
        );
        assert_eq!(shown(v2), v1);
        let none = kept(json!({"spec": {"maxReplicas": 3}}));
        assert_eq!(shown(none)["spec"]["targetCPUUtilizationPercentage"], 80);
    }

    #[test]
    fn nothing_of_v2_is_lost_in_v1() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "q", "selector": {}},
            "target": {"type": "AverageValue", "averageValue": "1k"}}});
        let object = json!({"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"},
            "metric": {"name": "r"}, "target": {"type": "Value", "value": "2k"}}});
        let external = json!({"type": "External", "external": {"metric": {"name": "e"},
            "target": {"type": "AverageValue", "averageValue": "3"}}});
        let part = json!({"type": "ContainerResource", "containerResource": {"name": "cpu",
            "container": "c", "target": {"type": "Utilization", "averageUtilization": 60}}});
        let v2 = json!({
            "metadata": {"name": "a", "annotations": {"other": "kept"}},
            "spec": {"maxReplicas": 5, "behavior": {"scaleUp": {"selectPolicy": "Max"}},
                "metrics": [of_cpu("target", &json!({"type": "Utilization", "averageUtilization": 70})),
                    memory, pods, object, external, part]},
            "status": {"currentReplicas": 1, "desiredReplicas": 2,
                "currentMetrics": [of_cpu("current", &json!({"averageUtilization": 7, "averageValue": "3m"}))],
                "conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let v1 = shown(v2.clone());
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(v1["spec"]["metrics"].is_null() && v1["status"]["conditions"].is_null());
        let noted = v1["metadata"]["annotations"][METRICS].as_str().unwrap();
        let noted: Value = serde_json::from_str(noted).unwrap();
        let memory = json!({"name": "memory", "targetAverageValue": "1Gi"});
        assert_eq!(noted[0]["resource"], memory);
        assert_eq!(kept(v1), v2);
    }

    #[test]
    fn an_annotation_that_cannot_be_read_is_refused() {
        let v1 = json!({"metadata": {"annotations": {METRICS: "["}}});
        let mut faults = Faults::default();
        validate(&v1, &mut faults);
        assert!(!faults.is_empty());
    }
}
