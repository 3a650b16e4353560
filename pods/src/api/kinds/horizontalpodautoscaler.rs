//! `HorizontalPodAutoscaler`.

use serde_json::{Value, json};

use super::podspec::{default, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, text};
use crate::store::Object;

/// `autoscaling/v2` `HorizontalPodAutoscaler`.
pub static HORIZONTAL_POD_AUTOSCALER: Resource = Resource {
    group: "autoscaling",
    version: "v2",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    kind: "HorizontalPodAutoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    has_status: true,
    columns: &[
        Column::text("Name"),
        Column::text("Reference"),
        Column::text("Targets"),
        Column::text("MinPods"),
        Column::text("MaxPods"),
        Column::int("Replicas"),
        Column::text("Age"),
    ],
    row,
    prepare: |o| o["status"] = json!({"desiredReplicas": 0, "currentMetrics": null}),
    defaults,
    validate,
    ..Resource::BASE
};

fn defaults(autoscaler: &mut Value) {
    let spec = object(autoscaler, "spec");
    default(spec, "minReplicas", 1);
    if items(&spec["metrics"]).next().is_none() {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    if !spec["behavior"].is_object() {
        return;
    }
    let behavior = &mut spec["behavior"];
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = object(behavior, "scaleUp");
    default(up, "stabilizationWindowSeconds", 0);
    default(up, "selectPolicy", "Max");
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    default(up, "policies", json!([percent, pods]));
    let down = object(behavior, "scaleDown");
    default(down, "selectPolicy", "Max");
    default(down, "policies", json!([percent]));
}

fn validate(autoscaler: &Value, faults: &mut Faults) {
    let spec = &autoscaler["spec"];
    let least = spec["minReplicas"].as_i64().unwrap_or(1);
    let most = spec["maxReplicas"].as_i64().unwrap_or(0);
    if least < 1 {
        let detail = "must be greater than or equal to 1";
        faults.invalid("spec.minReplicas", &spec["minReplicas"], detail);
    }
    if most < 1 {
        faults.invalid("spec.maxReplicas", &json!(most), "must be greater than 0");
    }
    if most < least {
        let detail = "must be greater than or equal to `minReplicas`";
        faults.invalid("spec.maxReplicas", &json!(most), detail);
    }
    for field in ["kind", "name"] {
        if text(&spec["scaleTargetRef"], field).is_empty() {
            faults.required(format!("spec.scaleTargetRef.{field}"), "");
        }
    }
    for (i, metric) in items(&spec["metrics"]) {
        check_metric(metric, &format!("spec.metrics[{i}]"), faults);
    }
    for field in ["scaleUp", "scaleDown"] {
        check_rules(
            &spec["behavior"][field],
            &format!("spec.behavior.{field}"),
            faults,
        );
    }
}

/// The field of a metric that its type names, and the types there are.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn check_metric(metric: &Value, at: &str, faults: &mut Faults) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        faults.required(format!("{at}.type"), "must specify a metric source type");
        return;
    }
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        let known: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        faults.unsupported(format!("{at}.type"), kind, &known);
        return;
    };
    for (_, other) in SOURCES.iter().filter(|(_, other)| other != field) {
        if !metric[*other].is_null() {
            let detail = "must populate information for the given metric source only";
            faults.forbidden(format!("{at}.{other}"), detail);
        }
    }
    let source = &metric[*field];
    if source.is_null() {
        let detail = "must populate information for the given metric source";
        faults.required(format!("{at}.{field}"), detail);
        return;
    }
    let at = format!("{at}.{field}");
    if kind.ends_with("Resource") {
        if text(source, "name").is_empty() {
            faults.required(format!("{at}.name"), "must specify a resource name");
        }
        if kind == "ContainerResource" && text(source, "container").is_empty() {
            faults.required(format!("{at}.container"), "must specify a container");
        }
    }
    check_target(&source["target"], &format!("{at}.target"), faults);
}

fn check_target(target: &Value, at: &str, faults: &mut Faults) {
    let kind = text(target, "type");
    let known = ["AverageValue", "Utilization", "Value"];
    if kind.is_empty() {
        faults.required(format!("{at}.type"), "must specify a metric target type");
    } else if !known.contains(&kind) {
        faults.unsupported(format!("{at}.type"), kind, &known);
    }
    let number = |field: &str| crate::quantity::parse_nano(text(target, field));
    for field in ["value", "averageValue"] {
        let zero = !target[field].is_null() && number(field).is_none_or(|n| n <= 0);
        if zero {
            faults.invalid(format!("{at}.{field}"), &target[field], "must be positive");
        }
    }
    let share = &target["averageUtilization"];
    if share.as_i64().is_some_and(|n| n < 1) {
        let detail = "must be greater than 0";
        faults.invalid(format!("{at}.averageUtilization"), share, detail);
    }
    let wanted = match kind {
        "Utilization" => share,
        "AverageValue" => &target["averageValue"],
        _ => return,
    };
    if wanted.is_null() {
        let detail = "must set either a target raw value or a target utilization";
        faults.required(format!("{at}.averageUtilization"), detail);
    }
}

