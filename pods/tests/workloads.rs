//! The controllers behind the API. There is no node: the tests say what became of pods.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

/// Waits until a path's answer is as wanted.
fn wait(s: &Server, path: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    rrun_tests::wait_until(what, Duration::from_secs(20), || {
        last = s.call("GET", path, None).1;
        done(&last)
    });
    last
}

fn count(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

fn set_status(s: &Server, pod: &str, status: &Value) {
    let path = format!("{PODS}/{pod}/status");
    let kind = "application/merge-patch+json";
    let (code, answer) = s.send("PATCH", &path, kind, Some(&json!({"status": status})));
    assert_eq!(code, 200, "{answer}");
}

fn ready(phase: &str) -> Value {
    json!({"phase": phase, "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn template(labels: &Value, restart: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"restartPolicy": restart,
        "containers": [{"name": "c", "image": "i:1"}]}})
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_job_counts_each_pod_once_over_a_kill_9() {
    let mut s = Server::new();
    let job = json!({"metadata": {"name": "pi"}, "spec": {"parallelism": 2, "completions": 3,
        "template": template(&json!({}), "Never")}});
    s.create(JOBS, &job);
    let (code, refusal) = s.call(
        "POST",
        JOBS,
        Some(&json!({"metadata": {"name": "bad"},
        "spec": {"template": template(&json!({}), "Always")}})),
    );
    assert_eq!(
        (code, refusal["details"]["causes"][0]["field"].as_str()),
        (422, Some("spec.template.spec.restartPolicy"))
    );
    let pods = wait(&s, PODS, "two pods", |l| count(l) == 2);
    for pod in names(&pods) {
        set_status(&s, &pod, &json!({"phase": "Succeeded"}));
    }
    let job = format!("{JOBS}/pi");
    wait(&s, &job, "two counted", |j| j["status"]["succeeded"] == 2);
    s.crash();
    let pods = wait(&s, PODS, "a third pod", |l| count(l) == 3);
    let last = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["status"]["phase"] == "Pending")
        .unwrap();
    set_status(
        &s,
        last["metadata"]["name"].as_str().unwrap(),
        &json!({"phase": "Succeeded"}),
    );
    let done = wait(&s, &job, "complete", |j| {
        !j["status"]["completionTime"].is_null()
    });
    assert_eq!(done["status"]["succeeded"], 3);
    wait(&s, PODS, "no pod is held", |l| {
        l["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["metadata"]["finalizers"].is_null())
    });
    s.call("DELETE", &job, None);
    wait(&s, PODS, "all pods gone", |l| count(l) == 0);
}

#[test]
fn a_cron_job_is_checked_and_shown() {
    let s = Server::new();
    let path = "/apis/batch/v1/namespaces/default/cronjobs";
    let cron = |schedule: &str| {
        json!({"metadata": {"name": "tick"}, "spec": {"schedule": schedule, "timeZone": "UTC",
            "jobTemplate": {"spec": {"template": template(&json!({}), "OnFailure")}}}})
    };
    let (code, refusal) = s.call("POST", path, Some(&cron("61 * * * *")));
    assert_eq!(
        (code, refusal["details"]["causes"][0]["field"].as_str()),
        (422, Some("spec.schedule"))
    );
    s.create(path, &cron("0 0 1 1 *"));
    let table = s
        .request(
            "GET",
            path,
            "accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n",
            "",
        )
        .1;
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..4],
        ["tick", "0 0 1 1 *", "UTC", "False"]
    );
}

#[test]
fn a_stateful_set_has_names_claims_and_volumes() {
    let s = Server::new();
    let labels = json!({"app": "db"});
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    // A claim's template is a volume that its containers mount.
    let mut pod = template(&labels, "Always");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    s.create(
        "/apis/apps/v1/namespaces/default/statefulsets",
        &json!({"metadata": {"name": "db"},
        "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels},
                 "template": pod, "volumeClaimTemplates": [claim]}}),
    );
    wait(&s, PODS, "the first pod", |l| names(l) == ["db-0"]);
    set_status(&s, "db-0", &ready("Running"));
    wait(&s, PODS, "the second pod", |l| names(l) == ["db-0", "db-1"]);
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let bound = wait(&s, &format!("{claims}/data-db-0"), "bound", |c| {
        c["status"]["phase"] == "Bound"
    });
    let volume = format!(
        "/api/v1/persistentvolumes/{}",
        bound["spec"]["volumeName"].as_str().unwrap()
    );
    let dir = s.get(&volume)["spec"]["hostPath"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(dir.starts_with(s.path().to_str().unwrap()) && std::path::Path::new(&dir).is_dir());
    // In use: it stays until the pod is gone, and takes the directory with it.
    s.call("DELETE", &format!("{claims}/data-db-0"), None);
    assert_eq!(
        s.get(&format!("{claims}/data-db-0"))["status"]["phase"],
        "Bound"
    );
    s.call(
        "DELETE",
        "/apis/apps/v1/namespaces/default/statefulsets/db",
        None,
    );
    // What no runtime answers for does not end by itself.
    wait(&s, PODS, "no pods", |l| {
        for pod in names(l) {
            let path = format!("{PODS}/{pod}?gracePeriodSeconds=0");
            s.call("DELETE", &path, None);
        }
        count(l) == 0
    });
    s.until(&format!("{claims}/data-db-0"), 404);
    s.until(&volume, 404);
    assert!(!std::path::Path::new(&dir).exists());
    s.get(&format!("{claims}/data-db-1"));
}

