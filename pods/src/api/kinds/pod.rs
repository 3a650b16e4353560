//! `Pod`.

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::podspec;
use crate::api::resource::{Resource, Subresource};
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, text};
use crate::resources;
use crate::store::Object;

/// `v1` `Pod`.
pub static POD: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    has_status: true,
    generation: true,
    returns_deleted: true,
    extra: &[
        Subresource::of("attach", &["create", "get"], "", "v1", "PodAttachOptions"),
        Subresource::of("binding", &["create"], "", "v1", "Binding"),
        Subresource::own("ephemeralcontainers", &["get", "patch", "update"]),
        Subresource::of("eviction", &["create"], "policy", "v1", "Eviction"),
        Subresource::of("exec", &["create", "get"], "", "v1", "PodExecOptions"),
        Subresource::own("log", &["get"]),
        Subresource::of(
            "portforward",
            &["create", "get"],
            "",
            "v1",
            "PodPortForwardOptions",
        ),
        Subresource::own("resize", &["get", "patch", "update"]),
    ],
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    columns: &[
        Column::text("Name"),
        Column::text("Ready"),
        Column::text("Status"),
        Column::text("Restarts"),
        Column::text("Age"),
        Column::wide("IP"),
        Column::wide("Node"),
        Column::wide("Nominated Node"),
        Column::wide("Readiness Gates"),
    ],
    row,
    prepare,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn prepare(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending"});
}

fn defaults(pod: &mut Value) {
    podspec::pod(pod);
    // Of requests as defaulted, and once: it may not change in a pod's life.
    if pod["status"].is_object()
        && pod["status"]["qosClass"].is_null()
        && let Ok(spec) = PodSpec::deserialize(&pod["spec"])
    {
        pod["status"]["qosClass"] = json!(resources::qos_class(&spec));
    }
}

fn validate(pod: &Value, faults: &mut Faults) {
    podspec::spec(&pod["spec"], "spec", faults);
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    let (was, is) = (&old["spec"], &new["spec"]);
    let count = |spec: &Value, list: &str| spec[list].as_array().map_or(0, Vec::len);
    for list in ["containers", "initContainers"] {
        if count(was, list) != count(is, list) {
            let detail = "pod updates may not add or remove containers";
            return faults.forbidden(format!("spec.{list}"), detail);
        }
    }
    let kept =
        items(&was["tolerations"]).all(|(_, t)| items(&is["tolerations"]).any(|(_, n)| n == t));
    if !kept {
        faults.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    if fixed(was) != fixed(is) {
        faults.forbidden("spec", MAY_CHANGE);
    }
}

/// The spec without what may change.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        map.remove("activeDeadlineSeconds");
        map.remove("tolerations");
        // Bound by the scheduler, through a subresource of its own.
        map.remove("nodeName");
    }
    for list in ["containers", "initContainers"] {
        for c in podspec::each(&mut spec, list) {
            if let Some(map) = c.as_object_mut() {
                map.remove("image");
            }
        }
    }
    spec
}

fn row(o: &Object) -> Vec<Value> {
    let pod = o.value();
    let statuses = &pod["status"]["containerStatuses"];
    let sidecar = |name: &str| {
        let own =
            |(_, c): &(usize, &Value)| text(c, "name") == name && c["restartPolicy"] == "Always";
        items(&pod["spec"]["initContainers"]).any(|c| own(&c))
    };
    let sidecars = items(&pod["status"]["initContainerStatuses"])
        .filter(|(_, s)| sidecar(text(s, "name")))
        .map(|(_, s)| s);
    let running: Vec<&Value> = items(statuses).map(|(_, s)| s).chain(sidecars).collect();
    let ready = running
        .iter()
        .filter(|s| s["ready"] == true && !s["state"]["running"].is_null())
        .count();
    let total = items(&pod["spec"]["containers"]).count()
        + items(&pod["spec"]["initContainers"])
            .filter(|(_, c)| c["restartPolicy"] == "Always")
            .count();
    let or_none = |v: &Value| {
        v.as_str()
            .filter(|s| !s.is_empty())
            .map_or(json!("<none>"), |s| json!(s))
    };
    let gates = items(&pod["spec"]["readinessGates"]).count();
    let passed = items(&pod["spec"]["readinessGates"]).filter(|(_, g)| {
        items(&pod["status"]["conditions"])
            .any(|(_, c)| c["type"] == g["conditionType"] && c["status"] == "True")
    });
    vec![
        json!(o.name()),
        json!(format!("{ready}/{total}")),
        json!(reason(pod)),
        json!(restarts(&running)),
        json!(age(&pod["metadata"]["creationTimestamp"])),
        or_none(&pod["status"]["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        or_none(&pod["status"]["nominatedNodeName"]),
        if gates == 0 {
            json!("<none>")
        } else {
            json!(format!("{}/{gates}", passed.count()))
        },
    ]
}

/// Restarts, with the time since the last one.
fn restarts(statuses: &[&Value]) -> String {
    let count: i64 = statuses
        .iter()
        .filter_map(|s| s["restartCount"].as_i64())
        .sum();
    let last = statuses
        .iter()
        .filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str())
        .max();
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", age(&json!(at))),
        _ => count.to_string(),
    }
}

