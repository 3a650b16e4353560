//! Services of type LoadBalancer: the node's own address is theirs, each port of it once.
//!
//! A port that the machine uses itself is never given away: not one that a program listens on, nor
//! one of the API or of Ingress, nor a port of a node or of a host that others have. Such a Service
//! waits, and an event says for what.

mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, Service};

pub use sockets::{Listening, listening};

/// What a Service asks for: `TCP` or another protocol, and the port.
pub type Wish = (String, u16);

/// What is taken by others.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Sockets that programs of the machine listen on.
    pub listening: Vec<Listening>,
    /// Ports that are this process's, whether it listens now or not.
    pub reserved: Vec<u16>,
}

/// What a Service gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// None, and why.
    Waits(String),
    /// It is no balancer of ours.
    NotOurs,
}

/// Whether the Service wants a balancer, and no other one than this.
pub fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let ours = spec.is_some_and(|s| {
        s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none()
    });
    ours && service.metadata.deletion_timestamp.is_none()
}

/// The ports that it asks for.
pub fn wishes(service: &Service) -> Vec<Wish> {
    let all = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let wish = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((protocol, u16::try_from(port.port).ok()?))
    };
    all.filter_map(wish).collect()
}

fn called(service: &Service) -> String {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let meta = &service.metadata;
    format!("{}/{}", text(&meta.namespace), text(&meta.name))
}

/// When it came, and what it is called: who is first keeps a port.
fn order(service: &Service) -> (Option<jiff::Timestamp>, String) {
    let since = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (since, called(service))
}

/// What one Service gets, of all that there are.
pub fn give(
    service: &Service,
    services: &[Service],
    pods: &[Pod],
    nodes: &[IpAddr],
    taken: &Taken,
) -> Given {
    if !wants(service) {
        return Given::NotOurs;
    }
    let addresses = of_families(service, nodes);
    if addresses.is_empty() {
        return Given::Waits("the node has no address of the Service's families".to_owned());
    }
    let conflict = wishes(service)
        .into_iter()
        .find_map(|wish| conflict(&wish, service, services, pods, &addresses, taken));
    match conflict {
        Some(why) => Given::Waits(why),
        None => Given::Addresses(addresses),
    }
}

/// The node's addresses that the Service has endpoints for.
fn of_families(service: &Service, nodes: &[IpAddr]) -> Vec<IpAddr> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone());
    let families = families.unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let fits = |ip: &&IpAddr| {
        let name = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        families.iter().any(|f| f == name)
    };
    nodes.iter().filter(fits).copied().collect()
}

/// Who has a port already.
fn conflict(
    wish: &Wish,
    service: &Service,
    services: &[Service],
    pods: &[Pod],
    addresses: &[IpAddr],
    taken: &Taken,
) -> Option<String> {
    let (protocol, port) = wish;
    if protocol == "TCP" && taken.reserved.contains(port) {
        return Some(format!(
            "port {port}/{protocol} is that of the API or of Ingress"
        ));
    }
    let mut listening = taken.listening.iter();
    if listening.any(|l| l.protocol == protocol && l.port == *port && l.covers(addresses)) {
        return Some(format!(
            "a program of the machine listens on port {port}/{protocol}"
        ));
    }
    let earlier = |s: &&Service| wants(s) && order(s) < order(service);
    let mut earlier = services.iter().filter(earlier);
    if let Some(other) = earlier.find(|s| wishes(s).contains(wish)) {
        let other = called(other);
        return Some(format!("Service {other} has port {port}/{protocol}"));
    }
    if let Some(other) = services.iter().find(|s| has_node_port(s, wish)) {
        let other = called(other);
        return Some(format!(
            "port {port}/{protocol} is a node port of Service {other}"
        ));
    }
    let pod = pods.iter().find(|p| has_host_port(p, wish))?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let name = format!(
        "{}/{}",
        text(&pod.metadata.namespace),
        text(&pod.metadata.name)
    );
    Some(format!("pod {name} has host port {port}/{protocol}"))
}

