//! Kinds that CustomResourceDefinitions declare, over the API.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRONS: &str = "/apis/stable.example.com/v1/namespaces/default/crons";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["schedule"],
        "properties": {"schedule": {"type": "string"},
                       "replicas": {"type": "integer", "minimum": 1, "default": 1}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                                                     "statusReplicasPath": ".status.replicas"}},
            "additionalPrinterColumns": [{"name": "When", "type": "string", "jsonPath": ".spec.schedule"}]})
    };
    json!({"metadata": {"name": "crons.stable.example.com"}, "spec": {"group": "stable.example.com",
        "scope": "Namespaced", "names": {"plural": "crons", "kind": "Cron", "shortNames": ["cr"]},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn cron(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Cron", "metadata": {"name": name}, "spec": spec})
}

fn established() -> Server {
    let s = Server::new();
    s.create(DEFINITIONS, &definition());
    s.until(CRONS, 200);
    s
}

#[test]
fn a_definition_is_a_kind_with_defaults_rules_and_versions() {
    let mut s = established();
    let made = s.create(CRONS, &cron("a", json!({"schedule": "*", "junk": 1})));
    assert_eq!(made["spec"], json!({"schedule": "*", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, refused) = s.call("POST", CRONS, Some(&cron("b", json!({"replicas": 0}))));
    assert_eq!((code, refused["reason"].as_str()), (422, Some("Invalid")));
    let said: Vec<&str> = refused["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["spec.schedule", "spec.replicas"]);

    let status =
        json!({"status": {"phase": "Good", "replicas": 1}, "spec": {"schedule": "ignored"}});
    let path = format!("{CRONS}/a/status");
    let (code, after) = s.send(
        "PATCH",
        &path,
        "application/merge-patch+json",
        Some(&status),
    );
    assert_eq!((code, &after["spec"]["schedule"]), (200, &json!("*")));
    let path = format!("{CRONS}/a/scale");
    let scale = json!({"spec": {"replicas": 4}});
    let (code, scaled) = s.send("PATCH", &path, "application/merge-patch+json", Some(&scale));
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)));

    let beta = s.get("/apis/stable.example.com/v1beta1/namespaces/default/crons/a");
    assert_eq!(beta["apiVersion"], "stable.example.com/v1beta1");
    assert_eq!(
        (&beta["spec"]["replicas"], &beta["metadata"]["generation"]),
        (&json!(4), &json!(2))
    );
    let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n";
    let (_, table) = s.request("GET", CRONS, accept, "");
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "*"]));
    let all = s.get("/apis/stable.example.com/v1");
    let names: Vec<&str> = all["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["crons", "crons/scale", "crons/status"]);
    let doc = s.get("/openapi/v3/apis/stable.example.com/v1");
    assert!(!doc["components"]["schemas"]["com.example.stable.v1.Cron"].is_null());

    s.crash();
    assert_eq!(s.get(&format!("{CRONS}/a"))["spec"]["replicas"], 4);
}

#[test]
fn a_definition_takes_its_objects_along_and_owners_their_dependents() {
    let s = established();
    let owner = s.create(CRONS, &cron("a", json!({"schedule": "*"})));
    let reference = json!([{"apiVersion": "stable.example.com/v1", "kind": "Cron", "name": "a",
                            "uid": owner["metadata"]["uid"]}]);
    let owned = json!({"metadata": {"name": "owned", "ownerReferences": reference}});
    s.create("/api/v1/namespaces/default/configmaps", &owned);
    let (code, _) = s.call("DELETE", &format!("{CRONS}/a"), None);
    assert_eq!(code, 200);
    s.until("/api/v1/namespaces/default/configmaps/owned", 404);

    s.create(CRONS, &cron("b", json!({"schedule": "*"})));
    let path = format!("{DEFINITIONS}/crons.stable.example.com");
    assert_eq!(s.call("DELETE", &path, None).0, 200);
    s.until(&path, 404);
    assert_eq!(s.call("GET", CRONS, None).0, 404);
    s.create(DEFINITIONS, &definition());
    s.until(CRONS, 200);
    assert_eq!(s.get(CRONS)["items"], json!([]));
}

/// The program's own commands, on the server's socket.
fn program(s: &Server, words: &[&str], input: &str) -> (bool, String) {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_rrun-pods"))
        .arg("--socket")
        .arg(s.socket())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let done = child.wait_with_output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn the_programs_own_commands_know_declared_kinds() {
    let s = established();
    let says = |words: &[&str], input: &str, want: &str| {
        let (ok, said) = program(&s, words, input);
        assert!(ok && said.contains(want), "{words:?}: {said}");
    };
    let plain = cron("a", json!({"schedule": "*"})).to_string();
    says(
        &["apply", "-f", "-"],
        &plain,
        "cron.stable.example.com/a created",
    );
    says(
        &["apply", "-f", "-"],
        &plain,
        "cron.stable.example.com/a unchanged",
    );
    let changed = cron("a", json!({"schedule": "1", "replicas": 2})).to_string();
    says(&["apply", "-f", "-"], &changed, "configured");
    // What is taken out of the manifest goes, and its default comes back.
    says(&["apply", "-f", "-"], &plain, "configured");
    let path = "jsonpath={.spec.schedule} {.spec.replicas}";
    says(&["get", "cr", "a", "-o", path], "", "* 1");
    says(&["get", "crons"], "", "WHEN");
    let columns = "custom-columns=N:.metadata.name,S:.spec.schedule,X:.spec.none";
    says(&["get", "cron/a", "-o", columns], "", "a   *   <none>");
    says(&["scale", "cron/a", "--replicas", "3"], "", "scaled");
    says(
        &["describe", "crons.stable.example.com", "a"],
        "",
        "schedule:",
    );
    says(&["delete", "cr", "a"], "", "\"a\" deleted");
    let (ok, said) = program(&s, &["get", "crumbs"], "");
    assert!(
        !ok && said.contains("the server doesn't have a resource type \"crumbs\""),
        "{said}"
    );
}
