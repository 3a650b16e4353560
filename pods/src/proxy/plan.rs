//! From Services and EndpointSlices to what the table of nftables is to do, as data.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::script::script;
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
    /// The Service's addresses of this family that only the machine and its pods know.
    pub addresses: Vec<IpAddr>,
    /// Those that others know: external ones, and a load balancer's.
    pub external: Vec<IpAddr>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The port on every address of the node, if any.
    pub node_port: Option<u16>,
    /// Whether a client comes to the same endpoint each time.
    pub sticky: bool,
    /// Endpoints that take connections of the machine and its pods.
    pub backends: Vec<Backend>,
    /// Endpoints that take those of others, where they are not the same (a policy of Local).
    pub outside: Option<Vec<Backend>>,
}

/// The name server of the cluster: its address among the Services', and the port of the node that
/// this process answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// What pods find in their resolv.conf; no interface has it.
    pub address: Ipv4Addr,
    /// Over UDP and TCP, on all addresses of the node.
    pub port: u16,
    /// Whether its sockets bear [`MARK`](super::mark::MARK).
    pub marked: bool,
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
    /// Whether its sockets there bear [`MARK`](super::mark::MARK).
    pub marked: bool,
}

impl From<NameServer> for Own {
    fn from(dns: NameServer) -> Self {
        Self {
            name: "dns",
            address: dns.address,
            asked: 53,
            port: dns.port,
            marked: dns.marked,
        }
    }
}

/// Every port of every Service that has an address. A policy of Local leads to endpoints of `node`
/// alone.
pub fn ports(services: &[Service], slices: &[EndpointSlice], node: &str) -> Vec<Port> {
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
        let name = format!("{}/{}", key.0, key.1);
        of_service(service, &name, slices, node, &mut all);
    }
    all.sort_by(|a, b| (&a.name, &a.addresses).cmp(&(&b.name, &b.addresses)));
    all
}

fn of_service(
    service: &Service,
    name: &str,
    slices: &[&EndpointSlice],
    node: &str,
    all: &mut Vec<Port>,
) {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let (own, external) = addresses(service);
    if own.is_empty() {
        return;
    }
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let (inside, outside) = (
        local(&spec.internal_traffic_policy).then_some(node),
        local(&spec.external_traffic_policy).then_some(node),
    );
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
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok());
        for six in [false, true] {
            let of = |list: &[IpAddr]| -> Vec<IpAddr> {
                list.iter()
                    .copied()
                    .filter(|a| a.is_ipv6() == six)
                    .collect()
            };
            let (addresses, external) = (of(&own), of(&external));
            if addresses.is_empty() {
                continue;
            }
            let backends = |at| backends_at(slices, port_name, six, at);
            all.push(Port {
                name: format!("{name}:{number}/{protocol}"),
                addresses,
                external,
                protocol,
                port: number,
                node_port: node_port.filter(|p| *p > 0),
                sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
                backends: backends(inside),
                outside: (inside != outside).then(|| backends(outside)),
            });
        }
    }
}

/// A Service's own addresses, and those that others know.
fn addresses(service: &Service) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let spec = service.spec.clone().unwrap_or_default();
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    let own = spec
        .cluster_ips
        .unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
    let balancer = service.status.as_ref();
    let balancer = balancer.and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let balancer = balancer.into_iter().flatten().filter_map(|i| i.ip.as_ref());
    let external = spec.external_ips.iter().flatten().chain(balancer);
    let tidy = |mut list: Vec<IpAddr>| {
        list.sort_unstable();
        list.dedup();
        list
    };
    (
        tidy(own.iter().filter_map(parse).collect()),
        tidy(external.filter_map(parse).collect()),
    )
}

/// Ready endpoints; where there are none, those that still serve while they end.
pub fn backends(slices: &[&EndpointSlice], port: &str, six: bool) -> Vec<Backend> {
    backends_at(slices, port, six, None)
}

/// The same on one node only, where one is given.
fn backends_at(
    slices: &[&EndpointSlice],
    port: &str,
    six: bool,
    node: Option<&str>,
) -> Vec<Backend> {
    let family = if six { "IPv6" } else { "IPv4" };
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices.iter().filter(|s| s.address_type == family) {
        let mut ports = slice.ports.iter().flatten();
        let found = ports.find(|p| p.name.as_deref().unwrap_or_default() == port);
        let number = found
            .and_then(|p| p.port)
            .and_then(|p| u16::try_from(p).ok());
        let Some(number) = number else { continue };
        let here = |e: &&Endpoint| node.is_none() || e.node_name.as_deref() == node;
        for endpoint in slice.endpoints.iter().flatten().filter(here) {
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
    node: &str,
) -> Option<String> {
    let ports = ports(services, slices, node);
    (!ports.is_empty() || !own.is_empty()).then(|| script(table, &ports, own))
}
