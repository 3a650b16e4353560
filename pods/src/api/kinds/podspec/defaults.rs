//! What a pod is when its manifest does not say.

use serde_json::{Value, json};

use super::{default, each, object};

/// Defaults of a pod template.
pub fn template(template: &mut Value) {
    if template["spec"].is_object() {
        spec(&mut template["spec"]);
    }
}

/// Defaults of a pod: those of a template, and what admission adds.
pub fn pod(pod: &mut Value) {
    object(pod, "spec");
    let s = &mut pod["spec"];
    spec(s);
    default(s, "enableServiceLinks", true);
    default(s, "serviceAccountName", "default");
    let account = s["serviceAccountName"].clone();
    default(s, "serviceAccount", account);
    for list in ["containers", "initContainers"] {
        each(s, list).for_each(requests_from_limits);
    }
    tolerate(s, "node.kubernetes.io/not-ready");
    tolerate(s, "node.kubernetes.io/unreachable");
}

/// A node that is away for less than five minutes keeps its pods.
fn tolerate(spec: &mut Value, key: &str) {
    default(spec, "tolerations", json!([]));
    let Some(all) = spec["tolerations"].as_array_mut() else {
        return;
    };
    let covers = |t: &Value| {
        let (own, effect) = (
            t["key"].as_str().unwrap_or(""),
            t["effect"].as_str().unwrap_or(""),
        );
        (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    };
    if !all.iter().any(covers) {
        all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else {
        return;
    };
    let requests = object(&mut container["resources"], "requests");
    for (name, amount) in limits {
        default(requests, &name, amount);
    }
}

fn spec(s: &mut Value) {
    default(s, "restartPolicy", "Always");
    default(s, "dnsPolicy", "ClusterFirst");
    default(s, "schedulerName", "default-scheduler");
    default(s, "terminationGracePeriodSeconds", 30);
    object(s, "securityContext");
    let host_network = s["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in each(s, list) {
            container(c);
            if host_network {
                for port in each(c, "ports") {
                    let number = port["containerPort"].clone();
                    default(port, "hostPort", number);
                }
            }
        }
    }
    each(s, "volumes").for_each(volume);
}

fn container(c: &mut Value) {
    default(c, "terminationMessagePath", "/dev/termination-log");
    default(c, "terminationMessagePolicy", "File");
    object(c, "resources");
    let policy = pull_policy(c["image"].as_str().unwrap_or_default());
    default(c, "imagePullPolicy", policy);
    for port in each(c, "ports") {
        default(port, "protocol", "TCP");
    }
    for env in each(c, "env") {
        if env["valueFrom"]["fieldRef"].is_object() {
            default(&mut env["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if c[name].is_object() {
            probe(&mut c[name]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if c["lifecycle"][hook]["httpGet"].is_object() {
            http_get(&mut c["lifecycle"][hook]["httpGet"]);
        }
    }
}

/// An image without a tag, or tagged latest, may have changed.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = match (last.contains('@'), last.split_once(':')) {
        (true, _) => "digest",
        (false, Some((_, tag))) => tag,
        (false, None) => "latest",
    };
    if tag == "latest" {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn probe(p: &mut Value) {
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if p[key].as_i64().unwrap_or(0) == 0 {
            p[key] = json!(value);
        }
    }
    if p["httpGet"].is_object() {
        http_get(&mut p["httpGet"]);
    }
    if p["grpc"].is_object() {
        default(&mut p["grpc"], "service", "");
    }
}

fn http_get(action: &mut Value) {
    default(action, "path", "/");
    default(action, "scheme", "HTTP");
}

fn volume(v: &mut Value) {
    if v.as_object().is_some_and(|m| m.len() == 1) {
        v["emptyDir"] = json!({});
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if v[kind].is_object() {
            default(&mut v[kind], "defaultMode", 0o644);
        }
    }
    if v["hostPath"].is_object() {
        default(&mut v["hostPath"], "type", "");
    }
    each(&mut v["downwardAPI"], "items").for_each(field_ref);
    for source in each(&mut v["projected"], "sources") {
        each(&mut source["downwardAPI"], "items").for_each(field_ref);
        if source["serviceAccountToken"].is_object() {
            default(
                &mut source["serviceAccountToken"],
                "expirationSeconds",
                3600,
            );
        }
        // Looking into a map by index makes the key.
        if let Some(map) = source.as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
    }
    if let Some(map) = v.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn field_ref(item: &mut Value) {
    if item.get("fieldRef").is_some_and(Value::is_object) {
        default(&mut item["fieldRef"], "apiVersion", "v1");
    }
}
