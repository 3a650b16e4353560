//! LimitRanger: defaults and bounds of containers, pods and claims from the namespace's LimitRanges.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::kinds::podspec::{default, each, object};
use crate::api::status::{Result, Status};
use crate::api::validate::{entries, items, text};
use crate::quantity::{format_nano, parse_nano};
use crate::store::Selector;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "LimitRanger",
    mutate,
    check,
};

/// The items of all LimitRanges of the namespace.
fn limits(request: &Request<'_>) -> Vec<Value> {
    let list = request
        .api
        .list(&kinds::LIMIT_RANGE, request.ns, &Selector::all())
        .items;
    list.iter()
        .flat_map(|range| {
            range
                .at("/spec/limits")
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .collect()
}

#[allow(clippy::unnecessary_wraps)] // As every plugin has it.
fn mutate(request: &Request<'_>, pod: &mut Value) -> Result<()> {
    if *request.res != kinds::POD || request.old.is_some() {
        return Ok(());
    }
    for limit in limits(request).iter().filter(|l| l["type"] == "Container") {
        let mut changed = false;
        for list in ["containers", "initContainers"] {
            for container in each(&mut pod["spec"], list) {
                changed |= fill(container, limit);
            }
        }
        // The class follows from requests: it is to be found anew.
        if changed && let Some(status) = pod["status"].as_object_mut() {
            status.remove("qosClass");
        }
    }
    Ok(())
}

/// Gives the container what it does not say itself.
fn fill(container: &mut Value, limit: &Value) -> bool {
    let before = container["resources"].clone();
    for (field, from) in [("limits", "default"), ("requests", "defaultRequest")] {
        for (name, amount) in entries(&limit[from]) {
            let map = object(object(container, "resources"), field);
            default(map, name, amount.clone());
        }
    }
    container["resources"] != before
}

fn check(request: &Request<'_>, object: &Value) -> Result<()> {
    let pod = *request.res == kinds::POD && request.old.is_none();
    let claim = request.res.plural == "persistentvolumeclaims";
    if !pod && !claim {
        return Ok(());
    }
    let mut faults = Vec::new();
    for limit in limits(request) {
        match text(&limit, "type") {
            "Container" if pod => {
                for list in ["containers", "initContainers"] {
                    for (_, c) in items(&object["spec"][list]) {
                        bounds("Container", &limit, &c["resources"], &mut faults);
                    }
                }
            }
            "Pod" if pod => bounds("Pod", &limit, &sum(&object["spec"]), &mut faults),
            "PersistentVolumeClaim" if claim => bounds(
                "PersistentVolumeClaim",
                &limit,
                &object["spec"]["resources"],
                &mut faults,
            ),
            _ => {}
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let why = match faults.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let name = text(&object["metadata"], "name");
    Err(Status::forbidden(request.res, name, &why))
}

/// Requests and limits of a pod as a whole: of a name only where every container says it.
fn sum(spec: &Value) -> Value {
    let mut out = json!({});
    for field in ["requests", "limits"] {
        let mut names = BTreeSet::new();
        for (_, c) in items(&spec["containers"]) {
            names.extend(entries(&c["resources"][field]).map(|(name, _)| name.clone()));
        }
        for name in names {
            let mut total: i128 = 0;
            for (_, c) in items(&spec["containers"]) {
                total += nano(&c["resources"][field][&name]).unwrap_or(0);
            }
            out[field][&name] = json!(format_nano(total, &name));
        }
    }
    out
}

fn nano(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => parse_nano(text),
        Value::Number(number) => parse_nano(&number.to_string()),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn bounds(kind: &str, limit: &Value, resources: &Value, faults: &mut Vec<String>) {
    let claim = kind == "PersistentVolumeClaim";
    for (name, min) in entries(&limit["min"]) {
        let (request, most) = (&resources["requests"][name], &resources["limits"][name]);
        let (want, asked) = (shown(min), nano(request));
        match asked {
            None => faults.push(format!(
                "minimum {name} usage per {kind} is {want}.  No request is specified"
            )),
            Some(n) if Some(n) < nano(min) => faults.push(format!(
                "minimum {name} usage per {kind} is {want}, but request is {}",
                shown(request)
            )),
            Some(_) if !claim && nano(most).is_some_and(|n| Some(n) < nano(min)) => {
                faults.push(format!(
                    "minimum {name} usage per {kind} is {want}, but limit is {}",
                    shown(most)
                ));
            }
            Some(_) => {}
        }
    }
    for (name, max) in entries(&limit["max"]) {
        let (request, most) = (&resources["requests"][name], &resources["limits"][name]);
        let (want, bound) = (shown(max), if claim { request } else { most });
        let word = if claim { "request" } else { "limit" };
        match nano(bound) {
            None => faults.push(format!(
                "maximum {name} usage per {kind} is {want}.  No {word} is specified"
            )),
            Some(n) if Some(n) > nano(max) => faults.push(format!(
                "maximum {name} usage per {kind} is {want}, but {word} is {}",
                shown(bound)
            )),
            Some(_) => {}
        }
    }
    ratio(kind, limit, resources, faults);
}

fn ratio(kind: &str, limit: &Value, resources: &Value, faults: &mut Vec<String>) {
    for (name, most) in entries(&limit["maxLimitRequestRatio"]) {
        let request = nano(&resources["requests"][name]).filter(|n| *n > 0);
        let bound = nano(&resources["limits"][name]);
        let (Some(request), Some(bound), Some(allowed)) = (request, bound, nano(most)) else {
            faults.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but no request is specified or request is 0",
                shown(most)
            ));
            continue;
        };
        // Both sides in billionths.
        if bound.saturating_mul(1_000_000_000) > allowed.saturating_mul(request) {
            #[allow(clippy::cast_precision_loss)]
            let actual = bound as f64 / request as f64;
            faults.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but provided ratio is {actual:.6}",
                shown(most)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_get_the_defaults_and_keep_their_own() {
        let limit = json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}});
        let mut bare = json!({"name": "a"});
        assert!(fill(&mut bare, &limit));
        assert_eq!(
            bare["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m", "memory": "1Mi"}})
        );
        let mut own = json!({"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2", "memory": "5Mi"}}});
        assert!(!fill(&mut own, &limit));
    }

    #[test]
    fn bounds_read_as_kubernetes_writes_them() {
        let limit = json!({"min": {"cpu": "200m"}, "max": {"cpu": "1", "memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}});
        let mut faults = Vec::new();
        bounds("Container", &limit, &resources, &mut faults);
        assert_eq!(
            faults,
            [
                "minimum cpu usage per Container is 200m, but request is 100m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 20.000000",
            ]
        );
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let spec = json!({"containers": [
            {"resources": {"requests": {"cpu": "250m", "memory": "1Mi"}}}, {"resources": {"requests": {"cpu": "1"}}}]});
        assert_eq!(sum(&spec)["requests"]["cpu"], "1250m");
        assert_eq!(sum(&spec)["requests"]["memory"], "1Mi");
    }
}
