use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::controllers::endpoints::SERVICE_NAME;

fn service(extra: Value) -> Service {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    });
    json_patch::merge(&mut service, &extra);
    serde_json::from_value(service).unwrap()
}

fn slice(endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-x", "namespace": "default", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    }))
    .unwrap()
}

fn endpoint(ip: &str, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

#[test]
fn connections_are_shared_among_ready_endpoints() {
    let endpoints = json!([
        endpoint("10.1.0.3", true, true, false),
        endpoint("10.1.0.2", true, true, false),
        endpoint("10.1.0.4", false, false, false)
    ]);
    let text = plan("t", &[service(json!({}))], &[slice(endpoints)], &[], "n").unwrap();
    assert!(text.contains("10.96.0.7 . tcp . 80 : goto svc-"));
    assert!(text.contains("numgen inc mod 2 vmap"));
    assert!(text.contains("dnat ip to 10.1.0.2:8080") && !text.contains("10.1.0.4"));
}

#[test]
fn endpoints_that_end_serve_when_no_other_does() {
    let endpoints = json!([endpoint("10.1.0.4", false, true, true)]);
    let found = ports(&[service(json!({}))], &[slice(endpoints)], "n");
    assert_eq!(found[0].backends.len(), 1);
}

#[test]
fn without_endpoints_the_address_refuses() {
    let text = plan("t", &[service(json!({}))], &[], &[], "n").unwrap();
    assert!(!text.contains("goto svc-") && text.contains("elements = { 10.96.0.7 }"));
}

#[test]
fn headless_and_external_names_need_no_rules() {
    let headless = service(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let external = service(json!({"spec": {"type": "ExternalName"}}));
    assert_eq!(plan("t", &[headless, external], &[], &[], "n"), None);
}

#[test]
fn the_name_server_answers_by_its_cluster_address_alone() {
    let dns = NameServer {
        address: Ipv4Addr::new(10, 96, 0, 10),
        port: 5301,
        marked: false,
    };
    let text = plan("t", &[], &[], &[dns.into()], "n").unwrap();
    let redirect = "ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 53 redirect to :5301";
    assert_eq!(text.matches(redirect).count(), 2, "{text}");
    assert!(text.contains("th dport 5301 ct original ip daddr != 10.96.0.10 drop"));
}

#[test]
fn the_guard_of_a_port_knows_the_process_by_its_mark() {
    let api = Own {
        name: "api",
        address: Ipv4Addr::new(10, 96, 0, 1),
        asked: 443,
        port: 5302,
        marked: true,
    };
    let text = plan("t", &[], &[], &[api], "n").unwrap();
    // Who has the port later bears no mark: nothing is dropped of theirs.
    assert!(
        text.contains("dport 5302 socket mark 114 ct original ip daddr != 10.96.0.1 drop"),
        "{text}"
    );
    assert!(
        text.contains("dport 5302 socket mark != 114 ct original ip daddr 10.96.0.1 reject"),
        "{text}"
    );
}

#[test]
fn affinity_and_node_ports() {
    let with = json!({"spec": {"sessionAffinity": "ClientIP", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    let endpoints = json!([endpoint("10.1.0.2", true, true, false)]);
    let text = plan("t", &[service(with)], &[slice(endpoints)], &[], "n").unwrap();
    assert!(
        text.contains("jhash ip saddr mod 256 seed") && text.contains("tcp . 30080 : goto svc-")
    );
}

#[test]
fn local_policies_lead_to_endpoints_of_the_node() {
    let mut here = endpoint("10.1.0.2", true, true, false);
    here["nodeName"] = json!("n");
    let there = endpoint("10.1.0.3", true, true, false);
    let with = |inside: &str, outside: &str| {
        let spec = json!({"spec": {"type": "LoadBalancer", "internalTrafficPolicy": inside, "externalTrafficPolicy": outside,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        ports(&[service(spec)], &[slice(json!([here, there]))], "n").remove(0)
    };
    let count = |port: &Port| (port.backends.len(), port.outside.as_ref().map(Vec::len));
    assert_eq!(count(&with("Cluster", "Cluster")), (2, None));
    assert_eq!(count(&with("Cluster", "Local")), (2, Some(1)));
    assert_eq!(count(&with("Local", "Cluster")), (1, Some(2)));
    let text = script("t", &[with("Cluster", "Local")], &[]);
    assert!(
        text.contains("192.0.2.1 . tcp . 80 : goto svc-") && text.contains("-out"),
        "{text}"
    );
}

#[test]
fn a_balancers_address_refuses_on_the_services_port_alone() {
    let spec = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let text = plan("t", &[service(spec)], &[], &[], "n").unwrap();
    assert!(
        text.contains("elements = { 192.0.2.1 . tcp . 80 }"),
        "{text}"
    );
    assert!(
        text.contains("elements = { 10.96.0.7 }"),
        "the rest of the node's address is the node's: {text}"
    );
}
