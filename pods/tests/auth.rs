//! Who may do what: roles, tokens of ServiceAccounts, impersonation, reviews.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod support;

use serde_json::{Value, json};
use support::Server;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

struct Asked<'a> {
    server: &'a Server,
    headers: String,
}

impl Asked<'_> {
    fn request(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = format!("content-type: application/json\r\n{}", self.headers);
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (code, text) = self.server.request(method, path, &headers, &body);
        (
            code,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    fn get(&self, path: &str) -> u16 {
        self.request("GET", path, &Value::Null).0
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.request("POST", path, &body)
    }
}

fn root(server: &Server) -> Asked<'_> {
    Asked {
        server,
        headers: String::new(),
    }
}

fn token<'a>(server: &'a Server, account: &str) -> Asked<'a> {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let (code, answer) = root(server).post(&path, json!({"spec": {"expirationSeconds": 600}}));
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();
    Asked {
        server,
        headers: format!("authorization: Bearer {token}\r\n"),
    }
}

fn account(server: &Server, name: &str) {
    let made = root(server).post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": name}}),
    );
    assert_eq!(made.0, 201, "{}", made.1);
}

fn bind(server: &Server, account: &str, role: &str) {
    let binding = json!({"metadata": {"name": format!("{account}:{role}")},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}]});
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    let made = root(server).post(&path, binding);
    assert_eq!(made.0, 201, "{}", made.1);
}

#[test]
fn accounts_do_what_their_roles_say_and_no_more() {
    let server = Server::new();
    account(&server, "reader");
    let reader = token(&server, "reader");
    let pods = "/api/v1/namespaces/default/pods";
    let (code, refusal) = reader.request("GET", pods, &Value::Null);
    assert_eq!(code, 403);
    assert_eq!(
        refusal["message"],
        "pods is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \
         \"pods\" in API group \"\" in the namespace \"default\""
    );
    bind(&server, "reader", "view");
    assert_eq!(reader.get(pods), 200);
    for path in [
        "/api/v1/pods",
        "/api/v1/namespaces/kube-system/pods",
        "/api/v1/namespaces/default/secrets",
        "/metrics",
    ] {
        assert_eq!(reader.get(path), 403, "{path}");
    }
    // What everybody who is known may.
    for path in ["/api", "/apis", "/version", "/openapi/v2"] {
        assert_eq!(reader.get(path), 200, "{path}");
    }
    let map = json!({"metadata": {"name": "m"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(reader.post(maps, map.clone()).0, 403);
    bind(&server, "reader", "edit");
    assert_eq!(reader.post(maps, map).0, 201);

    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(
        reader.post(reviews, review.clone()).1["status"]["allowed"],
        false
    );
    assert_eq!(
        root(&server).post(reviews, review).1["status"]["allowed"],
        true
    );
    let who = reader.post(
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        json!({}),
    );
    let name = &who.1["status"]["userInfo"]["username"];
    assert_eq!(name, "system:serviceaccount:default:reader");
}

#[test]
fn nobody_gives_more_than_they_have() {
    let server = Server::new();
    account(&server, "boss");
    bind(&server, "boss", "admin");
    let boss = token(&server, "boss");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |group: &str, resource: &str| {
        json!({"metadata": {"name": resource}, "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": ["get"]}]})
    };
    assert_eq!(boss.post(&roles, role("", "pods")).0, 201);
    let (code, refusal) = boss.post(&roles, role("", "nodes"));
    assert_eq!(code, 403);
    let message = refusal["message"].as_str().unwrap();
    assert!(
        message.contains("permissions not currently held"),
        "{message}"
    );
    let patch = json!([{"op": "replace", "path": "/rules/0/resources/0", "value": "nodes"}]);
    let headers = format!(
        "content-type: application/json-patch+json\r\n{}",
        boss.headers
    );
    let path = format!("{roles}/pods");
    assert_eq!(
        server
            .request("PATCH", &path, &headers, &patch.to_string())
            .0,
        403
    );
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "boss", "namespace": "default"}]});
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(boss.post(&bindings, binding).0, 403);
}

#[test]
fn tokens_and_names_that_do_not_hold_are_refused() {
    let mut server = Server::new();
    account(&server, "a");
    let held = token(&server, "a").headers;
    let get = |server: &Server, headers: &str| {
        let (headers, path) = (headers.to_owned(), "/api");
        Asked { server, headers }.get(path)
    };
    assert_eq!(get(&server, &held), 200);
    assert_eq!(get(&server, "authorization: Bearer a.b.c\r\n"), 401);
    server.crash();
    assert_eq!(get(&server, &held), 200, "the key outlives a restart");
    let review = json!({"spec": {"token": held.trim().rsplit(' ').next().unwrap()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = root(&server).post(reviews, review.clone()).1;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    let path = "/api/v1/namespaces/default/serviceaccounts/a";
    assert_eq!(root(&server).request("DELETE", path, &Value::Null).0, 200);
    assert_eq!(get(&server, &held), 401, "the account is gone");
    let answer = root(&server).post(reviews, review).1;
    assert_eq!(answer["status"]["authenticated"], false, "{answer}");

    let pods = "/api/v1/namespaces/default/pods";
    let as_ann = "impersonate-user: ann\r\n";
    let ann = |headers: &str| {
        Asked {
            server: &server,
            headers: headers.to_owned(),
        }
        .get(pods)
    };
    assert_eq!(ann(as_ann), 403);
    assert_eq!(
        ann(&format!("{as_ann}impersonate-group: system:masters\r\n")),
        200
    );
    account(&server, "b");
    let b = token(&server, "b").headers;
    assert_eq!(ann(&format!("{b}impersonate-user: ann\r\n")), 403);
}

#[test]
fn roles_are_refused_where_they_mean_nothing() {
    let server = Server::new();
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bad =
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": [], "nonResourceURLs": ["/x"]}]});
    let (code, answer) = root(&server).post(&roles, bad);
    assert_eq!(code, 422);
    let fields: Vec<&str> = answer["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["rules[0].verbs", "rules[0].nonResourceURLs"]);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}});
    let (code, _) = root(&server).post(&format!("{RBAC}/clusterrolebindings"), binding);
    assert_eq!(code, 422, "a ClusterRoleBinding of a Role");
}
