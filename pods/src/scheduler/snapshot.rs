//! What a scheduling decision sees: nodes, and what the pods on them take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::quantity;
use crate::resources::{Resources, pod_requests};

/// Kube-scheduler's assumption for a container that requests nothing, used in scores alone.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A host port as a pod asks for it: address (empty for all), protocol, port.
pub type HostPort = (String, String, i32);

/// A pod with what a decision needs of it computed once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its requests.
    pub requests: Resources,
    /// CPU and memory with defaults for what is not said: (thousandths, bytes).
    pub scored: (i64, i64),
    /// Its host ports.
    pub ports: Vec<HostPort>,
}

impl PodInfo {
    /// Computes what a decision needs of `pod`.
    pub fn new(pod: Pod) -> Self {
        let pod = Arc::new(pod);
        let requests = pod.spec.as_ref().map(pod_requests).unwrap_or_default();
        let or = |asked: i64, default: i64| if asked == 0 { default } else { asked };
        let scored = (
            or(requests.milli_cpu, DEFAULT_MILLI_CPU),
            or(requests.memory, DEFAULT_MEMORY),
        );
        let ports = host_ports(&pod);
        Self {
            pod,
            requests,
            scored,
            ports,
        }
    }

    /// Name of the node the pod is bound to, if any.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.pod.spec.as_ref()?.node_name.as_deref()?;
        (!name.is_empty()).then_some(name)
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return vec![] };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| crate::resources::is_sidecar(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|p| *p > 0)?;
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0");
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((ip.unwrap_or_default(), protocol, host_port))
        })
        .collect()
}

/// A node and what its pods take.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The object.
    pub node: Arc<Node>,
    /// What it can give.
    pub allocatable: Resources,
    /// How many pods it can run.
    pub max_pods: i64,
    /// The sum of its pods' requests.
    pub requested: Resources,
    /// The sum of its pods' [`PodInfo::scored`].
    pub scored: (i64, i64),
    /// How many pods it has.
    pub pods: i64,
    /// Host ports in use.
    pub ports: BTreeSet<HostPort>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Node) -> Self {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let max_pods = allocatable
            .and_then(|map| map.get("pods"))
            .and_then(quantity::value)
            .unwrap_or(0);
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Resources::read(allocatable),
            max_pods,
            requested: Resources::default(),
            scored: (0, 0),
            pods: 0,
            ports: BTreeSet::new(),
            node: Arc::new(node),
        }
    }

    /// Counts `pod` as running here.
    pub fn add(&mut self, pod: &PodInfo) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.pods += 1;
        self.ports.extend(pod.ports.iter().cloned());
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }
}

/// Everything a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes by name, in order.
    pub nodes: Vec<NodeInfo>,
}

impl Snapshot {
    /// Puts `pods` that are bound and not finished onto their nodes.
    pub fn new(
        nodes: impl IntoIterator<Item = Node>,
        pods: impl IntoIterator<Item = PodInfo>,
    ) -> Self {
        let mut by_name: BTreeMap<String, NodeInfo> = nodes
            .into_iter()
            .map(NodeInfo::new)
            .map(|info| (info.name.clone(), info))
            .collect();
        for pod in pods.into_iter().filter(|p| !finished(&p.pod)) {
            if let Some(node) = pod.node_name().and_then(|name| by_name.get_mut(name)) {
                node.add(&pod);
            }
        }
        Self {
            nodes: by_name.into_values().collect(),
        }
    }
}

/// Whether the pod has ended for good and takes nothing any more.
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
