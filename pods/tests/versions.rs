//! Two versions of one set of objects: autoscaling/v1 beside v2, events.k8s.io beside the core's.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::Server;

const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

fn merge(server: &Server, path: &str, patch: &Value) -> Value {
    let (code, value) = server.send("PATCH", path, "application/merge-patch+json", Some(patch));
    assert_eq!(code, 200, "{path}: {value}");
    value
}

#[test]
fn an_autoscaler_is_one_object_in_both_versions() {
    let server = Server::new();
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let v1 =
        json!({"metadata": {"name": "web"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5}});
    let made = server.create(V1, &v1);
    assert_eq!(made["apiVersion"], "autoscaling/v1");
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 80);
    assert_eq!(made["spec"]["minReplicas"], 1);
    let v2 = server.get(&format!("{V2}/web"));
    let wanted = json!({"type": "Utilization", "averageUtilization": 80});
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"], wanted);
    assert_eq!(v2["metadata"]["uid"], made["metadata"]["uid"]);

    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let metrics = json!([v2["spec"]["metrics"][0], memory]);
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 10}});
    let spec = json!({"spec": {"metrics": metrics, "behavior": behavior}});
    merge(&server, &format!("{V2}/web"), &spec);
    let v1 = server.get(&format!("{V1}/web"));
    let noted = v1["metadata"]["annotations"][METRICS].as_str().unwrap();
    assert!(noted.contains(r#""targetAverageValue":"1Gi""#), "{noted}");
    // A change by the old version leaves alone what it cannot say.
    let change = json!({"spec": {"targetCPUUtilizationPercentage": 60, "minReplicas": 2}});
    merge(&server, &format!("{V1}/web"), &change);
    let v2 = server.get(&format!("{V2}/web"));
    assert_eq!(
        v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        60
    );
    assert_eq!(v2["spec"]["metrics"][1], memory);
    let window = &v2["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"];
    assert_eq!(*window, 10);
    assert!(v2["metadata"]["annotations"].is_null());

    let list = server.get(V1);
    assert_eq!(list["apiVersion"], "autoscaling/v1");
    assert_eq!(
        list["items"][0]["spec"]["targetCPUUtilizationPercentage"],
        60
    );
    let bad = json!({"spec": {"maxReplicas": 0}});
    let path = format!("{V1}/web");
    let (code, why) = server.send("PATCH", &path, "application/merge-patch+json", Some(&bad));
    assert_eq!((code, why["reason"].as_str()), (422, Some("Invalid")));
    let groups = server.get("/apis/autoscaling");
    assert_eq!(groups["preferredVersion"]["version"], "v2");
    assert_eq!(groups["versions"].as_array().unwrap().len(), 2);
    let (code, _) = server.call("DELETE", &format!("{V1}/web"), None);
    assert_eq!(code, 200);
    server.until(&format!("{V2}/web"), 404);
}

#[test]
fn what_the_controller_found_is_not_the_users_to_write_in_v1() {
    let server = Server::new();
    let target = json!({"kind": "Deployment", "name": "web"});
    let key = "autoscaling.alpha.kubernetes.io/conditions";
    let v1 = json!({"metadata": {"name": "web", "annotations": {key: "[{\"type\": \"Mine\"}]", "a": "b"}},
        "spec": {"scaleTargetRef": target, "maxReplicas": 5}});
    server.create(V1, &v1);
    let patch = json!({"metadata": {"annotations": {key: "[{\"type\": \"Mine\"}]"}}});
    merge(&server, &format!("{V1}/web"), &patch);
    let v2 = server.get(&format!("{V2}/web"));
    assert!(!v2["status"].to_string().contains("Mine"), "{v2}");
    assert_eq!(v2["metadata"]["annotations"], json!({"a": "b"}));
}

#[test]
fn an_event_has_two_names() {
    let server = Server::new();
    let core = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2030-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "c-1", "action": "Doing",
        "reason": "Done", "type": "Normal", "note": "it is done",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let made = server.create(new, &event);
    assert_eq!(made["note"], "it is done");
    let old = server.get(&format!("{core}/e"));
    assert_eq!(old["apiVersion"], "v1");
    assert_eq!(old["message"], "it is done");
    assert_eq!(old["involvedObject"]["name"], "p");
    assert_eq!(old["reportingComponent"], "example.com/c");

    let old = json!({"metadata": {"name": "f"}, "reason": "Old", "message": "as before", "type": "Warning",
        "involvedObject": {"kind": "Pod", "name": "q", "namespace": "default"}, "count": 2,
        "firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:00:00Z"});
    server.create(core, &old);
    let of = |selector: &str| {
        let list = server.get(&format!("{new}?fieldSelector={selector}"));
        let names = list["items"].as_array().unwrap().iter();
        names
            .map(|e| e["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("regarding.name%3Dq"), ["f"]);
    assert_eq!(of("regarding.name%3Dp,reason%3DDone"), ["e"]);
    let (code, _) = server.call(
        "GET",
        &format!("{new}?fieldSelector=involvedObject.name%3Dp"),
        None,
    );
    assert_eq!(code, 400, "a name of the other version");
    assert_eq!(server.get(&format!("{new}/f"))["deprecatedCount"], 2);

    let (code, why) = server.call(
        "POST",
        new,
        Some(&json!({"metadata": {"name": "g"}, "type": "Odd",
        "eventTime": null, "regarding": {"namespace": "default"}})),
    );
    assert_eq!(code, 422);
    let text = why["message"].as_str().unwrap();
    for field in ["eventTime: Required", "action: Required", "type: Invalid"] {
        assert!(text.contains(field), "{field}: {text}");
    }
}