fn has_node_port(service: &Service, (protocol, port): &Wish) -> bool {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports.into_iter().any(|p| {
        p.node_port == Some(i32::from(*port)) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    })
}

fn has_host_port(pod: &Pod, (protocol, port): &Wish) -> bool {
    if crate::scheduler::snapshot::finished(pod) {
        return false;
    }
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports.any(|p| {
        p.host_port == Some(i32::from(*port)) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    })
}

/// The addresses of the nodes that others reach them by.
pub fn node_addresses(nodes: &[Node]) -> Vec<IpAddr> {
    let all = nodes
        .iter()
        .filter_map(|n| n.status.as_ref()?.addresses.as_ref())
        .flatten();
    let mut all: Vec<IpAddr> = all
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse().ok())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is told of each Service, so that it is told once.
pub type Told = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, kind: &str, port: i32) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-11-21T10:00:00Z"},
            "spec": {"type": kind, "ports": [{"port": port, "protocol": "TCP", "nodePort": 30000 + port}]}})).unwrap()
    }

    fn node() -> Vec<IpAddr> {
        vec!["10.0.0.1".parse().unwrap()]
    }

    fn waits(service: &Service, all: &[Service], taken: &Taken) -> Option<String> {
        match give(service, all, &[], &node(), taken) {
            Given::Waits(why) => Some(why),
            _ => None,
        }
    }

    #[test]
    fn who_comes_first_has_the_port() {
        let first = service("a", "LoadBalancer", 8000);
        let second = service("b", "LoadBalancer", 8000);
        let other = service("c", "LoadBalancer", 8001);
        let plain = service("0", "ClusterIP", 8000);
        let all = [first.clone(), second.clone(), other.clone(), plain.clone()];
        let none = Taken::default();
        assert_eq!(
            give(&first, &all, &[], &node(), &none),
            Given::Addresses(node())
        );
        assert_eq!(
            waits(&second, &all, &none).unwrap(),
            "Service default/a has port 8000/TCP"
        );
        assert_eq!(waits(&other, &all, &none), None);
        assert_eq!(give(&plain, &all, &[], &node(), &none), Given::NotOurs);
        assert_eq!(waits(&second, std::slice::from_ref(&second), &none), None);
    }

    #[test]
    fn what_the_machine_listens_on_is_never_shadowed() {
        let on = |address: &str, protocol| Taken {
            listening: vec![Listening {
                protocol,
                address: address.parse().unwrap(),
                port: 22,
            }],
            reserved: vec![6443],
        };
        let ssh = service("ssh", "LoadBalancer", 22);
        let is_taken = |taken: &Taken| waits(&ssh, std::slice::from_ref(&ssh), taken).is_some();
        assert!(is_taken(&on("0.0.0.0", "TCP")));
        assert!(is_taken(&on("::", "TCP")));
        assert!(is_taken(&on("10.0.0.1", "TCP")));
        assert!(is_taken(&on("::ffff:10.0.0.1", "TCP")));
        assert!(
            !is_taken(&on("127.0.0.1", "TCP")),
            "the loopback is not led anywhere"
        );
        assert!(!is_taken(&on("0.0.0.0", "UDP")));
        let api = service("api", "LoadBalancer", 6443);
        assert!(waits(&api, std::slice::from_ref(&api), &on("::", "UDP")).is_some());
    }

    #[test]
    fn node_ports_and_host_ports_are_others() {
        let wants = service("a", "LoadBalancer", 30080);
        let node_port = service("b", "NodePort", 80);
        let why = waits(&wants, &[wants.clone(), node_port], &Taken::default());
        assert_eq!(
            why.unwrap(),
            "port 30080/TCP is a node port of Service default/b"
        );
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "x"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 30080}]}]}})).unwrap();
        let given = give(
            &wants,
            std::slice::from_ref(&wants),
            &[pod],
            &node(),
            &Taken::default(),
        );
        assert_eq!(
            given,
            Given::Waits("pod x/p has host port 30080/TCP".to_owned())
        );
    }
}
