//! From Services and EndpointSlices to a table of nftables, as data and then as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::controllers::endpoints::SERVICE_NAME;

/// Where a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// A pod's address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
}

/// One port of a Service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `namespace/name:port`, for people.
    pub name: String,
    /// The Service's addresses of this family.
    pub addresses: Vec<IpAddr>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The port on every address of the node, if any.
    pub node_port: Option<u16>,
    /// Whether a client comes to the same endpoint each time.
    pub sticky: bool,
    /// Endpoints that take connections.
    pub backends: Vec<Backend>,
}

/// The name server of the cluster: its address among the Services', and the port of the node that
/// this process answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// What pods find in their resolv.conf; no interface has it.
    pub address: Ipv4Addr,
    /// Over UDP and TCP, on all addresses of the node.
    pub port: u16,
}

/// An address among the Services' that this process answers at itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Of the chains: `dns`, `api`.
    pub name: &'static str,
    /// What pods are told; no interface has it.
    pub address: Ipv4Addr,
    /// The port of that address.
    pub asked: u16,
    /// The port that this process listens on, on all addresses of the node.
    pub port: u16,
}

impl From<NameServer> for Own {
    fn from(dns: NameServer) -> Self {
        Self {
            name: "dns",
            address: dns.address,
            asked: 53,
            port: dns.port,
        }
    }
}

/// Every port of every Service that has an address.
pub fn ports(services: &[Service], slices: &[EndpointSlice]) -> Vec<Port> {
    let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let name = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(SERVICE_NAME));
        if let Some(name) = name {
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            by_service
                .entry((namespace, name.clone()))
                .or_default()
                .push(slice);
        }
    }
    let mut all: Vec<Port> = Vec::new();
    for service in services {
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = service.metadata.name.clone().unwrap_or_default();
        let key = (namespace, name);
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        of_service(service, &format!("{}/{}", key.0, key.1), slices, &mut all);
    }
    all.sort_by(|a, b| (&a.name, &a.addresses).cmp(&(&b.name, &b.addresses)));
    all
}

fn of_service(service: &Service, name: &str, slices: &[&EndpointSlice], all: &mut Vec<Port>) {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let own = spec
        .cluster_ips
        .unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    let mut addresses: Vec<IpAddr> = own.iter().filter_map(parse).collect();
    if addresses.is_empty() {
        return;
    }
    addresses.extend(spec.external_ips.iter().flatten().filter_map(parse));
    let ingress = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = ingress
        .and_then(|b| b.ingress.as_ref())
        .into_iter()
        .flatten();
    addresses.extend(ingress.filter_map(|i| i.ip.as_ref().and_then(parse)));
    addresses.sort_unstable();
    addresses.dedup();
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => "udp",
            Some("SCTP") => "sctp",
            _ => "tcp",
        };
        let Ok(number) = u16::try_from(port.port) else {
            continue;
        };
        let port_name = port.name.as_deref().unwrap_or_default();
        for six in [false, true] {
            let mine: Vec<IpAddr> = addresses
                .iter()
                .copied()
                .filter(|a| a.is_ipv6() == six)
                .collect();
            if mine.is_empty() {
                continue;
            }
            all.push(Port {
                name: format!("{name}:{number}/{protocol}"),
                addresses: mine,
                protocol,
                port: number,
                node_port: port
                    .node_port
                    .and_then(|p| u16::try_from(p).ok())
                    .filter(|p| *p > 0),
                sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
                backends: backends(slices, port_name, six),
            });
        }
    }
}

