use serde_json::{Value, json};

use super::table::{Objects, is_ours};
use super::*;

fn ingress(name: &str, age: u32, spec: Value) -> k8s_openapi::api::networking::v1::Ingress {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default",
        "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}, "spec": spec}))
    .unwrap()
}

fn path(kind: &str, path: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn rule(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

fn table(ingresses: Vec<k8s_openapi::api::networking::v1::Ingress>) -> Table {
    Table::build(&Objects {
        ingresses,
        ..Objects::default()
    })
}

/// The Service that a request comes to.
fn to(table: &Table, host: &str, path: &str) -> String {
    let name = table.route(host, path).map(|t| t.name.clone());
    let name = name.unwrap_or_default();
    let name = name.strip_prefix("default/").unwrap_or(&name);
    name.strip_suffix(":80").unwrap_or(name).to_owned()
}

#[test]
fn paths_match_by_whole_elements() {
    let asked = |kind: &str, given: &str, path_asked: &str| {
        let spec = json!({"rules": [{"http": {"paths": [path(kind, given, "a")]}}]});
        to(&table(vec![ingress("i", 0, spec)]), "x", path_asked) == "a"
    };
    for (kind, given, path, matches) in [
        ("Prefix", "/", "/any/thing", true),
        ("Prefix", "/", "/", true),
        ("Exact", "/foo", "/foo", true),
        ("Exact", "/foo", "/bar", false),
        ("Exact", "/foo", "/foo/", false),
        ("Exact", "/foo/", "/foo", false),
        ("Exact", "/foo/", "/foo/", true),
        ("Prefix", "/foo", "/foo", true),
        ("Prefix", "/foo", "/foo/", true),
        ("Prefix", "/foo/", "/foo", true),
        ("Prefix", "/foo/", "/foo/", true),
        ("Prefix", "/aaa/bb", "/aaa/bbb", false),
        ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
        ("Prefix", "/foo", "/FOO", false),
        ("ImplementationSpecific", "", "/x", true),
    ] {
        assert_eq!(asked(kind, given, path), matches, "{kind} {given} {path}");
    }
}

#[test]
fn the_longest_path_counts_and_exact_before_prefix() {
    let paths = [
        path("Prefix", "/", "root"),
        path("Prefix", "/aaa", "a"),
        path("Prefix", "/aaa/bbb", "b"),
        path("Prefix", "/foo", "prefix"),
        path("Exact", "/foo", "exact"),
    ];
    let table = table(vec![ingress(
        "i",
        0,
        json!({"rules": [{"http": {"paths": paths}}]}),
    )]);
    for (path, service) in [
        ("/x", "root"),
        ("/aaa/ccc", "a"),
        ("/aaa/bbb", "b"),
        ("/foo", "exact"),
        ("/foo/x", "prefix"),
    ] {
        assert_eq!(to(&table, "h", path), service, "{path}");
    }
}

#[test]
fn hosts_are_exact_before_wild_before_any() {
    let spec = json!({"rules": [
        rule("", &[path("Prefix", "/", "any")]),
        rule("*.foo.com", &[path("Prefix", "/", "wild")]),
        rule("bar.foo.com", &[path("Prefix", "/only", "bar")]),
    ]});
    let table = table(vec![ingress("i", 0, spec)]);
    for (host, path, service) in [
        ("bar.foo.com", "/only", "bar"),
        ("bar.foo.com", "/", "any"),
        ("baz.foo.com", "/", "wild"),
        // One label and no more.
        ("a.baz.foo.com", "/", "any"),
        ("foo.com", "/", "any"),
        (".foo.com", "/", "any"),
    ] {
        assert_eq!(to(&table, host, path), service, "{host} {path}");
    }
}

#[test]
fn the_default_backend_takes_what_is_left() {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
    let one = ingress(
        "one",
        0,
        json!({"defaultBackend": backend("own"), "rules": [rule("a.b", &[path("Exact", "/x", "x")])]}),
    );
    let two = ingress("two", 1, json!({"defaultBackend": backend("late")}));
    let table = table(vec![two, one]);
    assert_eq!(to(&table, "a.b", "/x"), "x");
    assert_eq!(to(&table, "a.b", "/y"), "own");
    assert_eq!(to(&table, "other", "/"), "own");
    assert_eq!(to(&Table::default(), "other", "/"), "");
}

#[test]
fn the_older_of_two_rules_for_the_same_counts() {
    let of = |service: &str| json!({"rules": [rule("a.b", &[path("Prefix", "/", service)])]});
    let all = vec![
        ingress("young", 9, of("young")),
        ingress("old", 1, of("old")),
    ];
    assert_eq!(to(&table(all), "a.b", "/"), "old");
}

#[test]
fn endpoints_are_the_ready_ones_of_the_services_port() {
    let service = |v: Value| serde_json::from_value(v).unwrap();
    let objects = Objects {
        ingresses: vec![ingress("i", 0, json!({"defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}}}))],
        services: vec![service(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"ports": [{"name": "other", "port": 81}, {"name": "http", "port": 80}]}}))],
        slices: vec![serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}]})).unwrap()],
        ..Objects::default()
    };
    let table = Table::build(&objects);
    let target = table.route("x", "/").unwrap();
    let turn = || target.choose().map(|a| a.to_string()).collect::<Vec<_>>();
    assert_eq!(turn(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(turn(), ["10.0.0.2:8080", "10.0.0.1:8080"]);
}

#[test]
fn a_class_of_another_controller_is_not_ours() {
    let class = |name: &str, controller: &str| {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"controller": controller}}),
        )
        .unwrap()
    };
    let classes = [
        class("rrun", CONTROLLER),
        class("nginx", "k8s.io/ingress-nginx"),
    ];
    for (name, ours) in [
        (json!("rrun"), true),
        (json!("nginx"), false),
        (json!("unknown"), false),
        (Value::Null, true),
    ] {
        let ingress = ingress("i", 0, json!({"ingressClassName": name}));
        assert_eq!(is_ours(&ingress, &classes), ours, "{name}");
    }
}

#[test]
fn a_broken_secret_is_told_and_serves_the_rest() {
    let spec = json!({"tls": [{"hosts": ["a.b"], "secretName": "none"}], "rules": [rule("a.b", &[path("Prefix", "/", "web")])]});
    let table = table(vec![ingress("i", 0, spec)]);
    assert_eq!(
        table.faults,
        [(
            "default".to_owned(),
            "i".to_owned(),
            "Secret none: not found".to_owned()
        )]
    );
    assert_eq!(to(&table, "a.b", "/"), "web");
}
