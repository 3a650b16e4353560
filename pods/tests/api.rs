//! The API from outside, over its unix socket.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use support::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Without the one that every namespace has.
const OURS: &str = "fieldSelector=metadata.name!%3Dkube-root-ca.crt";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": name}},
        "template": {"metadata": {"labels": {"a": name}},
                     "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

#[test]
fn status_codes_and_reasons() {
    let s = Server::new();
    assert_eq!(
        s.create(MAPS, &map("a"))["metadata"]["namespace"],
        "default"
    );
    let refused = |method: &str, path: &str, body: Option<&Value>| {
        let (code, status) = s.call(method, path, body);
        assert_eq!(status["kind"], "Status", "{status}");
        (
            code,
            status["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let with = |code, reason: &str| (code, reason.to_owned());
    assert_eq!(
        refused("POST", MAPS, Some(&map("a"))),
        with(409, "AlreadyExists")
    );
    assert_eq!(
        refused("GET", &format!("{MAPS}/x"), None),
        with(404, "NotFound")
    );
    assert_eq!(
        refused("POST", MAPS, Some(&map("A_b"))),
        with(422, "Invalid")
    );
    assert_eq!(
        refused("POST", MAPS, Some(&json!([1]))),
        with(400, "BadRequest")
    );
    assert_eq!(
        refused("GET", "/api/v1/nonsense", None),
        with(404, "NotFound")
    );
    assert_eq!(
        refused("PUT", MAPS, Some(&map("a"))),
        with(405, "MethodNotAllowed")
    );
    let elsewhere = "/api/v1/namespaces/nowhere/configmaps";
    assert_eq!(
        refused("POST", elsewhere, Some(&map("a"))),
        with(404, "NotFound")
    );
    let other = json!({"metadata": {"name": "b", "namespace": "other"}});
    assert_eq!(refused("POST", MAPS, Some(&other)), with(400, "BadRequest"));
    let (code, _) = s.send("POST", MAPS, "text/html", Some(&map("b")));
    assert_eq!(code, 415);
    let (code, _) = s.request("GET", MAPS, "accept: text/html\r\n", "");
    assert_eq!(code, 406);
    assert_eq!(
        refused("DELETE", "/api/v1/namespaces/default", None),
        with(403, "Forbidden")
    );
}

#[test]
fn an_unknown_field_is_refused_with_its_path() {
    let s = Server::new();
    let mut d = deployment("a");
    d["spec"]["template"]["spec"]["containers"][0]["foo"] = json!(1);
    let (code, status) = s.call(
        "POST",
        &format!("{DEPLOYMENTS}?fieldValidation=Strict"),
        Some(&d),
    );
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    let want = "strict decoding error: unknown field \"spec.template.spec.containers[0].foo\"";
    assert!(message.ends_with(want), "{message}");
    let made = s.create(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), &d);
    assert!(made["spec"]["template"]["spec"]["containers"][0]["foo"].is_null());
}

#[test]
fn options_are_refused_in_kubernetes_words() {
    let s = Server::new();
    let mut ran = json!({"metadata": {"name": "ran"}, "spec": {"nodeName": "elsewhere",
        "containers": [{"name": "c", "image": "i"}]}});
    s.create(PODS, &ran);
    let says = |path: &str, code: u16, message: &str| {
        let (got, status) = s.call("GET", path, None);
        assert_eq!((got, status["message"].as_str()), (code, Some(message)));
    };
    let log = |query: &str| format!("{PODS}/ran/log?{query}");
    says(
        &log("tailLines=-1"),
        422,
        "PodLogOptions \"ran\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
    );
    says(
        &log("stream=Stderr&tailLines=1"),
        422,
        "PodLogOptions \"ran\" is invalid: : Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
    );
    says(
        &format!("{MAPS}?watch=1&sendInitialEvents=true"),
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
    let (_, status) = s.call("GET", &format!("{MAPS}?labelSelector=a%20b"), None);
    let message = status["message"].as_str().unwrap();
    let why = "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt";
    assert!(message.ends_with(why), "{message}");
    let mut large = map("large");
    large["data"] = json!({"k": "x".repeat((1 << 20) + 1)});
    let (_, status) = s.call("POST", MAPS, Some(&large));
    assert_eq!(
        status["message"],
        "ConfigMap \"large\" is invalid: []: Too long: may not be more than 1048576 bytes"
    );
    // What was noticed is told of a refusal too.
    ran["spec"] = json!({"foo": 1, "containers": []});
    let headers = "content-type: application/json\r\n";
    let (code, head) = s.head("POST", PODS, headers, &ran.to_string());
    let warning = "299 - \"unknown field \\\"spec.foo\\\"\"";
    assert!(code == 422 && head.contains(warning), "{head}");
}

#[test]
fn every_fault_of_an_object_is_named() {
    let s = Server::new();
    let bad = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Sometimes", "containers": [
        {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"name": "c", "image": "i"}]}});
    let (code, status) = s.call("POST", PODS, Some(&bad));
    assert_eq!(code, 422);
    let causes: Vec<(String, String)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            (
                c["field"].as_str().unwrap().into(),
                c["message"].as_str().unwrap().into(),
            )
        })
        .collect();
    for (field, message) in [
        ("spec.containers[0].image", "Required value"),
        (
            "spec.containers[0].volumeMounts[0].name",
            "Not found: \"v\"",
        ),
        ("spec.containers[1].name", "Duplicate value: \"c\""),
        (
            "spec.restartPolicy",
            "Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
    ] {
        assert!(
            causes.contains(&(field.into(), message.into())),
            "{field}: {causes:?}"
        );
    }
}