#[test]
fn a_daemon_set_follows_the_nodes() {
    let s = Server::new();
    let labels = json!({"app": "agent"});
    let node = |name: &str| json!({"metadata": {"name": name, "labels": {"pool": "x"}}});
    s.create("/api/v1/nodes", &node("n1"));
    let set = "/apis/apps/v1/namespaces/default/daemonsets";
    // The server has a node of its own.
    let mut template = template(&labels, "Always");
    template["spec"]["nodeSelector"] = json!({"pool": "x"});
    s.create(set, &json!({"metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}));
    wait(&s, PODS, "one pod", |l| count(l) == 1);
    s.create("/api/v1/nodes", &node("n2"));
    wait(&s, PODS, "two pods", |l| count(l) == 2);
    wait(&s, &format!("{set}/agent"), "two desired", |d| {
        d["status"]["desiredNumberScheduled"] == 2
    });
    s.call("DELETE", "/api/v1/nodes/n2", None);
    wait(&s, PODS, "one pod again", |l| count(l) == 1);
}

#[test]
fn quota_limits_and_priority_are_admitted() {
    let s = Server::new();
    let ns = "/api/v1/namespaces/default";
    s.create(
        &format!("{ns}/limitranges"),
        &json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}}),
    );
    s.create(
        &format!("{ns}/resourcequotas"),
        &json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "requests.cpu": "1"}}}),
    );
    let pod = |name: &str, class: &str| {
        let mut pod =
            json!({"metadata": {"name": name}, "spec": template(&json!({}), "Always")["spec"]});
        if !class.is_empty() {
            pod["spec"]["priorityClassName"] = json!(class);
        }
        pod
    };
    let made = s.create(PODS, &pod("a", "system-node-critical"));
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let (code, refusal) = s.call("POST", PODS, Some(&pod("b", "")));
    assert_eq!(code, 403);
    assert_eq!(
        refusal["message"],
        "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    );
    let (code, _) = s.call("POST", PODS, Some(&pod("b", "no-such-class")));
    assert_eq!(code, 403);
    let used = json!({"pods": "1", "requests.cpu": "100m"});
    wait(&s, &format!("{ns}/resourcequotas/q"), "counted", |q| {
        q["status"]["used"] == used
    });
    s.call("DELETE", &format!("{PODS}/a?gracePeriodSeconds=0"), None);
    s.create(PODS, &pod("b", ""));
}

#[test]
fn an_eviction_waits_for_its_budget() {
    let s = Server::new();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    for name in ["a", "b"] {
        s.create(PODS, &json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": template(&json!({}), "Always")["spec"]}));
        set_status(&s, name, &ready("Running"));
    }
    s.create(budgets, &json!({"metadata": {"name": "x"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}}));
    let allowed = |n: i64| move |b: &Value| b["status"]["disruptionsAllowed"] == n;
    wait(&s, &format!("{budgets}/x"), "one may go", allowed(1));
    let evict = |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        s.call("POST", &format!("{PODS}/{name}/eviction"), Some(&body))
    };
    // `kubectl drain --dry-run=server` puts it there.
    let dry = json!({"metadata": {"name": "a"}, "deleteOptions": {"dryRun": ["All"]}});
    let (code, _) = s.call("POST", &format!("{PODS}/a/eviction"), Some(&dry));
    let stays = s.get(&format!("{PODS}/a"));
    assert!(code == 201 && stays["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(evict("a").0, 201);
    wait(&s, &format!("{budgets}/x"), "none may go", allowed(0));
    let (code, refusal) = evict("b");
    assert_eq!(
        (code, refusal["details"]["causes"][0]["reason"].as_str()),
        (429, Some("DisruptionBudget"))
    );
    assert_eq!(
        refusal["details"]["causes"][0]["message"],
        "The disruption budget x needs 1 healthy pods and has 1 currently"
    );
}
