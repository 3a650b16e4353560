//! The plan of policies, asked as packets would.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(ns: &str, name: &str, app: &str, ip: &str, ports: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": ns, "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    }))
    .unwrap()
}

fn namespace(name: &str) -> Namespace {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}),
    )
    .unwrap()
}

/// As it is stored: with its defaults.
fn policy(ns: &str, spec: Value) -> NetworkPolicy {
    let mut object = json!({"metadata": {"namespace": ns, "name": "p"}, "spec": spec});
    (crate::api::kinds::NETWORK_POLICY.defaults)(&mut object);
    serde_json::from_value(object).unwrap()
}

/// web 10.0.0.1, client 10.0.0.2, other 10.0.0.3 in `default`; monitor 10.0.1.1 in `ops`.
fn groups(policies: &[NetworkPolicy]) -> Vec<Group> {
    let http = json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]);
    let pods = [
        pod("default", "web", "web", "10.0.0.1", http),
        pod("default", "client", "client", "10.0.0.2", json!([])),
        pod("default", "other", "other", "10.0.0.3", json!([])),
        pod("ops", "monitor", "client", "10.0.1.1", json!([])),
    ];
    let namespaces = [namespace("default"), namespace("ops")];
    plan_of(policies, &pods, &namespaces, &BTreeMap::new())
}

/// Whether a new connection is let through, as the table's chains decide.
fn passes(groups: &[Group], from: &str, to: &str, protocol: &str, port: u16) -> bool {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    if from == to && groups.iter().any(|g| g.pods.contains(&from)) {
        return true;
    }
    let allowed = |group: &Group, peer: IpAddr| {
        group.allows.iter().any(|allow| {
            let range = Range::from(peer);
            let within =
                |r: &Range| r.six == range.six && r.first <= range.first && range.last <= r.last;
            let ports = &allow.ports;
            let numbers = ports.numbers.iter().filter(|(p, _)| **p == protocol);
            let mut numbers = numbers.flat_map(|(_, n)| n);
            allow.peers.as_ref().is_none_or(|p| p.iter().any(within))
                && (ports.any
                    || ports.protocols.iter().any(|p| *p == protocol)
                    || numbers.any(|(first, last)| (*first..=*last).contains(&port))
                    || ports
                        .named
                        .iter()
                        .any(|(ip, p, n)| *ip == to && *p == protocol && *n == port))
        })
    };
    groups.iter().all(|group| match group.direction {
        Direction::Egress => !group.pods.contains(&from) || allowed(group, to),
        Direction::Ingress => !group.pods.contains(&to) || allowed(group, from),
    })
}

const WEB: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.2";
const OTHER: &str = "10.0.0.3";
const MONITOR: &str = "10.0.1.1";
const WORLD: &str = "192.0.2.9";

/// Who of the four others reaches port 8080 of web.
fn reach(policies: &[NetworkPolicy]) -> Vec<&'static str> {
    let groups = groups(policies);
    let all = [CLIENT, OTHER, MONITOR, WORLD];
    all.into_iter()
        .filter(|from| passes(&groups, from, WEB, "tcp", 8080))
        .collect()
}

#[test]
fn without_a_policy_everybody_speaks_with_everybody() {
    assert!(groups(&[]).is_empty());
    let elsewhere = policy(
        "ops",
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
    );
    assert!(groups(&[elsewhere]).is_empty());
}

#[test]
fn default_deny_keeps_all_out_but_the_pod_itself() {
    let all = policy("default", json!({"podSelector": {}}));
    assert!(reach(std::slice::from_ref(&all)).is_empty());
    let groups = groups(&[all]);
    assert!(passes(&groups, WEB, WEB, "tcp", 8080));
    assert!(passes(&groups, WEB, MONITOR, "tcp", 80), "egress is open");
    assert!(passes(&groups, WEB, WORLD, "tcp", 80));
}