/// Ready endpoints; where there are none, those that still serve while they end.
fn backends(slices: &[&EndpointSlice], port: &str, six: bool) -> Vec<Backend> {
    let family = if six { "IPv6" } else { "IPv4" };
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices.iter().filter(|s| s.address_type == family) {
        let mut ports = slice.ports.iter().flatten();
        let found = ports.find(|p| p.name.as_deref().unwrap_or_default() == port);
        let number = found
            .and_then(|p| p.port)
            .and_then(|p| u16::try_from(p).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
            let list = match state(endpoint) {
                State::Ready => &mut ready,
                State::Ending => &mut ending,
                State::Away => continue,
            };
            list.extend(addresses.map(|ip| Backend { ip, port: number }));
        }
    }
    let mut chosen = if ready.is_empty() { ending } else { ready };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

enum State {
    Ready,
    Ending,
    Away,
}

fn state(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    match (conditions.ready, conditions.serving, conditions.terminating) {
        (None | Some(true), _, _) => State::Ready,
        (_, Some(true), Some(true)) => State::Ending,
        _ => State::Away,
    }
}

/// The text of the table for these Services; `None` where no table is needed.
pub fn plan(
    table: &str,
    services: &[Service],
    slices: &[EndpointSlice],
    own: &[Own],
) -> Option<String> {
    let ports = ports(services, slices);
    (!ports.is_empty() || !own.is_empty()).then(|| script(table, &ports, own))
}

/// The text that replaces the table by one with these ports, in one transaction.
pub fn script(table: &str, ports: &[Port], own: &[Own]) -> String {
    let mut out =
        format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for six in [false, true] {
        let mine: Vec<&Port> = ports
            .iter()
            .filter(|p| p.addresses[0].is_ipv6() == six)
            .collect();
        family(&mut out, six, &mine);
    }
    for port in ports {
        chains(&mut out, port);
    }
    let base = BASE.replace("\n    ", "\n  ");
    out.push_str(&base);
    for own in own {
        redirect(&mut out, *own);
    }
    out.push_str("}\n");
    out
}

/// Leads questions to this process. It listens on all addresses of the node, so what did not come
/// by the cluster's address is dropped: the node is nobody else's name server.
fn redirect(out: &mut String, own: Own) {
    let Own {
        name,
        address,
        asked,
        port,
    } = own;
    let lead = format!(
        "ip daddr {address} meta l4proto {{ tcp, udp }} th dport {asked} redirect to :{port}"
    );
    let _ = write!(
        out,
        "  chain {name}_arriving {{\n    type nat hook prerouting priority dstnat; policy accept;\n    {lead}\n  }}\n  \
         chain {name}_local {{\n    type nat hook output priority -100; policy accept;\n    {lead}\n  }}\n  \
         chain {name}_only {{\n    type filter hook input priority filter; policy accept;\n    \
         meta l4proto {{ tcp, udp }} th dport {port} ct original ip daddr != {address} drop\n  }}\n"
    );
}

const BASE: &str = "\
  chain services {
    ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6
    fib daddr type local meta l4proto . th dport vmap @nodeports4
    fib daddr type local meta l4proto . th dport vmap @nodeports6
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto { tcp, udp, sctp } jump services
  }
  chain local {
    type nat hook output priority -100; policy accept;
    meta l4proto { tcp, udp, sctp } jump services
  }
  chain unserved {
    ip daddr @addresses4 reject
    ip6 daddr @addresses6 reject
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state new jump unserved
  }
  chain output {
    type filter hook output priority filter; policy accept;
    ct state new jump unserved
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x00004000 == 0x00004000 meta mark set meta mark & 0xffffbfff masquerade
  }
";

fn family(out: &mut String, six: bool, ports: &[&Port]) {
    let (digit, kind) = if six {
        ('6', "ipv6_addr")
    } else {
        ('4', "ipv4_addr")
    };
    let mut addresses: Vec<String> = ports
        .iter()
        .flat_map(|p| &p.addresses)
        .map(ToString::to_string)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let served = ports.iter().filter(|p| !p.backends.is_empty());
    let (mut services, mut nodes) = (Vec::new(), Vec::new());
    for port in served {
        let (protocol, number, chain) = (port.protocol, port.port, chain(port));
        for address in &port.addresses {
            services.push(format!("{address} . {protocol} . {number} : goto {chain}"));
        }
        if let Some(node) = port.node_port {
            nodes.push(format!("{protocol} . {node} : goto {chain}"));
        }
    }
    let key = format!("{kind} . inet_proto . inet_service : verdict");
    collection(out, "set", &format!("addresses{digit}"), kind, &addresses);
    collection(out, "map", &format!("services{digit}"), &key, &services);
    let key = "inet_proto . inet_service : verdict";
    collection(out, "map", &format!("nodeports{digit}"), key, &nodes);
}

