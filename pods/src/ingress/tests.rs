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

/// A backend on loopback: it answers with the head that it got, and echoes after an upgrade.
fn backend() -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let mut io = io.unwrap();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && io.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                if String::from_utf8_lossy(&head).contains("upgrade: websocket") {
                    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
                    io.write_all(switch.as_bytes()).unwrap();
                    while io.read(&mut byte).unwrap_or(0) == 1 {
                        io.write_all(&byte).unwrap();
                    }
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    head.len()
                );
                let _ = io.write_all(answer.as_bytes());
                let _ = io.write_all(&head);
            });
        }
    });
    address
}

/// A server that leads the host `a.b` to a backend.
fn serving(to: std::net::SocketAddr) -> (super::server::Server, std::net::SocketAddr) {
    let objects = Objects {
        ingresses: vec![ingress("i", 0, json!({"rules": [rule("a.b", &[path("Prefix", "/", "web")])]}))],
        services: vec![serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"ports": [{"port": 80}]}})).unwrap()],
        slices: vec![serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": to.port()}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]})).unwrap()],
        ..Objects::default()
    };
    let table = std::sync::Arc::new(std::sync::RwLock::new(std::sync::Arc::new(Table::build(
        &objects,
    ))));
    let listener = super::server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (
        super::server::Server::start(table, listener, None).unwrap(),
        address,
    )
}

fn ask(to: std::net::SocketAddr, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut io = std::net::TcpStream::connect(to).unwrap();
    io.set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    io.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_a_client_says_of_its_address_is_not_believed() {
    let (_server, at) = serving(backend());
    let answer = ask(
        at,
        "GET /x?y=1 HTTP/1.1\r\nHost: A.b:80\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\n\
        X-Forwarded-Proto: https\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for part in [
        "GET /x?y=1 HTTP/1.1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http\r",
        "host: A.b:80",
        "cookie: a=1; b=2",
    ] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert!(
        !answer.contains("9.9.9.9") && !answer.contains("x-hop"),
        "{answer}"
    );
}

#[test]
fn requests_that_mean_two_things_are_refused() {
    let (_server, at) = serving(backend());
    let code = |request: &str| {
        ask(at, request)
            .split(' ')
            .nth(1)
            .unwrap_or("none")
            .to_owned()
    };
    assert_eq!(
        code("GET / HTTP/1.1\r\nHost: a.b\r\nHost: c.d\r\nConnection: close\r\n\r\n"),
        "400"
    );
    assert_eq!(
        code("GET /a/%2E%2e/b HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n"),
        "400"
    );
    assert_eq!(code("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"), "400");
    assert_eq!(
        code("CONNECT a.b:80 HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n"),
        "400"
    );
    assert_eq!(
        code("GET / HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"),
        "404"
    );
    let both = "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n";
    let smuggled = ask(at, both);
    assert!(!smuggled.contains("content-length: 3\r"), "{smuggled}");
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a.b\r\nX: {}\r\n\r\n",
        "y".repeat(100 << 10)
    );
    assert_eq!(code(&large), "431");
}

#[test]
fn a_connection_may_switch_protocols() {
    use std::io::{Read as _, Write as _};
    let (_server, at) = serving(backend());
    let mut io = std::net::TcpStream::connect(at).unwrap();
    io.set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    io.write_all(b"GET /ws HTTP/1.1\r\nHost: a.b\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        io.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    io.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    io.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
}

#[test]
fn an_endpoint_that_is_away_gives_503() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (server, at) = serving(gone);
    let request = "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n";
    assert!(ask(at, request).starts_with("HTTP/1.1 503"));
    drop(server);
}