#[test]
fn writes_are_optimistic() {
    let s = Server::new();
    let made = s.create(MAPS, &map("a"));
    let path = format!("{MAPS}/a");
    let mut next = made.clone();
    next["data"]["k"] = json!("w");
    let (code, second) = s.call("PUT", &path, Some(&next));
    assert_eq!(code, 200);
    assert_ne!(
        second["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let (code, status) = s.call("PUT", &path, Some(&next));
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (_, same) = s.call("PUT", &path, Some(&second));
    assert_eq!(
        same, second,
        "an update that changes nothing writes nothing"
    );
    let stale = json!({"preconditions": {"uid": "other"}});
    assert_eq!(s.call("DELETE", &path, Some(&stale)).0, 409);
    assert_eq!(s.call("DELETE", &format!("{path}?dryRun=All"), None).0, 200);
    assert_eq!(s.call("DELETE", &path, None).0, 200);
    assert_eq!(s.call("GET", &path, None).0, 404);
}

#[test]
fn spec_and_status_are_written_apart() {
    let s = Server::new();
    let made = s.create(DEPLOYMENTS, &deployment("a"));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    let path = format!("{DEPLOYMENTS}/a");
    let merge = "application/merge-patch+json";
    let both = json!({"spec": {"paused": true}, "status": {"collisionCount": 7}});
    let (code, got) = s.send("PATCH", &path, merge, Some(&both));
    assert_eq!(
        (code, &got["metadata"]["generation"]),
        (200, &json!(2)),
        "{got}"
    );
    assert_ne!(got["status"]["collisionCount"], 7);
    let (code, got) = s.send("PATCH", &format!("{path}/status"), merge, Some(&both));
    assert_eq!((code, &got["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(got["status"]["collisionCount"], 7);
    let scale = json!({"spec": {"replicas": 4}});
    let (code, got) = s.send("PATCH", &format!("{path}/scale"), merge, Some(&scale));
    assert_eq!(
        (code, &got["kind"], &got["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(4))
    );
    assert_eq!(s.get(&path)["spec"]["replicas"], 4);
    let moved = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    let (code, got) = s.send("PATCH", &path, merge, Some(&moved));
    assert!(
        code == 422
            && got["message"]
                .as_str()
                .unwrap()
                .contains("field is immutable"),
        "{got}"
    );
}

#[test]
fn patches_of_each_kind() {
    let s = Server::new();
    s.create(DEPLOYMENTS, &deployment("a"));
    let path = format!("{DEPLOYMENTS}/a");
    let containers = |v: &Value| v["spec"]["template"]["spec"]["containers"].clone();
    let add =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}});
    let (code, got) = s.send(
        "PATCH",
        &path,
        "application/strategic-merge-patch+json",
        Some(&add),
    );
    assert_eq!((code, containers(&got).as_array().unwrap().len()), (200, 2));
    let ops = json!([{"op": "remove", "path": "/spec/template/spec/containers/1"}]);
    let (code, got) = s.send("PATCH", &path, "application/json-patch+json", Some(&ops));
    assert_eq!((code, containers(&got).as_array().unwrap().len()), (200, 1));
    let (code, got) = s.send("PATCH", &path, "application/merge-patch+json", Some(&add));
    assert_eq!((code, &containers(&got)[0]["name"]), (200, &json!("d")));
    assert_eq!(s.send("PATCH", &path, "application/xml", Some(&ops)).0, 415);
}

#[test]
fn lists_select_and_page() {
    let s = Server::new();
    for i in 0..7 {
        let mut m = map(&format!("m{i}"));
        m["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        s.create(MAPS, &m);
    }
    let count = |query: &str| {
        s.get(&format!("{MAPS}?{query}"))["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("labelSelector=odd%3Dtrue"), 3);
    assert_eq!(
        count(&format!("labelSelector=odd%20notin%20(true)&{OURS}")),
        4
    );
    assert_eq!(count("fieldSelector=metadata.name%3Dm3"), 1);
    assert_eq!(
        s.call("GET", &format!("{MAPS}?fieldSelector=data.k%3Dv"), None)
            .0,
        400
    );
    let (mut seen, mut more) = (Vec::new(), String::new());
    loop {
        let page = s.get(&format!("{MAPS}?{OURS}&limit=3&continue={more}"));
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        more = page["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if more.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    let (_, table) = s.request(
        "GET",
        &format!("{MAPS}?{OURS}"),
        "accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n",
        "",
    );
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["rows"][0]["cells"][0], "m0");
    assert_eq!(table["columnDefinitions"][1]["name"], "Data");
}

struct Lines(BufReader<UnixStream>);

impl Lines {
    fn watch(s: &Server, path: &str) -> Self {
        let mut io = UnixStream::connect(s.socket()).unwrap();
        io.set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        write!(io, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        Self(BufReader::new(io))
    }

    /// The next event: kind, name, resource version.
    fn next(&mut self) -> (String, String, u64) {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the watch ended");
            let Some(event) = serde_json::from_str::<Value>(&line)
                .ok()
                .filter(Value::is_object)
            else {
                continue;
            };
            let text = |at: &str| {
                event
                    .pointer(at)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let version = text("/object/metadata/resourceVersion")
                .parse()
                .unwrap_or(0);
            return (text("/type"), text("/object/metadata/name"), version);
        }
    }
}

#[test]
fn watches_tell_everything_once_and_resume() {
    let s = Server::new();
    s.create(MAPS, &map("a"));
    let mut all = Lines::watch(&s, &format!("{MAPS}?watch=true&{OURS}"));
    let first = all.next();
    assert_eq!((first.0.as_str(), first.1.as_str()), ("ADDED", "a"));
    let mut labelled = Lines::watch(
        &s,
        &format!(
            "{MAPS}?watch=true&labelSelector=x&resourceVersion={}",
            first.2
        ),
    );
    let merge = "application/merge-patch+json";
    let label = |v: Value| json!({"metadata": {"labels": {"x": v}}});
    s.send(
        "PATCH",
        &format!("{MAPS}/a"),
        merge,
        Some(&label(json!("1"))),
    );
    s.send(
        "PATCH",
        &format!("{MAPS}/a"),
        merge,
        Some(&label(Value::Null)),
    );
    s.call("DELETE", &format!("{MAPS}/a"), None);
    let kinds: Vec<String> = (0..3).map(|_| all.next().0).collect();
    assert_eq!(kinds, ["MODIFIED", "MODIFIED", "DELETED"]);
    assert_eq!(labelled.next().0, "ADDED");
    assert_eq!(
        labelled.next().0,
        "DELETED",
        "what is no longer selected is gone for the watcher"
    );
    let mut resumed = Lines::watch(
        &s,
        &format!("{MAPS}?watch=true&resourceVersion={}", first.2),
    );
    assert_eq!(resumed.next().0, "MODIFIED");
    let mut old = Lines::watch(&s, &format!("{MAPS}?watch=true&resourceVersion=1"));
    assert_eq!(
        old.next().0,
        "ADDED",
        "all of a young server's history is known"
    );
}

#[test]
fn a_watch_from_before_the_history_is_told_so() {
    let mut s = Server::new();
    let made = s.create(MAPS, &map("a"));
    let old = made["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    s.crash();
    s.create(MAPS, &map("b"));
    let mut watch = Lines::watch(&s, &format!("{MAPS}?watch=true&resourceVersion={old}"));
    assert_eq!(watch.next().0, "ERROR");
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let mut s = Server::new();
    let mut last = 0;
    for i in 0..20 {
        let made = s.create(MAPS, &map(&format!("m{i}")));
        let version: u64 = made["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(version > last);
        last = version;
        if i % 7 == 3 {
            s.crash();
        }
    }
    s.crash();
    let list = s.get(&format!("{MAPS}?{OURS}"));
    assert_eq!(list["items"].as_array().unwrap().len(), 20);
    let newest: u64 = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        newest >= last,
        "versions go on rising over a restart: {newest} after {last}"
    );
}

#[test]
fn owners_take_their_dependents_along_or_let_them_go() {
    let s = Server::new();
    let owner = s.create(MAPS, &map("owner"));
    let owned = |name: &str, block: bool| {
        let mut m = map(name);
        m["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": block}]);
        m
    };
    s.create(MAPS, &owned("orphan", false));
    let path = format!("{MAPS}/owner");
    let (code, got) = s.call(
        "DELETE",
        &path,
        Some(&json!({"propagationPolicy": "Orphan"})),
    );
    assert!(
        code == 200 && got["metadata"]["finalizers"][0] == "orphan",
        "{got}"
    );
    s.until(&path, 404);
    assert!(s.get(&format!("{MAPS}/orphan"))["metadata"]["ownerReferences"].is_null());

    let mut late = owned("late", true);
    late["metadata"]["finalizers"] = json!(["test/wait"]);
    let owner = s.create(MAPS, &map("owner"));
    late["metadata"]["ownerReferences"][0]["uid"] = owner["metadata"]["uid"].clone();
    s.create(MAPS, &late);
    s.call(
        "DELETE",
        &path,
        Some(&json!({"propagationPolicy": "Foreground"})),
    );
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        s.call("GET", &path, None).0,
        200,
        "the owner waits for what blocks it"
    );
    let free = json!({"metadata": {"finalizers": null}});
    s.send(
        "PATCH",
        &format!("{MAPS}/late"),
        "application/merge-patch+json",
        Some(&free),
    );
    s.until(&format!("{MAPS}/late"), 404);
    s.until(&path, 404);
}

#[test]
fn a_namespace_is_emptied_and_then_gone() {
    let s = Server::new();
    s.create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}));
    s.until("/api/v1/namespaces/n/serviceaccounts/default", 200);
    s.create("/api/v1/namespaces/n/configmaps", &map("a"));
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["test/wait"]);
    s.create("/api/v1/namespaces/n/configmaps", &held);
    let (code, got) = s.call("DELETE", "/api/v1/namespaces/n", None);
    assert_eq!(
        (code, &got["status"]["phase"]),
        (200, &json!("Terminating"))
    );
    let (code, status) = s.call("POST", "/api/v1/namespaces/n/configmaps", Some(&map("b")));
    assert_eq!(
        (code, &status["details"]["causes"][0]["reason"]),
        (403, &json!("NamespaceTerminating"))
    );
    s.until("/api/v1/namespaces/n/configmaps/a", 404);
    assert_eq!(s.call("GET", "/api/v1/namespaces/n", None).0, 200);
    let free = json!({"metadata": {"finalizers": null}});
    let path = "/api/v1/namespaces/n/configmaps/held";
    s.send("PATCH", path, "application/merge-patch+json", Some(&free));
    s.until("/api/v1/namespaces/n", 404);
}

#[test]
fn discovery_names_every_kind_in_each_of_its_forms() {
    let s = Server::new();
    let core = s.get("/api/v1");
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    for want in [
        "pods",
        "pods/log",
        "pods/status",
        "services",
        "namespaces/finalize",
    ] {
        assert!(names.contains(&want), "{want}: {names:?}");
    }
    let apps = s.get("/apis/apps/v1");
    assert!(apps["resources"].to_string().contains("deployments/scale"));
    let accept = "accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
    let (code, all) = s.request("GET", "/apis", accept, "");
    assert!(code == 200 && all.contains("\"singularResource\":\"deployment\""));
    assert_eq!(s.get("/version")["minor"], "36");
    assert!(s.get("/openapi/v3")["paths"]["apis/apps/v1"].is_object());
    let doc = s.get("/openapi/v3/api/v1");
    let patch = &doc["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert!(patch["parameters"].to_string().contains("fieldValidation"));
    assert!(s.get("/openapi/v2")["definitions"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert_eq!(s.request("GET", "/readyz", "", "").1, "ok");
}

#[test]
fn services_get_addresses_that_stay_their_own() {
    let s = Server::new();
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    let a = s.create(path, &service("a", "ClusterIP"));
    let ip = a["spec"]["clusterIP"].as_str().unwrap();
    let mut thief = service("b", "ClusterIP");
    thief["spec"]["clusterIP"] = json!(ip);
    let (code, status) = s.call("POST", path, Some(&thief));
    assert!(
        code == 422
            && status["message"]
                .as_str()
                .unwrap()
                .contains("already allocated")
    );
    let n = s.create(path, &service("n", "NodePort"));
    let port = n["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    let mut same = n.clone();
    same["spec"]["ports"][0]["nodePort"].take();
    let (_, kept) = s.call("PUT", &format!("{path}/n"), Some(&same));
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    let (_, gone) = s.call("DELETE", &format!("{path}/a"), None);
    assert_eq!(gone["kind"], "Service");
    s.create(path, &thief);
}