fn collection(out: &mut String, what: &str, name: &str, kind: &str, elements: &[String]) {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\n    elements = {{ {} }}", elements.join(",\n      "))
    };
    let _ = writeln!(out, "  {what} {name} {{\n    type {kind}{elements}\n  }}");
}

/// The chain of a port: its name says nothing but is the same each time.
fn chain(port: &Port) -> String {
    let six = if port.addresses[0].is_ipv6() { "6" } else { "" };
    format!(
        "svc-{}{six}",
        crate::controllers::objects::short_hash(&port.name)
    )
}

/// A chain that chooses an endpoint, and one for each endpoint.
fn chains(out: &mut String, port: &Port) {
    let count = port.backends.len();
    if count == 0 {
        return;
    }
    let name = chain(port);
    let family = if port.addresses[0].is_ipv6() {
        "ip6"
    } else {
        "ip"
    };
    let choice = if port.sticky {
        format!("jhash {family} saddr mod {count}")
    } else {
        format!("numgen inc mod {count}")
    };
    for (index, backend) in port.backends.iter().enumerate() {
        let Backend { ip, port: number } = backend;
        let target = if ip.is_ipv6() {
            format!("[{ip}]:{number}")
        } else {
            format!("{ip}:{number}")
        };
        let protocol = port.protocol;
        // An endpoint that comes to itself gets the answer from where it asked, not from itself.
        let _ = writeln!(
            out,
            "  chain {name}-{index} {{\n    {family} saddr {ip} meta mark set meta mark | 0x00004000\n    \
             meta l4proto {protocol} dnat {family} to {target}\n  }}"
        );
    }
    let to: Vec<String> = (0..count)
        .map(|i| format!("{i} : goto {name}-{i}"))
        .collect();
    let _ = writeln!(
        out,
        "  chain {name} {{ comment \"{}\"\n    {choice} vmap {{ {} }}\n  }}",
        port.name,
        to.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

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
        let text = plan("t", &[service(json!({}))], &[slice(endpoints)], &[]).unwrap();
        assert!(text.contains("10.96.0.7 . tcp . 80 : goto svc-"));
        assert!(text.contains("numgen inc mod 2 vmap"));
        assert!(text.contains("dnat ip to 10.1.0.2:8080") && !text.contains("10.1.0.4"));
    }

    #[test]
    fn endpoints_that_end_serve_when_no_other_does() {
        let endpoints = json!([endpoint("10.1.0.4", false, true, true)]);
        let found = ports(&[service(json!({}))], &[slice(endpoints)]);
        assert_eq!(found[0].backends.len(), 1);
    }

    #[test]
    fn without_endpoints_the_address_refuses() {
        let text = plan("t", &[service(json!({}))], &[], &[]).unwrap();
        assert!(!text.contains("goto svc-") && text.contains("elements = { 10.96.0.7 }"));
    }

    #[test]
    fn headless_and_external_names_need_no_rules() {
        let headless = service(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
        let external = service(json!({"spec": {"type": "ExternalName"}}));
        assert_eq!(plan("t", &[headless, external], &[], &[]), None);
    }

    #[test]
    fn the_name_server_answers_by_its_cluster_address_alone() {
        let dns = NameServer {
            address: Ipv4Addr::new(10, 96, 0, 10),
            port: 5301,
        };
        let text = plan("t", &[], &[], &[dns.into()]).unwrap();
        let redirect =
            "ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 53 redirect to :5301";
        assert_eq!(text.matches(redirect).count(), 2, "{text}");
        assert!(text.contains("th dport 5301 ct original ip daddr != 10.96.0.10 drop"));
    }

    #[test]
    fn affinity_and_node_ports() {
        let with = json!({"spec": {"sessionAffinity": "ClientIP", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
        let endpoints = json!([endpoint("10.1.0.2", true, true, false)]);
        let text = plan("t", &[service(with)], &[slice(endpoints)], &[]).unwrap();
        assert!(text.contains("jhash ip saddr mod 1") && text.contains("tcp . 30080 : goto svc-"));
    }
}
