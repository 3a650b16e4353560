//! CertificateSigningRequests: who asks, who decides, and what is signed. And roles that gather others.

#![allow(clippy::unwrap_used)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DnType, KeyPair};
use rrun_pods::api::auth::certificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use support::Server;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

fn request(name: &str, groups: &[&str]) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params
            .distinguished_name
            .push(DnType::OrganizationName, *group);
    }
    let made = params.serialize_request(&KeyPair::generate().unwrap());
    let pem = BASE64.encode(made.unwrap().pem().unwrap());
    json!({"metadata": {"name": name}, "spec": {"request": pem, "signerName": CLIENT,
        "usages": ["client auth"], "expirationSeconds": 3600}})
}

/// As a user, with everything that is asked in JSON.
fn by(server: &Server, user: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let headers = format!("content-type: application/json\r\nimpersonate-user: {user}\r\n");
    let (code, text) = server.request(method, path, &headers, &body.to_string());
    (code, serde_json::from_str(&text).unwrap())
}

fn decided(server: &Server, name: &str, kind: &str) -> Value {
    let mut object = server.get(&format!("{PATH}/{name}"));
    object["status"]["conditions"] =
        json!([{"type": kind, "status": "True", "reason": "Test", "message": "by a test"}]);
    object
}

fn allow(server: &Server, user: &str, rules: &Value) {
    let role = json!({"metadata": {"name": user}, "rules": rules});
    server.create(&format!("{RBAC}/clusterroles"), &role);
    let binding = json!({"metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    server.create(&format!("{RBAC}/clusterrolebindings"), &binding);
}

#[test]
fn a_request_is_signed_once_somebody_who_may_has_approved_it() {
    let server = Server::new();
    let group = "certificates.k8s.io";
    let all = json!({"apiGroups": [group], "resources": ["certificatesigningrequests",
        "certificatesigningrequests/approval", "certificatesigningrequests/status"],
        "verbs": ["create", "get", "update"]});
    let signers = json!({"apiGroups": [group], "resources": ["signers"],
        "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"]});
    allow(&server, "asks", &json!([all]));
    allow(&server, "decides", &json!([all, signers]));

    let mut asked = request("ann", &["dev"]);
    asked["spec"]["username"] = json!("somebody-else");
    let (code, made) = by(&server, "asks", "POST", PATH, &asked);
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["username"], "asks");
    assert_eq!(made["spec"]["groups"], json!(["system:authenticated"]));
    let approval = format!("{PATH}/ann/approval");
    let approved = decided(&server, "ann", "Approved");
    let (code, why) = by(&server, "asks", "PUT", &approval, &approved);
    assert_eq!(code, 403, "{why}");
    assert!(
        why["message"]
            .as_str()
            .unwrap()
            .contains("not permitted to approve"),
        "{why}"
    );
    let (code, why) = by(
        &server,
        "decides",
        "PUT",
        &format!("{PATH}/ann/status"),
        &approved,
    );
    assert_eq!(code, 403, "who decides does not sign: {why}");
    let (code, done) = by(&server, "decides", "PUT", &approval, &approved);
    assert_eq!(code, 200, "{done}");
    assert!(done["status"]["conditions"][0]["lastUpdateTime"].is_string());

    let signed = || {
        server.get(&format!("{PATH}/ann"))["status"]["certificate"]
            .as_str()
            .map(str::to_owned)
    };
    rrun_tests::wait_until("a certificate", std::time::Duration::from_secs(20), || {
        signed().is_some()
    });
    let pem = BASE64.decode(signed().unwrap()).unwrap();
    let user = certificate::user(&CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    assert_eq!(user.name, "ann");
    assert!(user.groups.contains(&"dev".to_owned()));
    let taken_back = decided(&server, "ann", "Denied");
    let (code, _) = by(&server, "decides", "PUT", &approval, &taken_back);
    assert_eq!(code, 422, "a decision stays");
}

#[test]
fn what_must_not_be_signed_is_refused_or_fails() {
    let server = Server::new();
    let (code, why) = server.call("POST", PATH, Some(&request("root", &["system:masters"])));
    assert_eq!(code, 403, "{why}");
    let mut broken = request("broken", &[]);
    broken["spec"]["request"] = json!(BASE64.encode("no PEM"));
    broken["spec"]["usages"] = json!(["eating"]);
    broken["spec"]["expirationSeconds"] = json!(1);
    let (code, why) = server.call("POST", PATH, Some(&broken));
    assert_eq!(code, 422);
    let text = why["message"].as_str().unwrap();
    for field in [
        "spec.request: Invalid",
        "spec.usages[0]: Unsupported",
        "spec.expirationSeconds: Invalid",
    ] {
        assert!(text.contains(field), "{field}: {text}");
    }
    let mut server_one = request("server", &[]);
    server_one["spec"]["usages"] = json!(["server auth"]);
    server.create(PATH, &server_one);
    let approved = decided(&server, "server", "Approved");
    let (code, _) = server.call("PUT", &format!("{PATH}/server/approval"), Some(&approved));
    assert_eq!(code, 200);
    let failed = || {
        let conditions = &server.get(&format!("{PATH}/server"))["status"]["conditions"];
        conditions[1]["type"] == "Failed"
    };
    rrun_tests::wait_until("the failure", std::time::Duration::from_secs(20), failed);
}

#[test]
fn roles_that_gather_others_have_their_rules_written_into_them() {
    let server = Server::new();
    let rules = |name: &str| server.get(&format!("{RBAC}/clusterroles/{name}"))["rules"].clone();
    // From the first moment.
    let admin = rules("admin").to_string();
    for resource in ["rolebindings", "pods/exec", "\"pods/log\""] {
        assert!(admin.contains(resource), "{resource}");
    }
    let label = "rbac.authorization.k8s.io/aggregate-to-view";
    let rule = json!({"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]});
    let role = json!({"metadata": {"name": "things", "labels": {label: "true"}}, "rules": [rule]});
    server.create(&format!("{RBAC}/clusterroles"), &role);
    let limit = std::time::Duration::from_secs(20);
    for name in ["view", "edit", "admin"] {
        let has = || rules(name).as_array().unwrap().contains(&rule);
        rrun_tests::wait_until(name, limit, has);
    }
    server.call("DELETE", &format!("{RBAC}/clusterroles/things"), None);
    for name in ["view", "edit", "admin"] {
        let has = || rules(name).as_array().unwrap().contains(&rule);
        rrun_tests::wait_until(name, limit, || !has());
    }
}