#[test]
fn peers_are_pods_of_the_namespace_or_of_those_selected() {
    let from = |peer: Value| {
        policy(
            "default",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peer}]}),
        )
    };
    let client = json!({"matchLabels": {"app": "client"}});
    let ops = json!({"matchLabels": {"kubernetes.io/metadata.name": "ops"}});
    for (peers, who) in [
        (json!([{"podSelector": client}]), vec![CLIENT]),
        (json!([{"podSelector": {}}]), vec![CLIENT, OTHER]),
        (
            json!([{"namespaceSelector": {}}]),
            vec![CLIENT, OTHER, MONITOR],
        ),
        (json!([{"namespaceSelector": ops}]), vec![MONITOR]),
        (
            json!([{"namespaceSelector": {}, "podSelector": client}]),
            vec![CLIENT, MONITOR],
        ),
        (
            json!([{"namespaceSelector": ops}, {"podSelector": client}]),
            vec![CLIENT, MONITOR],
        ),
        (
            json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/24"]}}]),
            vec![MONITOR, WORLD],
        ),
        (json!([]), vec![CLIENT, OTHER, MONITOR, WORLD]),
        (
            json!([{"podSelector": {"matchLabels": {"app": "nobody"}}}]),
            vec![],
        ),
    ] {
        assert_eq!(reach(&[from(peers.clone())]), who, "{peers}");
    }
}

#[test]
fn policies_add_up() {
    let allow = |app: &str| {
        policy(
            "default",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]}),
        )
    };
    let deny = policy("default", json!({"podSelector": {}}));
    assert_eq!(
        reach(&[deny, allow("client"), allow("other")]),
        [CLIENT, OTHER]
    );
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let on = |ports: Value| {
        groups(&[policy(
            "default",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": ports}]}),
        )])
    };
    for (ports, tcp, open, udp) in [
        (json!([{"port": 8080}]), 8080, true, false),
        (json!([{"port": 8080}]), 8081, false, false),
        (json!([{"port": 8000, "endPort": 8100}]), 8080, true, false),
        (json!([{"port": 8000, "endPort": 8100}]), 8101, false, false),
        (json!([{"port": "http"}]), 8080, true, false),
        (
            json!([{"port": "http", "protocol": "UDP"}]),
            8080,
            false,
            false,
        ),
        (json!([{"port": "none"}]), 8080, false, false),
        (json!([{"protocol": "UDP"}]), 8080, false, true),
        (
            json!([{"port": 8080}, {"port": 8080, "protocol": "UDP"}]),
            8080,
            true,
            true,
        ),
        (json!([]), 9, true, true),
    ] {
        let groups = on(ports.clone());
        assert_eq!(
            passes(&groups, CLIENT, WEB, "tcp", tcp),
            open,
            "{ports} {tcp}"
        );
        assert_eq!(
            passes(&groups, CLIENT, WEB, "udp", tcp),
            udp,
            "{ports} {tcp}"
        );
    }
}

#[test]
fn egress_and_ingress_must_both_allow() {
    let out = policy(
        "default",
        json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]}),
    );
    let groups_of = |more: &[NetworkPolicy]| groups(&[std::slice::from_ref(&out), more].concat());
    let open = groups_of(&[]);
    assert!(
        passes(&open, CLIENT, WEB, "tcp", 8080),
        "a name is the destination's"
    );
    assert!(!passes(&open, CLIENT, OTHER, "tcp", 8080));
    assert!(!passes(&open, CLIENT, WORLD, "tcp", 443));
    assert!(passes(&open, OTHER, CLIENT, "tcp", 1), "ingress is open");
    let closed = groups_of(&[policy(
        "default",
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
    )]);
    assert!(!passes(&closed, CLIENT, WEB, "tcp", 8080));
}

#[test]
fn pods_that_ended_and_pods_of_the_host_are_nobody() {
    let mut ended = pod("default", "a", "web", "10.0.0.1", json!([]));
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut host = pod("default", "b", "web", "192.168.0.1", json!([]));
    host.spec.as_mut().unwrap().host_network = Some(true);
    let all = policy("default", json!({"podSelector": {}}));
    assert!(plan_of(&[all], &[ended, host], &[], &BTreeMap::new()).is_empty());
}

