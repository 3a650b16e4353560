//! The network of real pods: rrun-cri and rrun-pods as they are, packets as they go.

#![allow(clippy::unwrap_used)]

use rrun_tests::{Line, Need, PATIENCE, require, wait_until};

fn pod(namespace: &str, name: &str, app: &str, command: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {}
    command: [sh, -c, \"{command}\"]
    ports: [{{name: http, containerPort: 8080}}]
---
",
        Line::IMAGE
    )
}

const SERVE: &str = "mkdir -p /www; echo here > /www/index.html; httpd -p 8080 -h /www; httpd -p 9090 -h /www; sleep 100000";

struct Net {
    line: Line,
    web: String,
    /// Its IPv6 address, in brackets; none where the machine has no IPv6.
    web6: Option<String>,
}

impl Net {
    fn start() -> Self {
        let line = Line::start();
        let mut all = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: ops}\n---\n");
        all.push_str("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n---\n");
        all.push_str(&pod("default", "web", "web", SERVE));
        all.push_str(&pod("default", "client", "client", "sleep 100000"));
        all.push_str(&pod("ops", "monitor", "client", "sleep 100000"));
        line.apply(&all);
        for (namespace, name) in [
            ("default", "web"),
            ("default", "client"),
            ("ops", "monitor"),
        ] {
            line.await_ready(namespace, name);
        }
        let web = line.get(&["pod", "web", "-o", "jsonpath={.status.podIP}"]);
        let all = line.get(&["pod", "web", "-o", "jsonpath={.status.podIPs[*].ip}"]);
        let web6 = all.split_whitespace().find(|ip| ip.contains(':'));
        let web6 = web6.map(|ip| format!("[{ip}]"));
        Self { line, web, web6 }
    }

    /// Whether a pod gets an answer.
    fn reaches(&self, namespace: &str, pod: &str, url: &str) -> bool {
        let words = format!("busybox timeout 2 wget -q -O - http://{url}/ < /dev/null");
        self.line.shell(namespace, pod, &words).1.trim() == "here"
    }

    fn becomes(&self, what: &str, namespace: &str, pod: &str, url: &str, open: bool) {
        wait_until(what, PATIENCE, || self.reaches(namespace, pod, url) == open);
    }

    fn policy(&self, name: &str, spec: &str) {
        self.line.apply(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        ));
    }
}

#[test]
fn network_policies_hold_between_real_pods() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let mut net = Net::start();
    let (port, other) = (format!("{}:8080", net.web), format!("{}:9090", net.web));
    net.becomes("an open network", "default", "client", &port, true);
    let six = |port: u16| net.web6.as_ref().map(|ip| format!("{ip}:{port}"));
    let (port6, other6) = (six(8080), six(9090));
    let over6 = |to: &Option<String>, namespace: &str, pod: &str, open: bool, what: &str| {
        if let Some(to) = to {
            assert_eq!(net.reaches(namespace, pod, to), open, "{what} over IPv6");
        }
    };
    if let Some(to) = &port6 {
        // An address of IPv6 is not used before the kernel has looked for others that have it.
        net.becomes("an open network over IPv6", "default", "client", to, true);
    }

    net.policy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    net.becomes("default deny", "default", "client", &port, false);
    assert!(
        !net.reaches("ops", "monitor", &port),
        "from another namespace"
    );
    over6(&port6, "default", "client", false, "default deny");
    over6(&port6, "default", "web", true, "from itself");
    // A pod is never kept from itself, and the node (a probe, the runtime) not from its pods.
    assert!(net.reaches("default", "web", &port));
    let probe = std::net::TcpStream::connect(&port);
    assert!(probe.is_ok(), "{probe:?}");
    // The name server is the node's.
    let (found, _) = net.line.shell(
        "default",
        "client",
        "busybox nslookup web.default.svc.cluster.local",
    );
    assert!(found, "names resolve under default deny");

    // By a Service, a named port and both ends' leave.
    net.policy(
        "web",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]}",
    );
    assert!(
        !net.reaches("default", "client", "web"),
        "egress is still shut"
    );
    net.policy(
        "client",
        "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}",
    );
    net.becomes("an allowed connection", "default", "client", "web", true);
    assert!(
        !net.reaches("default", "client", &other),
        "a port that is not allowed"
    );
    assert!(
        !net.reaches("ops", "monitor", &port),
        "a namespace that is not allowed"
    );

    over6(&port6, "default", "client", true, "an allowed connection");
    over6(&port6, "ops", "monitor", false, "another namespace");

    // A new pod is guarded before its first process runs.
    let new = format!(
        "for n in 1 2 3; do busybox timeout 2 wget -q -O - http://{other}/ && echo open > /leak; done; touch /done; sleep 100000"
    );
    net.line.apply(&pod("default", "new", "client", &new));
    wait_until("its tries", PATIENCE, || {
        net.line.shell("default", "new", "test -e /done").0
    });
    assert!(
        !net.line.shell("default", "new", "test -e /leak").0,
        "it got through"
    );

    net.policy(
        "block",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 9000, endPort: 9100}]}]}",
    );
    net.becomes(
        "a block of addresses and a range of ports",
        "ops",
        "monitor",
        &other,
        true,
    );
    assert!(!net.reaches("ops", "monitor", &port));
    over6(&other6, "ops", "monitor", false, "a block of IPv4");
    net.policy(
        "block",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}], ports: [{port: 9090}]}]}",
    );
    net.becomes("a block of IPv6 alone", "ops", "monitor", &other, false);
    over6(&other6, "ops", "monitor", true, "a block of IPv6");

    for name in ["deny", "web", "client", "block"] {
        net.line.must(&["delete", "networkpolicy", name]);
    }
    net.becomes("an open network again", "ops", "monitor", &port, true);
    let table = format!("{}-policy", net.line.table());
    wait_until("no table", PATIENCE, || {
        !nft(&["list", "tables"]).contains(&table)
    });
    an_orderly_end_leaves_services_and_nothing_of_the_process(&mut net);
}

fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(arguments).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

/// The ports of a process that has ended are anybody's.
fn an_orderly_end_leaves_services_and_nothing_of_the_process(net: &mut Net) {
    let name = net.line.table();
    let table = || nft(&["list", "table", "inet", &name]);
    assert!(table().contains("chain api_only"));
    let address = net
        .line
        .get(&["service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let answers = || std::net::TcpStream::connect(format!("{address}:80")).is_ok();
    assert!(answers(), "the Service");
    net.line.stop_pods();
    let left = table();
    assert!(
        !left.contains("redirect") && !left.contains("_only"),
        "{left}"
    );
    assert!(left.contains(&address) && answers(), "{left}");
    net.line.start_pods();
    assert!(answers(), "after the next start");
}