/// One word for how the pod is.
pub fn reason(pod: &Value) -> String {
    let status = &pod["status"];
    let first = |a: &str, b: &str| {
        if a.is_empty() {
            b.to_owned()
        } else {
            a.to_owned()
        }
    };
    let mut reason = first(text(status, "reason"), text(status, "phase"));
    if let Some(init) = initializing(pod) {
        reason = init;
    } else {
        let mut running = false;
        for s in status["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
            .rev()
        {
            let (waiting, ended) = (&s["state"]["waiting"], &s["state"]["terminated"]);
            if !text(waiting, "reason").is_empty() {
                reason = text(waiting, "reason").into();
            } else if !ended.is_null() {
                reason = how_ended(ended, "");
            } else if s["ready"] == true && !s["state"]["running"].is_null() {
                running = true;
            }
        }
        // One container is done and another one runs: the pod runs.
        if reason == "Completed" && running {
            let ready = items(&status["conditions"])
                .any(|(_, c)| c["type"] == "Ready" && c["status"] == "True");
            reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        let done = matches!(text(status, "phase"), "Succeeded" | "Failed");
        if text(status, "reason") == "NodeLost" {
            return "Unknown".into();
        } else if !done {
            return "Terminating".into();
        }
    }
    reason
}

fn how_ended(ended: &Value, prefix: &str) -> String {
    let (reason, signal) = (text(ended, "reason"), ended["signal"].as_i64().unwrap_or(0));
    match (reason, signal) {
        ("", 0) => format!(
            "{prefix}ExitCode:{}",
            ended["exitCode"].as_i64().unwrap_or(0)
        ),
        ("", s) => format!("{prefix}Signal:{s}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// `Init:…` while the init containers are at work.
fn initializing(pod: &Value) -> Option<String> {
    let specs = &pod["spec"]["initContainers"];
    let total = items(specs).count();
    for (i, s) in items(&pod["status"]["initContainerStatuses"]) {
        let (waiting, ended) = (&s["state"]["waiting"], &s["state"]["terminated"]);
        let sidecar =
            items(specs).any(|(_, c)| c["name"] == s["name"] && c["restartPolicy"] == "Always");
        if ended["exitCode"] == 0 || (sidecar && s["started"] == true) {
            continue;
        }
        if !ended.is_null() {
            return Some(how_ended(ended, "Init:"));
        }
        let why = text(waiting, "reason");
        if !why.is_empty() && why != "PodInitializing" {
            return Some(format!("Init:{why}"));
        }
        return Some(format!("Init:{i}/{total}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_as_kubectl_shows_them() {
        let of = |status: Value| {
            reason(&json!({"spec": {"initContainers": [{"name": "i"}]}, "status": status}))
        };
        assert_eq!(of(json!({"phase": "Pending"})), "Pending");
        let waits = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(
            of(json!({"phase": "Running", "containerStatuses": [waits]})),
            "CrashLoopBackOff"
        );
        let ended = json!({"state": {"terminated": {"exitCode": 3}}});
        assert_eq!(
            of(json!({"phase": "Running", "containerStatuses": [ended]})),
            "ExitCode:3"
        );
        let init = json!([{"name": "i", "state": {"running": {}}}]);
        assert_eq!(
            of(json!({"phase": "Pending", "initContainerStatuses": init})),
            "Init:0/1"
        );
        let gone = json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}});
        assert_eq!(reason(&gone), "Terminating");
    }
}