#[test]
fn a_pod_is_guarded_before_its_status_tells_its_address() {
    let mut new = pod("default", "new", "web", "10.0.0.9", json!([]));
    new.status = None;
    let early = BTreeMap::from([("new".to_owned(), vec!["10.0.0.9".parse().unwrap()])]);
    let all = policy("default", json!({"podSelector": {}}));
    let groups = plan_of(&[all], &[new], &[namespace("default")], &early);
    assert!(!passes(&groups, CLIENT, "10.0.0.9", "tcp", 80));
}

#[test]
fn the_table_has_what_the_plan_says() {
    let text = script(
        "t",
        &groups(&[policy(
            "default",
            json!({
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "2001:db8::/32"}}],
                     "ports": [{"port": 80}, {"port": 8000, "endPort": 8100}, {"port": "http"}, {"protocol": "UDP"}]}]}),
        )]),
    );
    for part in [
        "add table inet t\ndelete table inet t\n",
        "elements = { 10.0.0.1-10.0.0.3 }",
        "elements = { 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff }",
        "ip saddr @peers0_4 tcp dport { 80, 8000-8100 } return",
        "ip6 saddr @peers0_6 meta l4proto { udp } return",
        "ip saddr @peers0_4 ip daddr . meta l4proto . th dport { 10.0.0.1 . tcp . 8080 } return",
        "10.0.0.1 : jump group0",
        "chain group1 { comment \"Egress: default/p\"\n    drop",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// A selector for one or another part of the pods.
fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"app": "web"}})),
        Just(
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["client"]}]})
        ),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|s| json!({"podSelector": s})),
        selector().prop_map(|s| json!({"namespaceSelector": {}, "podSelector": s})),
        Just(json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/30"]}})),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/16"}})),
    ]
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        Just(json!({"port": 8080})),
        Just(json!({"port": "http"})),
        Just(json!({"protocol": "UDP"}))
    ];
    let lists = (
        prop::collection::vec(peer(), 0..3),
        prop::collection::vec(port, 0..3),
    );
    lists.prop_map(move |(who, ports)| json!({peers: who, "ports": ports}))
}

fn any_policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = (
        prop::collection::vec(rule("from"), 0..3),
        prop::collection::vec(rule("to"), 0..3),
    );
    let types = prop_oneof![
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Ingress", "Egress"]))
    ];
    (selector(), rules, types, prop_oneof![Just("default"), Just("ops")]).prop_map(
        |(selector, (ingress, egress), types, ns)| {
            policy(ns, json!({"podSelector": selector, "ingress": ingress, "egress": egress, "policyTypes": types}))
        },
    )
}

const ALL: [&str; 5] = [WEB, CLIENT, OTHER, MONITOR, WORLD];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A policy more isolates more pods or allows more to those isolated already, and the order of
    /// policies says nothing.
    #[test]
    fn policies_only_add_what_they_allow(some in prop::collection::vec(any_policy(), 0..4), one in any_policy()) {
        let before = groups(&some);
        let more = groups(&[some.clone(), vec![one.clone()]].concat());
        let turned = groups(&[vec![one], some].concat());
        let isolated = |groups: &[Group], way: Direction, ip: &str| {
            let ip: IpAddr = ip.parse().unwrap();
            groups.iter().any(|g| g.direction == way && g.pods.contains(&ip))
        };
        for from in ALL {
            for to in ALL.into_iter().filter(|to| *to != from) {
                for (protocol, port) in [("tcp", 8080), ("tcp", 9), ("udp", 53)] {
                    let (was, is) = (passes(&before, from, to, protocol, port), passes(&more, from, to, protocol, port));
                    prop_assert_eq!(is, passes(&turned, from, to, protocol, port));
                    let newly = isolated(&more, Direction::Egress, from) != isolated(&before, Direction::Egress, from)
                        || isolated(&more, Direction::Ingress, to) != isolated(&before, Direction::Ingress, to);
                    prop_assert!(is || !was || newly, "{from} -> {to} {protocol} {port}");
                }
            }
        }
    }
}
