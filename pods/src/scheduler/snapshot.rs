//! What a scheduling decision sees: nodes, and what the pods on them take.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod};

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
    /// Whether it has terms about other pods, which concern pods that come after it.
    pub has_affinity: bool,
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
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let has_affinity =
            affinity.is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some());
        Self {
            pod,
            requests,
            scored,
            ports,
            has_affinity,
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> (&str, &str) {
        let meta = &self.pod.metadata;
        (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }

    /// Its priority.
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
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
    /// Its pods.
    pub list: Vec<Arc<PodInfo>>,
    /// Sizes of the images that it has, by name.
    pub images: BTreeMap<String, i64>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Node) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        let max_pods = allocatable
            .and_then(|map| map.get("pods"))
            .and_then(quantity::value)
            .unwrap_or(0);
        let images = status.and_then(|s| s.images.as_ref()).into_iter().flatten();
        let images = images.flat_map(|i| {
            let size = i.size_bytes.unwrap_or(0);
            i.names.iter().flatten().map(move |n| (n.clone(), size))
        });
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Resources::read(allocatable),
            max_pods,
            requested: Resources::default(),
            scored: (0, 0),
            pods: 0,
            ports: BTreeSet::new(),
            list: Vec::new(),
            images: images.collect(),
            node: Arc::new(node),
        }
    }

    /// Counts `pod` as running here.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.pods += 1;
        self.ports.extend(pod.ports.iter().cloned());
        self.list.push(pod);
    }

    /// Counts the pod as running here no more.
    pub fn remove(&mut self, key: (&str, &str)) -> Option<Arc<PodInfo>> {
        let at = self.list.iter().position(|p| p.key() == key)?;
        let pod = self.list.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        self.pods -= 1;
        for port in &pod.ports {
            self.ports.remove(port);
        }
        Some(pod)
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }

    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }
}

/// A claim as a decision sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// It has a volume, which may be had on these nodes.
    Bound(Option<NodeSelector>),
    /// It gets one once a pod names it.
    Waits,
    /// It should have one by now.
    Unbound,
}

/// Everything a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes, in the order in which they came.
    pub nodes: Vec<NodeInfo>,
    /// Labels of namespaces, for terms that select by them.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Claims by namespace and name.
    pub claims: BTreeMap<(String, String), Claim>,
    /// Pods that wait for room that was made for them, and the node where.
    pub nominated: BTreeMap<(String, String), (String, Arc<PodInfo>)>,
    /// Where the next search begins: every node has its turn.
    pub start: usize,
    /// How many pods have terms about other pods.
    pub with_affinity: usize,
    index: HashMap<String, usize>,
}

impl Snapshot {
    /// Puts `pods` that are bound and not finished onto their nodes.
    pub fn new(
        nodes: impl IntoIterator<Item = Node>,
        pods: impl IntoIterator<Item = PodInfo>,
    ) -> Self {
        let mut world = Self::default();
        for node in nodes {
            world.put_node(node);
        }
        for pod in pods.into_iter().filter(|p| !finished(&p.pod)) {
            world.place(Arc::new(pod));
        }
        world
    }

    /// Adds a node, or takes its new state; its pods stay.
    pub fn put_node(&mut self, node: Node) {
        let mut info = NodeInfo::new(node);
        if let Some(at) = self.index.get(&info.name) {
            for pod in std::mem::take(&mut self.nodes[*at].list) {
                info.add(pod);
            }
            self.nodes[*at] = info;
        } else {
            self.index.insert(info.name.clone(), self.nodes.len());
            self.nodes.push(info);
        }
    }

    /// Removes a node and forgets its pods.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else {
            return;
        };
        let gone = self.nodes.remove(at);
        self.with_affinity -= gone.list.iter().filter(|p| p.has_affinity).count();
        for index in self.index.values_mut().filter(|i| **i > at) {
            *index -= 1;
        }
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(*self.index.get(name)?)
    }

    /// The same, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.nodes.get_mut(*self.index.get(name)?)
    }

    /// Puts a bound pod onto its node; nothing happens where there is no such node.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        let Some(name) = pod.node_name().map(str::to_owned) else {
            return;
        };
        let counts = usize::from(pod.has_affinity);
        if let Some(node) = self.node_mut(&name) {
            node.add(pod);
            self.with_affinity += counts;
        }
    }

    /// Takes a pod from its node.
    pub fn displace(&mut self, pod: &PodInfo) {
        let Some(node) = pod.node_name().and_then(|n| self.node_mut(n)) else {
            return;
        };
        if node.remove(pod.key()).is_some() {
            self.with_affinity -= usize::from(pod.has_affinity);
        }
    }
}

/// Whether the pod has ended for good and takes nothing any more.
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