fn check_rules(rules: &Value, at: &str, faults: &mut Faults) {
    if rules.is_null() {
        return;
    }
    let window = &rules["stabilizationWindowSeconds"];
    if window.as_i64().is_some_and(|n| !(0..=3600).contains(&n)) {
        let detail = "must be less than or equal to 3600";
        faults.invalid(format!("{at}.stabilizationWindowSeconds"), window, detail);
    }
    let known = ["Disabled", "Max", "Min"];
    faults.one_of(
        &format!("{at}.selectPolicy"),
        &rules["selectPolicy"],
        &known,
    );
    let tolerance = &rules["tolerance"];
    let negative = |t: &str| crate::quantity::parse_nano(t).is_none_or(|n| n < 0);
    if tolerance.as_str().is_some_and(negative) {
        let detail = "must be greater than or equal to 0";
        faults.invalid(format!("{at}.tolerance"), tolerance, detail);
    }
    if items(&rules["policies"]).next().is_none() {
        let detail = "must specify at least one Policy";
        faults.required(format!("{at}.policies"), detail);
    }
    for (i, policy) in items(&rules["policies"]) {
        let at = format!("{at}.policies[{i}]");
        faults.one_of(&format!("{at}.type"), &policy["type"], &["Percent", "Pods"]);
        if policy["value"].as_i64().is_none_or(|n| n < 1) {
            let detail = "must be greater than zero";
            faults.invalid(format!("{at}.value"), &policy["value"], detail);
        }
        let period = &policy["periodSeconds"];
        if period.as_i64().is_none_or(|n| !(1..=1800).contains(&n)) {
            let detail = "must be greater than zero and less than or equal to 1800";
            faults.invalid(format!("{at}.periodSeconds"), period, detail);
        }
    }
}

fn row(o: &Object) -> Vec<Value> {
    let target = o.at("/spec/scaleTargetRef");
    let current: Vec<&Value> = items(o.at("/status/currentMetrics"))
        .map(|(_, m)| m)
        .collect();
    let shown = items(o.at("/spec/metrics")).map(|(i, metric)| one_target(metric, current.get(i)));
    let shown: Vec<String> = shown.collect();
    let count = |at: &str| o.int_at(at).map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        json!(o.name()),
        json!(format!("{}/{}", text(target, "kind"), text(target, "name"))),
        json!(if shown.is_empty() {
            "<none>".to_owned()
        } else {
            shown.join(", ")
        }),
        json!(count("/spec/minReplicas")),
        json!(count("/spec/maxReplicas")),
        json!(o.int_at("/status/currentReplicas").unwrap_or(0)),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}

fn one_target(metric: &Value, status: Option<&&Value>) -> String {
    let kind = text(metric, "type");
    let field = SOURCES.iter().find(|(name, _)| *name == kind);
    let Some((_, field)) = field else {
        return "<unknown>".to_owned();
    };
    let (source, null) = (&metric[*field], Value::Null);
    // The status lists what was measured, in order; one that was not is left out.
    let status = status.filter(|s| s["type"] == metric["type"]);
    let now = status.map_or(&null, |s| &s[*field]["current"]);
    let name = match kind {
        "Resource" => text(source, "name").to_owned(),
        "ContainerResource" => format!("{}/{}", text(source, "container"), text(source, "name")),
        _ => text(&source["metric"], "name").to_owned(),
    };
    let share = |v: &Value| v["averageUtilization"].as_i64().map(|n| format!("{n}%"));
    let plain = |v: &Value| {
        let value = [&v["averageValue"], &v["value"]];
        value
            .into_iter()
            .find_map(|v| v.as_str().map(str::to_owned))
    };
    let (is, wanted) = if source["target"]["averageUtilization"].is_null() {
        (plain(now), plain(&source["target"]))
    } else {
        (share(now), share(&source["target"]))
    };
    let or_unknown = |v: Option<String>| v.unwrap_or_else(|| "<unknown>".to_owned());
    format!("{name}: {}/{}", or_unknown(is), or_unknown(wanted))
}
