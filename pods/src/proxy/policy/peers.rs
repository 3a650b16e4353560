//! The pods that policies speak of, and the addresses that a rule's peers come to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
pub use k8s_openapi::api::networking::v1::NetworkPolicyPeer as Peer;

use super::cidr::{Cidr, Range, merged};
use crate::controllers::objects::selects;
use crate::scheduler::snapshot::finished;

type Labels = BTreeMap<String, String>;

/// A pod with addresses of its own.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Ports with a name.
    pub ports: Vec<Named>,
}

/// A container's port that has a name.
#[derive(Debug, Clone)]
pub struct Named {
    /// The name.
    pub name: String,
    /// As nft calls it.
    pub protocol: &'static str,
    /// The container's port.
    pub number: u16,
}

/// Everybody whom a policy may select or name.
#[derive(Debug, Clone, Default)]
pub struct World {
    members: Vec<Member>,
    namespaces: BTreeMap<String, Labels>,
}

impl World {
    /// `early` has addresses, by the pod's uid, that its status does not tell yet.
    pub fn new(
        pods: &[Pod],
        namespaces: &[Namespace],
        early: &BTreeMap<String, Vec<IpAddr>>,
    ) -> Self {
        let members = pods.iter().filter_map(|pod| member(pod, early)).collect();
        let labels = namespaces.iter().map(|ns| {
            let meta = ns.metadata.clone();
            let labels = meta.labels.unwrap_or_default();
            (meta.name.unwrap_or_default(), labels)
        });
        Self {
            members,
            namespaces: labels.collect(),
        }
    }

    /// Every pod with addresses of its own.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The addresses that the peers of a rule of a policy in `namespace` have; `None` is everybody,
    /// which no peers mean.
    pub fn peers(&self, namespace: &str, peers: &[Peer]) -> Option<Vec<Range>> {
        if peers.is_empty() {
            return None;
        }
        let all = peers.iter().flat_map(|peer| self.peer(namespace, peer));
        Some(merged(all.collect()))
    }

    fn peer(&self, namespace: &str, peer: &Peer) -> Vec<Range> {
        if let Some(block) = &peer.ip_block {
            let except = block.except.iter().flatten();
            let except: Vec<Cidr> = except.filter_map(|e| e.parse().ok()).collect();
            let whole = block.cidr.parse::<Cidr>();
            return whole.map(|w| w.without(&except)).unwrap_or_default();
        }
        let there = |m: &&Member| match &peer.namespace_selector {
            None => m.namespace == namespace,
            Some(selector) => {
                let labels = self.namespaces.get(&m.namespace);
                labels.is_some() && selects(selector, labels)
            }
        };
        let chosen = |m: &&Member| {
            let selector = peer.pod_selector.as_ref();
            selector.is_none_or(|s| selects(s, Some(&m.labels)))
        };
        let mine = self.members.iter().filter(there).filter(chosen);
        mine.flat_map(|m| m.ips.iter().map(|ip| Range::from(*ip)))
            .collect()
    }
}

fn member(pod: &Pod, early: &BTreeMap<String, Vec<IpAddr>>) -> Option<Member> {
    let spec = pod.spec.as_ref()?;
    if finished(pod) || spec.host_network == Some(true) {
        return None;
    }
    let told = pod.status.as_ref().and_then(|s| s.pod_ips.as_ref());
    let mut ips: Vec<IpAddr> = told
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    ips.extend(early.get(uid).into_iter().flatten());
    ips.sort_unstable();
    ips.dedup();
    let init = spec.init_containers.iter().flatten();
    let containers = init.chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let ports = ports.filter_map(|p| {
        Some(Named {
            name: p.name.clone().filter(|n| !n.is_empty())?,
            protocol: super::protocol(p.protocol.as_deref()),
            number: u16::try_from(p.container_port).ok()?,
        })
    });
    (!ips.is_empty()).then(|| Member {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ips,
        ports: ports.collect(),
    })
}
