//! NetworkPolicies: who may begin to speak to a pod, and to whom it may.
//!
//! A pod that no policy selects speaks with everybody. The policies that select a pod add up: what
//! one of them allows is allowed, and nothing else. Both ends must allow a connection; its answers
//! always pass. What comes from the node itself (probes, what an Ingress leads here) and what goes to
//! it (the cluster's name server, the API) passes, as Kubernetes says of a pod's own node; pods of
//! `hostNetwork` are the node.
//!
//! ```text
//! policies, pods, namespaces ─▶ plan: groups of pods, what each allows ─▶ script ─▶ nft
//!
//! forward ─▶ answers: accept ─▶ egress of the source ─▶ ingress of the destination
//! ```
//!
//! The table is one text, loaded in one transaction: no packet sees half of a change.

mod cidr;
mod guard;
mod peers;
mod script;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use cidr::{Cidr, Range, merged};
pub use guard::{Gate, Guard};
pub use peers::{Member, World};
pub use script::script;

use crate::controllers::objects::selects;

/// Of a connection, as the selected pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// Pods that the same policies select in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which way.
    pub direction: Direction,
    /// Their names, for people.
    pub policies: Vec<String>,
    /// The pods' addresses.
    pub pods: Vec<IpAddr>,
    /// Whatever one of these allows is allowed; nothing else is.
    pub allows: Vec<Allow>,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Addresses of the other end; `None` is everybody.
    pub peers: Option<Vec<Range>>,
    /// The destination's ports.
    pub ports: Ports,
}

/// Ports of the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Every port, and what has none.
    pub any: bool,
    /// Whole protocols, by nft's name.
    pub protocols: BTreeSet<&'static str>,
    /// By protocol, from and to.
    pub numbers: BTreeMap<&'static str, BTreeSet<(u16, u16)>>,
    /// What a name means at each destination that has it.
    pub named: BTreeSet<(IpAddr, &'static str, u16)>,
}

impl Ports {
    /// Whether no port is meant: a name that nobody has.
    pub fn none(&self) -> bool {
        !self.any && self.protocols.is_empty() && self.numbers.is_empty() && self.named.is_empty()
    }
}

/// What the policies come to.
pub fn plan(policies: &[NetworkPolicy], world: &World) -> Vec<Group> {
    let mut groups = Vec::new();
    for direction in Direction::ALL {
        let of = |policy: &NetworkPolicy| applies(policy, direction);
        let mine: Vec<&NetworkPolicy> = policies.iter().filter(|p| of(p)).collect();
        // The pods that the same policies select.
        let mut alike: BTreeMap<Vec<usize>, Vec<&Member>> = BTreeMap::new();
        for member in world.members() {
            let chosen: Vec<usize> = (0..mine.len())
                .filter(|i| chooses(mine[*i], member))
                .collect();
            if !chosen.is_empty() {
                alike.entry(chosen).or_default().push(member);
            }
        }
        for (chosen, members) in alike {
            let chosen: Vec<&NetworkPolicy> = chosen.iter().map(|i| mine[*i]).collect();
            groups.push(group(direction, &chosen, &members, world));
        }
    }
    groups
}

/// Whether a policy says something about a direction.
fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    let spec = policy.spec.as_ref();
    let types = spec.and_then(|s| s.policy_types.as_ref());
    let named = |t: &Vec<String>| t.iter().any(|t| t == direction.name());
    // Stored ones have their types filled in.
    types.map_or(direction == Direction::Ingress, named)
}

fn chooses(policy: &NetworkPolicy, member: &Member) -> bool {
    let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
    policy.metadata.namespace.as_deref() == Some(member.namespace.as_str())
        && selector.is_none_or(|s| selects(s, Some(&member.labels)))
}

fn group(
    direction: Direction,
    policies: &[&NetworkPolicy],
    members: &[&Member],
    world: &World,
) -> Group {
    let mut allows = Vec::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        for (peers, ports) in rules(policy, direction) {
            let peers = world.peers(namespace, &peers);
            let to: Vec<&Member> = match direction {
                Direction::Ingress => members.to_vec(),
                Direction::Egress => world.members().iter().collect(),
            };
            let ports = ports_of(&ports, &to);
            let nobody = peers.as_ref().is_some_and(Vec::is_empty);
            let allow = Allow { peers, ports };
            if !nobody && !allow.ports.none() && !allows.contains(&allow) {
                allows.push(allow);
            }
        }
    }
    let mut pods: Vec<IpAddr> = members.iter().flat_map(|m| m.ips.clone()).collect();
    pods.sort_unstable();
    pods.dedup();
    let name = |p: &&NetworkPolicy| {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let meta = &p.metadata;
        format!("{}/{}", text(&meta.namespace), text(&meta.name))
    };
    Group {
        direction,
        policies: policies.iter().map(name).collect(),
        pods,
        allows,
    }
}

type Rule = (Vec<peers::Peer>, Vec<NetworkPolicyPort>);

fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule> {
    let spec = policy.spec.clone().unwrap_or_default();
    match direction {
        Direction::Ingress => {
            let all = spec.ingress.unwrap_or_default().into_iter();
            all.map(|r| (r.from.unwrap_or_default(), r.ports.unwrap_or_default()))
                .collect()
        }
        Direction::Egress => {
            let all = spec.egress.unwrap_or_default().into_iter();
            all.map(|r| (r.to.unwrap_or_default(), r.ports.unwrap_or_default()))
                .collect()
        }
    }
}

fn protocol(name: Option<&str>) -> &'static str {
    match name {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
}

fn ports_of(ports: &[NetworkPolicyPort], destinations: &[&Member]) -> Ports {
    let mut out = Ports {
        any: ports.is_empty(),
        ..Ports::default()
    };
    for port in ports {
        let protocol = protocol(port.protocol.as_deref());
        match &port.port {
            None => drop(out.protocols.insert(protocol)),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                    let numbers = out.numbers.entry(protocol).or_default();
                    numbers.insert((first, last));
                }
            }
            Some(IntOrString::String(name)) => {
                for member in destinations {
                    let same = |p: &&peers::Named| p.name == *name && p.protocol == protocol;
                    for found in member.ports.iter().filter(same) {
                        let all = member.ips.iter().map(|ip| (*ip, protocol, found.number));
                        out.named.extend(all);
                    }
                }
            }
        }
    }
    out
}

/// The groups of what is stored: see [`plan`].
pub fn plan_of(
    policies: &[NetworkPolicy],
    pods: &[Pod],
    namespaces: &[Namespace],
    early: &BTreeMap<String, Vec<IpAddr>>,
) -> Vec<Group> {
    plan(policies, &World::new(pods, namespaces, early))
}
